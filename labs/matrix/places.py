"""Where a cell is measured: on a bench of its own, or, beside a daemon, on its column's."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from checks.bench import Bench
from checks.peers import runtime
from checks.trial import Trial

ALONE = ("host.residue",)
"""Axes that are asked on a bench where nothing has run: a daemon's first container leaves most."""
SETTLING = 20.0
"""Seconds in which a bench must be as before. A daemon buries a container in one; emulated, in ten.
"""

Through = Callable[[], AbstractContextManager[None]]


class Places:
    """The benches of one column: no cell can spoil another.

    A runtime without a daemon has a bench for each cell, as in `labrun check`. One with a daemon
    has one for all, for its start takes longer than most cells; where a cell doesn't leave the
    bench as it was, the next has a new one.
    """

    def __init__(self, command: str, root: Path, let_through: Through) -> None:
        """Take what `--runtime` takes, and ROOT; signals come only where they are let through."""
        self.command, self.root, self.let_through = command, root, let_through
        self._shared: Trial | None = None
        self._before: object = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Begin without any bench."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the shared bench down."""
        self._stack.close()

    @contextmanager
    def trial(self, axis: str) -> Iterator[Trial]:
        """Give the runtime on a bench to the axis's probe.

        Raises NoBench, and Unsupported where the runtime can't be had.
        """
        judged = runtime(self.command)
        if judged.has_daemon and axis not in ALONE:
            trial = self._share()
            with self.let_through():
                yield trial
        else:
            with Bench(self.root) as bench, self.let_through():
                yield Trial(judged, bench)

    def _share(self) -> Trial:
        """Return the runtime on the shared bench, or on a new one where that has changed."""
        if self._shared and self._as_before(self._shared.bench):
            return self._shared
        self._shared = None
        self._stack.close()
        bench = self._stack.enter_context(Bench(self.root))
        judged = runtime(self.command)
        with self.let_through():
            judged.prepare(bench)
            self._before = _facts(bench)
        self._shared = Trial(judged, bench)
        return self._shared

    def _as_before(self, bench: Bench) -> bool:
        """Wait until the bench is as it was before its first cell; False where it won't be."""
        until = time.monotonic() + SETTLING
        with self.let_through():
            while _facts(bench) != self._before:
                if time.monotonic() > until:
                    return False
                time.sleep(0.1)  # a daemon tidies up in the background, and tells nobody
        return True


def _facts(bench: Bench) -> object:
    """Return what a cell could leave for the next; None where something went as it was read."""
    try:
        return (
            bench.processes(),
            sorted(bench.groups()),
            bench.see_network(socket.if_nameindex),
            Path(f"/proc/{bench.pid}/mountinfo").read_text(encoding="utf-8"),
        )
    except FileNotFoundError:
        return None
