"""Record a stage's demo, in a language: `python -m labs.docs.record.stage STAGE LANGUAGE FOLDER`.

Runs on a lab host (labhost.py), where it plays the demo as `labrun stageN` does on a machine.
"""

import io
import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from checks.model import axes
from checks.peers import dockerd
from labs import texts
from labs.demo import engine, pages, script, summary
from labs.demo.played import Played
from labs.demo.screen import Screen
from labs.docs.record import html, labhost, measured
from labs.docs.record.normal import Normal
from labs.stages import reference
from labs.texts import say

COLUMNS, LINES = 80, 24
"""The terminal that a page shows a picture of."""
PICTURED = {
    "stage1": "ip-route",
    "stage2": "net",
    "stage3": "cpu",
    "stage4": "delete",
    "stage5": "root",
}
"""Each stage's most telling step."""
TRACED = {
    "stage3": "--memory 64m --cpus 0.5 --pids-limit 64 --net-rate 8mbit",
    "stage4": "--rm",
    "stage5": "--rm -p 8080:80",
}
"""The options with which a stage's run is traced, where it takes any to show what is new."""
CHECKED = "check.json"
"""How a stage's checks ended, for the languages after the first; it is no part of the pages."""
STORING = "stage4"
"""From this stage on a runtime keeps images and containers."""
LIMITING = "stage3"
"""From this stage on a runtime makes control groups, and a machine's version of them shows."""
PAPER, INK = (20, 27, 31), (222, 230, 232)
RED, GREEN, YELLOW = (255, 123, 114), (126, 214, 140), (230, 190, 100)
BLUE, MAGENTA, CYAN = (121, 170, 255), (210, 168, 255), (86, 205, 214)
THEME = TerminalTheme(PAPER, INK, [PAPER, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, INK])
SVG = """\
<figure class="shot" tabindex="0">
<svg class="terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img" \
aria-label="TITLE">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#141b1f"/>
<g transform="translate({terminal_x}, 18)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
</figure>
"""
"""rich's own format loads a font from elsewhere and draws a window around."""
PIECE = re.compile(r'(<text [^>]*textLength=")([0-9.]+)"[^>]*>([^<]*)')


def main() -> None:
    """Record one stage in one language into a folder; what all languages share comes out alike."""
    stage, language, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    texts.speak(language)
    normal = Normal(stage)
    shared = folder / stage
    shared.mkdir(parents=True, exist_ok=True)
    if stage >= LIMITING:
        (shared / measured.TREE).write_text(f"{measured.version()}\n", encoding="ascii")
    traced = subprocess.run(
        [
            *(reference(stage), "run", "--trace", *TRACED.get(stage, "").split()),
            *(str(labhost.ROOT), "/bin/ip", "route"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **({"LABRUN_STORE": labhost.STORE} if stage >= STORING else {})},
    )
    (shared / "trace.txt").write_text(normal.trace(traced.stderr), encoding="utf-8")
    _record(stage, folder / language / stage, shared)


def _record(stage: str, folder: Path, shared: Path) -> None:
    """Play a stage's demo in the language in use, and write each of its steps."""
    folder.mkdir(parents=True)
    os.environ["COLUMNS"] = str(COLUMNS)
    demo, screen = script.load(stage), Screen()
    with engine.bench_of(demo, labhost.ROOT) as bench:
        stand = engine.Engine(engine.choose(stage, None), bench, demo)
        played = [stand.play(step) for step in demo.steps]
        before = {axis: stand.before(axis) for axis in summary.measured(played)}
        normal = Normal(stage, bench)
    played = [*map(normal.played, played)]
    (folder / "predict.html").write_text(html.predictions(played), encoding="utf-8")
    for done in played:
        if done.step.looks == "drivers":
            ran = [side.title for side in done.sides if not side.ended.status]
            (shared / measured.DRIVERS).write_text(" ".join([*ran, "\n"]), encoding="ascii")
        if done.step.peer:
            (shared / measured.PEER).write_text(f"{_version(done)}\n", encoding="ascii")
        if not done.as_expected:
            sys.exit(f"{done.step.id}: {done.finding.verdict.value}: {done.finding.evidence}")
        (folder / f"{done.step.id}.html").write_text(
            html.step(screen, demo, done), encoding="utf-8"
        )
        if picture := html.pictured(done):
            (folder / f"{done.step.id}.picture.html").write_text(picture, encoding="utf-8")
        if done.step.id == PICTURED[stage]:
            (folder / "screen.html").write_text(_picture(demo, done), encoding="utf-8")
    (folder / "measured.html").write_text(
        html.measured(before, summary.measured(played)), encoding="utf-8"
    )
    (folder / "check.txt").write_text(normal.seconds(normal(_judged(stage, shared))), "utf-8")


def _version(done: Played) -> str:
    """Return the version of the program that a step compares with, "none" where it isn't here."""
    if done.peerless:
        return "none"
    argv = [done.step.peer, "--version"]
    environment = {**os.environ, "PATH": dockerd.client_path()}
    told = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    return told.stdout.strip()


def _judged(stage: str, shared: Path) -> str:
    """Return what `labrun check` says of the stage, in the language in use.

    The checks are run for the first language alone: they find the same in each, and take a minute.
    """
    from labs import check

    report = shared / CHECKED
    if not report.exists():
        subprocess.run(
            [
                *(Path(sys.executable).with_name("labrun"), "check", stage, "--no-input"),
                *("--root", labhost.ROOT, "--json", report),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    told = json.loads(report.read_text(encoding="utf-8"))
    screen = Console(file=io.StringIO(), width=COLUMNS, highlight=False)
    check.show_head(screen, stage, reference(stage))
    for row in told["checks"]:
        check.show_row(screen, row, axes()[row["id"]])
    check.show_counts(screen, told["checks"])
    check.show_end(screen, told["summary"]["seconds"])
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def _picture(demo: script.Demo, done: Played) -> str:
    """Return a step's page as it looks on a terminal, drawn by rich."""
    screen = Screen()
    screen.draws = True
    console = Console(
        record=True,
        width=COLUMNS,
        height=LINES,
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        highlight=False,
        markup=False,
        emoji=False,
    )
    head = pages.step_head(screen, demo, done.step, done.places["root"])
    asked = [screen.prose(done.step.question.filled(done.places), style="bold")]
    page = pages.result(screen, demo, done, done.step.right, rows=LINES - 2, head=head, asked=asked)
    for block in page:
        console.print(block, width=COLUMNS, crop=False)
    title = f"{say('demo.stage', number=demo.number, title=demo.title)} · {done.step.title}"
    drawn = SVG.replace("TITLE", title)
    svg = console.export_svg(theme=THEME, code_format=drawn, unique_id="terminal")
    return PIECE.sub(_as_wide_as_its_cells, svg)


def _as_wide_as_its_cells(piece: re.Match[str]) -> str:
    """Return a piece of text in its true width: rich counts characters, of which some are wide."""
    text = unescape(piece[3])
    width = float(piece[2]) / len(text) * cell_len(text)
    return f"{piece[1]}{width:g}{piece[0][len(piece[1] + piece[2]) :]}"


if __name__ == "__main__":
    main()
