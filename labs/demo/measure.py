"""A load in a container, with the kernel's counters read while it runs: what a plot is made of."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from checks.canaries import nonce
from checks.trial import Container, Ended, Trial, status_of
from labs import gauge
from labs.demo.ground import Ground
from labs.demo.script import Plot
from labs.gauge import Reading

TICK = 0.05
"""Seconds from one reading to the next."""
WINDOW = 0.3
"""Seconds over which a rate is taken: three of the periods in which a CPU quota is counted."""
SETTLED = 0.5
"""Seconds after which a rate is what it stays: a bucket that was full at the start is empty."""
ENDING = 5.0
"""Seconds in which a runtime must have ended once its command has."""
PATH = "/bin:/sbin:/usr/bin:/usr/sbin"

COUNTERS: dict[str, Callable[[Reading], float | None]] = {
    "cpu": lambda reading: reading.cpu,
    "read": lambda reading: reading.read,
    "written": lambda reading: reading.written,
    "received": lambda reading: reading.received,
    "sent": lambda reading: reading.sent,
}
"""What only grows: drawn by how fast it does."""
LEVELS: dict[str, Callable[[Reading], float | None]] = {
    "memory": lambda reading: reading.memory,
    "swap": lambda reading: (
        None if reading.memory is None else reading.memory + (reading.swap or 0)
    ),
    "pids": lambda reading: reading.pids,
}
"""What rises and falls: drawn as it is."""
UNITS = {"cpu": "CPUs", "memory": "bytes", "swap": "bytes", "pids": "processes"}
"""The unit of a series; bytes a second for all others."""


@dataclass(frozen=True)
class Series:
    """What one counter did: points of seconds since the load began, and value."""

    name: str
    limit: float | None
    points: Sequence[tuple[float, float]]

    @property
    def unit(self) -> str:
        """Return the unit of its values, as the report spells it."""
        return UNITS.get(self.name, "bytes/s")

    @property
    def most(self) -> float:
        """Return the largest value."""
        return max((value for _, value in self.points), default=0.0)


@dataclass(frozen=True)
class Measured:
    """A load that was measured."""

    plot: Plot
    limit: float | None
    readings: Sequence[Reading] = ()
    stopped: bool = False
    """Whether we ended it: it would have gone on."""
    allowed: gauge.Limits = field(default_factory=gauge.Limits)
    """What the group's own files say that it may take."""
    version: str = "v1"
    """Whose names the group's files have."""

    @property
    def seconds(self) -> float:
        """Return how long it ran."""
        return self.readings[-1].at - self.readings[0].at if self.readings else 0.0

    @property
    def series(self) -> Series:
        """Return what the plot shows."""
        return Series(self.plot.series, self.limit, self._points())

    def _points(self) -> list[tuple[float, float]]:
        name, points = self.plot.series, []
        for number, now in enumerate(self.readings):
            value = None
            if name in LEVELS:
                value = LEVELS[name](now)
            elif number:
                since = max(now.at - WINDOW, self.readings[0].at) - TICK / 10
                before = next(reading for reading in self.readings if reading.at >= since)
                value = gauge.rate(before, now, COUNTERS[name])
            if value is not None:
                points.append((now.at - self.readings[0].at, value))
        return points

    @property
    def average(self) -> float | None:
        """Return the rate from when it had settled until the end; None for what has no rate."""
        if self.plot.series not in COUNTERS:
            return None
        settled = [r for r in self.readings if r.at >= self.readings[0].at + SETTLED]
        if len(settled) < 2:
            return None
        return gauge.rate(settled[0], settled[-1], COUNTERS[self.plot.series])

    def rose(self, counter: Callable[[Reading], float | None]) -> int | None:
        """Return by how much a counter rose in all, or None where nothing counts that."""
        counts = [c for reading in self.readings if (c := counter(reading)) is not None]
        return round(counts[-1] - counts[0]) if counts else None


