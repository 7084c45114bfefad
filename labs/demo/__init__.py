"""`labrun stageN`: the demo of a stage, played on this machine.

`script.py` reads the demo, which is data; `engine.py` plays a step and measures; `session.py` leads
through it, on pages (`pages.py`, `boxes.py`, `summary.py`) that `screen.py` writes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.texts import say

if TYPE_CHECKING:
    from labs.demo.engine import Engine
    from labs.demo.played import Played
    from labs.demo.script import Demo, Step


def play(
    stage: str,
    steps: Sequence[str],
    *,
    start: str | None = None,
    no_input: bool,
    json_file: str | None,
    runtime: str | None,
    root: Path | None,
) -> int:
    """Play a stage's demo, or some of its steps; return 1 where a verdict isn't the expected one.

    With `start`, begin at that step, and play all that follow.
    `json_file` gets the results; `-` is stdout, and then nothing else is written there. For an
    ordinary user it starts labrun again as root. Raises Refused, and KeyboardInterrupt on Ctrl-C.
    """
    from checks.bench import NoBench
    from labs import privilege, rootfs
    from labs.demo import engine, report, script
    from labs.demo.stop import Stop, told

    demo = script.load(stage)
    chosen = demo.choose(steps)
    first = demo.choose([start])[0] if start else None
    if first and steps:
        raise Refused("--from", say("demo.from"), say("demo.from.remedy"), status=USAGE)
    under_test = engine.choose(stage, runtime)
    if json_file:
        report.check(json_file)
    privilege.become_root(sys.argv[1:])
    place = _checked(root) if root else rootfs.default()
    quiet = json_file == report.STDOUT
    asks = not no_input and not quiet and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        # What comes in while the bench is made, or taken down, waits until that is done.
        with (
            told(stage, say("demo.stopped")),
            Stop() as stop,
            engine.bench_of(demo, place) as bench,
            stop.let_through(),
        ):
            stand = engine.Engine(under_test, bench, demo)
            played = _perform(stand, demo, chosen, first, quiet=quiet, asks=asks)
    except NoBench as error:
        raise Refused(stage, str(error), say("demo.no_bench"), status=CANNOT) from None
    if json_file:
        report.write(report.as_json(stage, played), json_file)
    return 0 if all(done.as_expected for done in played) else FAILED


def _perform(
    stand: "Engine",
    demo: "Demo",
    steps: "Sequence[Step]",
    start: "Step | None",
    *,
    quiet: bool,
    asks: bool,
) -> "list[Played]":
    """Play the steps for whoever is there: a student, a reader, or a program."""
    from labs.demo import session
    from labs.demo.screen import Screen

    screen = None if quiet else Screen()
    if screen and asks:
        player = session.Player(stand, demo, screen)
        played = player.run(steps, start)
        if player.trouble:
            print(f"labrun: {player.trouble}", file=sys.stderr)
        return played
    if start:
        steps = steps[steps.index(start) :]
    return session.read_out(stand, demo, steps, screen)


def _checked(root: Path) -> Path:
    """Return the root that the student named. Raises Refused where nothing can run in it."""
    name = str(root)
    if not root.is_dir():
        raise Refused(name, say("demo.no_root"), say("demo.no_root.remedy"), status=FAILED)
    if not os.path.lexists(root / "bin/sh"):
        raise Refused(name, say("demo.no_shell"), say("demo.no_root.remedy"), status=FAILED)
    return root
