"""The measuring: a process a column, several at once; where, is for `places.py`."""

import json
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from checks import kernel
from checks.bench import Bench, NoBench
from checks.model import Axis, Finding, Verdict
from checks.probes import observe, probes
from checks.visitor import ENDINGS, signals_held
from labs.demo.stop import Stop
from labs.errors import CANNOT, Refused
from labs.matrix.columns import Column
from labs.matrix.places import Places
from labs.texts import say

Results = Mapping[str, Mapping[str, Finding]]
"""What was found, by column and axis."""


@dataclass
class Worker:
    """The process that measures a column, and what it has reported so far."""

    column: Column
    cells: dict[str, Finding] = field(default_factory=dict)
    pid: int = 0
    pipe: int = -1
    current: str = ""
    _rest: bytes = b""

    def take(self, part: bytes) -> None:
        """Take a part of its report: a line where a cell begins, and one where it ends."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self.current = told["axis"]
            if "verdict" in told:
                finding = Finding(Verdict(told["verdict"]), tuple(told["evidence"]))
                self.cells[self.current] = finding

    def bury(self, asked: Sequence[Axis]) -> None:
        """Wait for its end; where that came too early, say so in the cell that it was about."""
        os.close(self.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid, self._rest = 0, b""
        open_ = [axis.id for axis in asked if axis.id not in self.cells]
        if open_:
            reason = say("matrix.died", status=status)
            self.cells[open_[0]] = Finding(Verdict.UNKNOWN, (reason,))


def measure(columns: Sequence[Column], asked: Sequence[Axis], place: Path) -> Results:
    """Return what the probes of the axes `asked` find in each column, with the root `place`.

    Progress goes to stderr. Whatever happens to a cell, the others are measured. Raises
    KeyboardInterrupt for a signal (Stopped, but for Ctrl-C), after everything has been taken down.
    """
    # Before the forks: afterwards each process would load them.
    probes()
    workers = [Worker(column) for column in columns]
    progress = Progress(workers, len(asked))
    with Stop() as stop:
        _must_be_possible(place)
        try:
            with stop.let_through():
                _work(workers, asked, place, progress)
        finally:
            progress.end()
            for worker in workers:
                if worker.pid:
                    # As Ctrl-C: it takes its bench down before it ends.
                    os.kill(worker.pid, signal.SIGINT)
            for worker in workers:
                if worker.pid:
                    os.waitpid(worker.pid, 0)
    return {worker.column.name: worker.cells for worker in workers}


def _must_be_possible(place: Path) -> None:
    """Refuse where no bench can be made: every cell would say so."""
    try:
        with Bench(place):
            return
    except NoBench as error:
        raise Refused("matrix", str(error), say("matrix.no_bench"), status=CANNOT) from None


def _work(
    workers: Sequence[Worker], asked: Sequence[Axis], place: Path, progress: "Progress"
) -> None:
    """Keep two workers a processor at work, for they mostly wait, until all is measured."""
    at_once = 2 * len(os.sched_getaffinity(0))
    while True:
        # The columns on the right, the engines', take the longest: they begin first.
        open_ = [worker for worker in reversed(workers) if len(worker.cells) < len(asked)]
        busy = [worker for worker in workers if worker.pid]
        for worker in [w for w in open_ if not w.pid][: max(at_once - len(busy), 0)]:
            _start(worker, asked, place)
            busy.append(worker)
        if not busy:
            return
        ready = select.select([worker.pipe for worker in busy], [], [])[0]
        for worker in busy:
            if worker.pipe in ready:
                if part := os.read(worker.pipe, 65536):
                    worker.take(part)
                else:
                    worker.bury(asked)
        progress.show()


def _start(worker: Worker, asked: Sequence[Axis], place: Path) -> None:
    """Fork the process that measures what is still open in a column."""
    with signals_held():
        report, answer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _measure(worker.column, [a for a in asked if a.id not in worker.cells], place, answer)
        worker.pid, worker.pipe = pid, report
        os.close(answer)


def _measure(column: Column, asked: Sequence[Axis], place: Path, answer: int) -> NoReturn:
    """Be that process: measure cell after cell, and report each."""
    try:
        with Stop() as stop:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
            # As Ctrl-C: a labrun that is killed can't ask us to take the bench down.
            kernel.die_with_parent(signal.SIGINT)
            with Places(column.command, place, stop.let_through) as places:
                for axis in asked:
                    _tell(answer, {"axis": axis.id})
                    finding = _look(places, axis.id)
                    evidence = list(finding.evidence)
                    told = {"axis": axis.id, "verdict": str(finding.verdict), "evidence": evidence}
                    _tell(answer, told)
        os._exit(0)
    finally:
        # However it ends, this process must never go on as a second labrun.
        os._exit(1)


def _tell(pipe: int, line: Mapping[str, object]) -> None:
    # Surrogates, which stand for bytes that are no text, survive as JSON's escapes.
    text = json.dumps(line).encode() + b"\n"
    while text:
        text = text[os.write(pipe, text) :]


def _look(places: Places, axis: str) -> Finding:
    """Return what the axis's probe finds at the place that it is given."""
    try:
        with places.trial(axis) as trial:
            return observe(axis, trial)
    except Exception as error:
        # No bench, or one that could not be taken down: that says nothing about the runtime.
        return Finding(Verdict.UNKNOWN, (str(error) or repr(error),))


class Progress:
    """How far it has come: one line on a terminal's stderr; elsewhere a line a column."""

    def __init__(self, workers: Sequence[Worker], cells: int) -> None:
        """Watch the workers, each of which has so many cells to measure."""
        self.workers, self.cells = workers, cells
        self.live = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
        self._said: set[str] = set()

    def show(self) -> None:
        """Show where the workers are."""
        if not self.live:
            for worker in self.workers:
                name = worker.column.name
                if len(worker.cells) == self.cells and name not in self._said:
                    self._said.add(name)
                    print(say("matrix.measured", column=name), file=sys.stderr, flush=True)
            return
        done = sum(len(worker.cells) for worker in self.workers)
        at = ", ".join(f"{w.column.name} {w.current}" for w in self.workers if w.pid)
        line = say("matrix.progress", done=done, all=self.cells * len(self.workers), at=at)
        self._write(set_width(line, os.get_terminal_size(sys.stderr.fileno()).columns - 1))

    def end(self) -> None:
        """Take the line away."""
        if self.live:
            self._write("")

    def _write(self, line: str) -> None:
        print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)


def set_width(line: str, width: int) -> str:
    """Cut a line to the cells that it may take."""
    from rich.cells import set_cell_size

    return set_cell_size(line, max(width, 0)).rstrip()
