"""Loads: work that a child of the judge's does under a container's limits.

It moves into the groups that hold the container's command, in each hierarchy, and there it burns
CPU time, takes memory, forks, reads and writes, or sends. So it is limited as the command is, and
nothing need be in ROOT for it. Every load bounds itself: at most 96 MiB, 64 processes, 5 s.
"""

import contextlib
import gc
import json
import mmap
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from checks import cgroup, kernel, visitor
from checks.visitor import Hindered
from checks.words import say

MIB = 1 << 20
MEMORY, PROCESSES, SECONDS = 96 * MIB, 64, 5.0
"""What a load may take, and how long it lives."""
BLOCK = 64 << 10
"""Bytes that are read, written or sent at once."""
SOURCE = memoryview(bytes(BLOCK))

Series = list[tuple[float, int]]
"""What had come through, in bytes, at which time, in seconds."""


class Load:
    """A load at work: a child of ours."""

    def __init__(self, pid: int, report: int, hold: int) -> None:
        """Take its pid, and our ends of its two pipes."""
        self.pid, self.has_children = pid, False
        self._report, self._hold = report, hold
        self._heard = b""
        self._status: int | None = None

    def told(self, patience: float = SECONDS) -> Any:
        """Return the next thing that it tells; None where it ended, or patience did."""
        until = time.monotonic() + patience
        while b"\n" not in self._heard:
            if not select.select([self._report], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            if not (part := os.read(self._report, 65536)):
                return None
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def ended(self) -> int:
        """Wait until it has ended; return the number of the signal that ended it, or 0."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0

    @property
    def seconds(self) -> float:
        """Return the CPU time that it has used. See clock_getcpuclockid(3)."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def stop(self) -> None:
        """End it, and first its children: a group with processes in it can't be removed."""
        os.close(self._hold)
        if self.has_children:
            # It hears that by the pipe, and ends when they have; then the other pipe ends.
            while self.told(1) is not None:
                pass
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()
        os.close(self._report)


Work = Callable[["Told", int], None]
"""What a load does, with how it tells, and a pipe that ends when it is let go."""
Told = Callable[[Any], None]


@contextlib.contextmanager
def at_work(pid: int, work: Work, *, network: bool = False) -> Iterator[Load]:
    """Have a child do `work` in the groups of process `pid`, and with `network` in its network.

    Raises Hindered where it can't go there.
    """
    try:
        groups = [*cgroup.places(pid).values()]
        score = Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii")
        joined = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)] if network else []
    except FileNotFoundError as error:
        raise Hindered(say("load.kept_out", pid=pid, reason=error.strerror)) from None
    report, tell = os.pipe()
    let_go, hold = os.pipe()
    with visitor.signals_held():
        child = os.fork()
        if child == 0:
            try:
                os.close(report)
                os.close(hold)
                _be(work, groups, joined, score, tell, let_go)
            finally:
                os._exit(1)
    for fd in (tell, let_go, *joined):
        os.close(fd)
    load = Load(child, report, hold)
    try:
        kept_out = load.told()
        if kept_out != "":
            raise Hindered(say("load.kept_out", pid=pid, reason=kept_out))
        yield load
    finally:
        load.stop()


def _be(
    work: Work, groups: list[Path], joined: list[int], score: str, tell: int, let_go: int
) -> NoReturn:
    """Be a load."""

    def told(what: Any) -> None:
        os.write(tell, json.dumps(what).encode() + b"\n")

    try:
        kernel.die_with_parent()
        # A collector that walks over all of the judge's objects would make copies of their pages.
        gc.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        # The kernel must find it as fit to be killed as the command is.
        Path("/proc/self/oom_score_adj").write_text(score, encoding="ascii")
        for fd in joined:
            kernel.setns(fd, kernel.CLONE_NEWNET)
        cgroup.enter(groups)
    except Exception as error:
        told(str(error))
        os._exit(1)
    told("")
    work(told, let_go)
    os._exit(0)