Watch = Callable[[Measured], None]


@cache
def pace() -> int:
    """Return how many times as long the same work may take here: QEMU may emulate the processor."""
    return 4 if "QEMU" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else 1


def measure(
    trial: Trial,
    script: str,
    plot: Plot,
    around: Ground,
    *,
    limit: float | None = None,
    watch: Watch = lambda measured: None,
) -> tuple[Ended, Measured]:
    """Run a shell script in a container, and read the counters until it ends, or is stopped.

    The shell waits until the gauge is there, and stays until it has been read for the last time: a
    group, and what it counted, goes with its last process. `around` says the words that it waits
    for. Raises NotStarted.
    """
    end = nonce("end")
    waiting = f'export PATH={PATH}; read host port; ({script}\n); echo "{end} $?"'
    with trial.started(waiting) as container:
        groups = gauge.groups_of(container.pid)
        allowed, version = gauge.limits(groups), gauge.names(groups).version
        readings: list[Reading] = []

        def so_far(stopped: bool = False) -> Measured:
            return Measured(plot, limit, tuple(readings), stopped, allowed, version)

        before = len(container.heard)
        words = around.hello(container)
        readings.append(around.counted(gauge.read(groups, container.pid, around=True)))
        tell(container, words)
        over, until = False, readings[0].at + plot.seconds * (pace() if plot.ends else 1)
        while readings[-1].at < until:
            due = readings[-1].at + TICK
            if not over and (container.hears(end.encode(), TICK) or not container.alive()):
                over, until = True, min(time.monotonic() + plot.linger, until)
            if readings[-1].at < until:
                # Neither its end nor that of its stdout is a reason to read more often.
                time.sleep(max(0.0, min(due, until) - time.monotonic()))
            reading = around.counted(gauge.read(groups, container.pid, around=True))
            # The group of a command that was killed is gone, and so are its counters.
            if reading.cpu is not None or reading.memory is not None:
                readings.append(reading)
            else:
                over = True
                break
            watch(so_far())
        if not over:
            _stop(container.pid)
        ended = _finish(container, before, end, over)
        name = bytes(container.heard[:before]).strip()
        return _as(ended, name), so_far(not over)


def tell(container: Container, words: str) -> None:
    """Write a line to a command's stdin; one that has ended needs none."""
    assert container.process.stdin
    with suppress(BrokenPipeError):
        container.process.stdin.write(f"{words}\n".encode())
        container.process.stdin.flush()


def _stop(pid: int) -> None:
    """Kill a command and all that it started.

    Pid 1 of a pid namespace takes its processes along; not every runtime makes one.
    """
    for each in [pid, *_descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs. See proc_pid_task(5)."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [each for child in map(int, text.split()) for each in (child, *_descendants(child))]


def _finish(container: Container, before: int, end: str, over: bool) -> Ended:
    """Let the command end, and return what it said and how it ended."""
    process = container.process
    if over:
        tell(container, "end")
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=ENDING)
    stdout = bytes(container.heard[before:]) + _rest(process.stdout)
    said, mark, status = stdout.partition(end.encode())
    if mark and status.split():
        return Ended(int(status.split()[0]), said, _rest(process.stderr))
    ended = status_of(process) if process.poll() is not None else 128 + signal.SIGKILL
    return Ended(ended, said, _rest(process.stderr))


def _as(ended: Ended, name: bytes) -> Ended:
    """Return what a shell said, by its usual name: it was started under one to find it by."""
    if not name:
        return ended
    return replace(
        ended,
        stdout=ended.stdout.replace(name, b"sh"),
        stderr=ended.stderr.replace(name, b"sh"),
    )


def _rest(stream: object) -> bytes:
    """Return what is left in a pipe, without waiting for more."""
    number: int = stream.fileno()  # type: ignore[attr-defined]
    os.set_blocking(number, False)
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(number, 65536):
            parts.append(part)
    return b"".join(parts)
