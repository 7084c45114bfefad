"""`labrun check`: judge a runtime, show what was seen, and write it down."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import checks
from checks.model import Axis, Verdict, axes
from checks.peers import PEERS
from labs import machine, privilege, progress, texts
from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.stages import BUILT, reference
from labs.verdicts import SIGNS, word

FOLDER = Path(checks.__file__).parent
RESULTS = {"passed": "pass", "failed": "fail", "skipped": "cannot"}


def command(
    stages: list[str],
    *,
    runtime: str | None,
    root: Path | None,
    only: list[str],
    json_file: str | None,
    junit: Path | None,
    no_input: bool,
) -> int:
    """Run the checks of `stages`, or the axes in `only`; return the contract's exit status."""
    asked = _asked(stages or [BUILT[-1]], only)
    must_be_writable(json_file, junit)
    if not no_input:
        # What can't be judged without root is said below, check by check.
        with contextlib.suppress(Refused):
            privilege.become_root(sys.argv[1:])
    for stage in asked:
        must_run(reference(stage) if runtime is None else runtime)
    rootfs = _rootfs(root)
    screen = Console(stderr=json_file == "-", highlight=False)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    suites = Suites(junit)
    for stage, listed in asked.items():
        judged = reference(stage) if runtime is None else runtime
        found = _judge(stage, listed, judged, rootfs, suites, screen)
        if not only and all(row["result"] == "pass" for row in found):
            _note(stage, judged)
        rows += found
    counts = {result: sum(r["result"] == result for r in rows) for result in RESULTS.values()}
    seconds = round(time.monotonic() - began, 3)
    show_end(screen, seconds)
    if json_file:
        summary = {"passed": counts["pass"], "failed": counts["fail"], "cannot": counts["cannot"]}
        report = {
            "schema": 1,
            "stages": list(asked),
            "runtime": ", ".join(asked) if runtime is None else runtime,
            "host": machine.host(),
            "summary": summary | {"seconds": seconds},
            "checks": rows,
        }
        write(json_file, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    return FAILED if counts["fail"] else CANNOT if counts["cannot"] else 0


def _asked(stages: list[str], only: list[str]) -> dict[str, list[Axis]]:
    """Return the axes to check, by stage. Raises Refused for a name that nobody knows."""
    for stage in stages:
        if stage not in BUILT:
            raise Refused(
                "check",
                texts.say("check.unknown_stage", stage=stage),
                texts.say("check.name_stage", stages=", ".join(BUILT)),
                status=USAGE,
            )
    if only:
        return {stages[-1]: chosen(only)}
    return {
        stage: [axis for axis in axes().values() if axis.stage <= BUILT.index(stage) + 1]
        for stage in stages
    }


def chosen(only: Sequence[str]) -> list[Axis]:
    """Return the axes in `only`, or all where it is empty. Raises Refused for an unknown one."""
    only = list(dict.fromkeys(id_.strip() for id_ in only))
    for id_ in only:
        if id_ not in axes():
            raise Refused(
                "--only",
                texts.say("check.unknown_axis", axis=id_),
                texts.say("check.name_axis", axes=", ".join(axes())),
                status=USAGE,
            )
    return [axes()[id_] for id_ in only or axes()]


def must_run(command: str) -> None:
    """Refuse a runtime that can't be a program, before anything is started."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    known = command[1:] in PEERS if command.startswith("@") else words and shutil.which(words[0])
    if not known:
        raise Refused(
            "--runtime",
            texts.say("check.no_runtime", program=words[0] if words else repr(command)),
            texts.say("check.name_runtime", peers=", ".join(f"@{peer}" for peer in PEERS)),
            status=USAGE,
        )


def _rootfs(root: Path | None) -> Path:
    """Return the root file system to use. Raises Refused where it is none."""
    if root is None:
        from labs import rootfs

        return rootfs.default()
    if not os.path.lexists(root / "bin" / "sh"):
        raise Refused("--root", texts.say("check.no_root", root=root), texts.say("check.make_root"))
    return root


def _note(stage: str, judged: str) -> None:
    """Note that a stage's own runtime passed, or the student's; others are neither."""
    program = os.path.realpath(shutil.which(shlex.split(judged)[0]) or judged)
    whose: progress.Whose = "reference" if program == os.path.realpath(reference(stage)) else "own"
    others = [os.path.realpath(reference(other)) for other in BUILT if other != stage]
    if judged.startswith("@") or program in others:
        return
    if trouble := progress.passed(stage, whose):
        print(f"labrun: {trouble}", file=sys.stderr)


def must_be_writable(*files: str | Path | None) -> None:
    """Refuse a report file that can't be written, before a minute's work is lost to it."""
    for file in map(str, filter(None, files)):
        if file != "-":
            write(file, "", append=True)


def write(file: str, text: str, *, append: bool = False) -> None:
    """Write a report; `-` is stdout. Raises Refused where it can't be written."""
    if file == "-":
        sys.stdout.write(text)
        return
    try:
        with open(file, "a" if append else "w", encoding="utf-8") as report:
            report.write(text)
    except OSError as error:
        raise Refused(
            file,
            texts.say("check.no_file", reason=error.strerror),
            texts.say("check.other_file"),
            status=USAGE,
        ) from None


def _judge(
    stage: str,
    listed: list[Axis],
    runtime: str,
    rootfs: Path,
    suites: Suites,
    screen: Console,
) -> list[dict[str, Any]]:
    """Run the checks of one stage under pytest; show each as it ends, and return the rows."""
    reporter = Reporter(screen, {axis.id: axis for axis in listed})
    show_head(screen, stage, runtime)
    options = [
        f"--rootdir={FOLDER}",
        f"--config-file={FOLDER / 'pytest.ini'}",
        "--noconftest",
        "-p",
        "no:terminal",
        "-p",
        "checks.plugin",
        f"--runtime={runtime}",
        f"--rootfs={rootfs}",
        f"--axes={','.join(reporter.axes)}",
    ]
    with _own_settings(), suites.one_more(stage) as more:
        arguments = [*options, *more, str(FOLDER / "test_axes.py")]
        ended = pytest.ExitCode(pytest.main(arguments, plugins=[reporter]))
    if ended == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if len(reporter.rows) != len(listed):
        raise Refused("check", texts.say("check.early", how=ended.name), status=CANNOT)
    show_counts(screen, reporter.rows)
    return reporter.rows


def show_head(screen: Console, stage: str, runtime: str) -> None:
    """Show what is judged, as what."""
    screen.print(Text(f"\n{stage} · {runtime}", style="bold"))


def show_row(screen: Console, row: dict[str, Any], axis: Axis) -> None:
    """Show how a check ended, and where it was no pass, what was seen."""
    found = Verdict(row["verdict"])
    good = {"pass": axis.required, "fail": found, "cannot": Verdict.UNKNOWN}[row["result"]]
    mark, ascii_mark, style = SIGNS[good]
    plain = not (screen.encoding or "").lower().startswith("utf")
    screen.print(
        Text(f"{ascii_mark if plain else mark} ", style=style)
        + Text(f"{axis.id:<17} ", style="bold")
        + Text(axis.title[texts.language()])
    )
    if row["result"] == "pass":
        return
    facts = Table.grid(padding=(0, 2, 0, 0))
    for number, fact in enumerate(row["evidence"][:6]):
        facts.add_row("" if number else texts.say("check.seen"), Text(fact, overflow="fold"))
    if row["result"] == "fail":
        facts.add_row(texts.say("check.expected"), word(axis.required))
        if row["hint"]:
            facts.add_row(texts.say("check.hint"), Text(row["hint"], overflow="fold"))
    screen.print(Padding(facts, (0, 0, 0, 4)))


def show_counts(screen: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Show how many checks ended how."""
    results = [row["result"] for row in rows]
    words = {"pass": "passed", "fail": "failed", "cannot": "cannot"}
    counts = [
        texts.say(f"check.{words[result]}", count=results.count(result))
        for result in words
        if result in results
    ]
    screen.print(Text(", ".join(counts), style="bold"))


def show_end(screen: Console, seconds: float) -> None:
    """Show that all is over, and what became of the bench."""
    screen.print(f"\n{texts.say('check.clean')} {seconds:.1f} s", style="dim")


class Suites:
    """A JUnit file with a suite a stage: pytest itself writes a file for each of its runs."""

    def __init__(self, file: Path | None) -> None:
        """Write to `file`; None where nobody wants one."""
        self.file, self._all = file, ElementTree.Element("testsuites")

    @contextlib.contextmanager
    def one_more(self, stage: str) -> Iterator[list[str]]:
        """Give the options for one run of pytest's, and add what it wrote, however it ended."""
        if self.file is None:
            yield []
            return
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder, "junit.xml")
            try:
                yield [f"--junitxml={part}", f"--override-ini=junit_suite_name={stage}"]
            finally:
                if part.exists():
                    self._all.extend(ElementTree.parse(part).getroot().iter("testsuite"))
                    text = ElementTree.tostring(self._all, encoding="unicode", xml_declaration=True)
                    write(str(self.file), f"{text}\n")


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Keep the environment from adding options and plug-ins to the judges' pytest."""
    kept = {
        name: os.environ.pop(name, None)
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    }
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


class Reporter:
    """A pytest plug-in that shows each check as it ends, and collects the contract's rows."""

    def __init__(self, screen: Console, listed: dict[str, Axis]) -> None:
        """Show on `screen`; `listed` are the axes that will be checked."""
        self.screen, self.axes = screen, listed
        self.rows: list[dict[str, Any]] = []
        self._seconds = 0.0
        self._report: pytest.TestReport | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the phases of a check together: a fault in any of them is the check's."""
        self._seconds += report.duration
        if self._report is None or (self._report.passed and not report.passed):
            self._report = report
        if report.when == "call" and self._report.passed:
            self._report = report
        if report.when == "teardown":
            self._take(self._report)
            self._seconds, self._report = 0.0, None

    def _take(self, report: pytest.TestReport) -> None:
        axis = self.axes[report.nodeid.rpartition("[")[2].rstrip("]")]
        noted = report.user_properties
        verdict = next((str(v) for k, v in noted if k == "verdict"), Verdict.UNKNOWN.value)
        evidence = [str(value) for name, value in noted if name == "evidence"]
        language = texts.language()
        row = {
            "id": axis.id,
            "stage": axis.stage,
            "title": axis.title[language],
            "result": RESULTS[report.outcome],
            "points": axis.points,
            "verdict": verdict,
            "evidence": evidence or report.longreprtext.splitlines()[-1:],
            "hint": axis.hint[language] if report.failed else "",
            "see": axis.see,
            "seconds": round(self._seconds, 3),
        }
        if report.failed and verdict == Verdict.UNKNOWN.value:
            # The judge broke, not the runtime: no student loses a point to that.
            row |= {"result": "cannot", "hint": ""}
        self.rows.append(row)
        show_row(self.screen, row, axis)