def allocate(size: int) -> Work:
    """Return what takes that many bytes of memory, and tells after each MiB how many it has."""

    def work(tell: Told, let_go: int) -> None:
        space = mmap.mmap(-1, min(size, MEMORY), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page = b"\1" * MIB
        for at in range(0, len(space), MIB):
            space[at : at + MIB] = page
            tell(at + MIB)

    return work


def burn(cpus: Collection[int] = ()) -> Work:
    """Return what uses CPU time, on those `cpus` that it may; it tells which these are."""

    def work(tell: Told, let_go: int) -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)
        tell(sorted(os.sched_getaffinity(0)))
        while True:
            pass

    return work


def fork(most: int) -> Work:
    """Return what forks until it can't; it tells how many were born, and errno of the refusal."""

    def work(tell: Told, let_go: int) -> None:
        born: list[int] = []
        refused = 0
        for _ in range(min(most, PROCESSES - 1)):
            try:
                child = os.fork()
            except OSError as error:
                refused = error.errno or 0
                break
            if child == 0:
                kernel.die_with_parent()
                signal.setitimer(signal.ITIMER_REAL, SECONDS)  # a child has none of its parent's
                signal.pause()
                os._exit(0)
            born.append(child)
        tell([len(born), refused])
        os.read(let_go, 1)
        for child in born:
            os.kill(child, signal.SIGKILL)
        for child in born:
            os.waitpid(child, 0)

    return work


def transfer(disk: int, size: int, *, write: bool, seconds: float, most: int) -> Work:
    """Return what reads, or writes, an open disk of that size past the cache; it tells its Series.

    It ends after `seconds`, or when `most` bytes have come through.
    """

    def work(tell: Told, let_go: int) -> None:
        # A mapping begins at a page, as direct I/O wants it.
        block = mmap.mmap(-1, BLOCK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        move = os.pwritev if write else os.preadv
        began = time.monotonic()
        series: Series = []
        total = 0
        while total < most and time.monotonic() - began < seconds:
            total += move(disk, [block], total % size)
            series.append((time.monotonic() - began, total))
        tell(series)

    return work


def send(address: tuple[str, int], seconds: float) -> Work:
    """Return what connects to a TCP address, and sends; it tells errno where it can't connect."""

    def work(tell: Told, let_go: int) -> None:
        with socket.socket() as client:
            client.settimeout(3)
            tell(client.connect_ex(address))
            pump(client, seconds)

    return work


def receive(seconds: float, most: int) -> Work:
    """Return what takes one TCP connection; it tells its port, and then its Series."""

    def work(tell: Told, let_go: int) -> None:
        with socket.create_server(("", 0)) as listener:
            listener.settimeout(3)
            tell(listener.getsockname()[1])
            connected, _ = listener.accept()
            with connected:
                tell(drain(connected, seconds, most))

    return work


def pump(connected: socket.socket, seconds: float) -> None:
    """Send into a connection until time is up, or the other side has gone."""
    until = time.monotonic() + seconds
    connected.settimeout(0.5)
    with contextlib.suppress(ConnectionError, TimeoutError):
        while time.monotonic() < until:
            connected.send(SOURCE)


def drain(connected: socket.socket, seconds: float, most: int) -> Series:
    """Receive until time is up, `most` bytes have come, or the other side has ended."""
    began = time.monotonic()
    connected.settimeout(0.5)
    series: Series = []
    total = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while total < most and time.monotonic() - began < seconds:
            if not (part := len(connected.recv(BLOCK))):
                break
            total += part
            series.append((time.monotonic() - began, total))
    return series


def rate(series: Series, settled: float) -> float:
    """Return the bytes a second of a Series from when it has settled, in seconds.

    What is quicker than that never settles: then it is the rate of all.
    """
    if not series:
        return 0.0
    first = next((point for point in series if point[0] >= settled), series[0])
    last = series[-1]
    if last[0] <= first[0]:
        first = (0.0, 0)
    return (last[1] - first[1]) / (last[0] - first[0])
