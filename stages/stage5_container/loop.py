"""One place to wait for everything: who can be read, who takes more, what the time is."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Sink(Protocol):
        """Whoever wants to have what the command writes."""

        @property
        def full(self) -> bool:
            """Return whether it has to catch up first."""

        def deaf(self, stream: int) -> bool:
            """Return whether nobody wants what the command writes any more, so that it may know."""

        def take(self, stream: int, data: bytes) -> None:
            """Take what came out of stdout, 1, or stderr, 2."""


IN, OUT = select.POLLIN, select.POLLOUT
CHUNK = 32768
"""Bytes that are read at a time."""
ATOMIC = 4096
"""Bytes that a pipe takes without blocking, once poll(2) says that it takes some: PIPE_BUF."""
MUCH = 1 << 17
"""Bytes that may wait for somebody slow; then the command has to wait, too."""


class Loop:
    """What is waited for, each with what is to be done then. See poll(2)."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.poll = select.poll()
        self.doers: dict[int, Callable[[], object]] = {}

    def watch(self, fd: int, events: int, do: Callable[[], object]) -> None:
        """Have `do` called whenever a descriptor is ready."""
        self.poll.register(fd, events)
        self.doers[fd] = do

    def forget(self, fd: int) -> None:
        """Wait for it no more."""
        if self.doers.pop(fd, None):
            self.poll.unregister(fd)

    def turn(self, seconds: float | None = None) -> None:
        """Wait once, for so long at most, and do what there is to do."""
        for fd, _ in self.poll.poll(None if seconds is None else max(seconds, 0) * 1000):
            # What was done for one may have been the end of another.
            if do := self.doers.get(fd):
                do()


class Writer:
    """A descriptor that is written to as it takes it: whoever else has it open notices nothing.

    O_NONBLOCK would be set for them, too: it is the open file's, not the descriptor's.
    """

    def __init__(self, loop: Loop, fd: int) -> None:
        """Take the descriptor, which nobody else waits for."""
        self.loop, self.fd = loop, fd
        self.waiting, self.broken, self.ending = bytearray(), False, False

    @property
    def full(self) -> bool:
        """Return whether it has to catch up first."""
        return len(self.waiting) > MUCH

    def put(self, data: bytes) -> None:
        """Write it, soon; nothing where nobody reads any more."""
        if data and not (self.broken or self.ending):
            if not self.waiting:
                self.loop.watch(self.fd, OUT, self.flush)
            self.waiting += data

    def end(self) -> None:
        """Close it, once all is written."""
        self.ending = True
        if not self.waiting:
            self.close()

    def flush(self) -> None:
        """Write what it takes just now."""
        try:
            del self.waiting[: os.write(self.fd, self.waiting[:ATOMIC])]
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            self.waiting.clear()
        if not self.waiting:
            self.loop.forget(self.fd)
            if self.ending:
                self.close()

    def close(self) -> None:
        """Close it now."""
        if self.fd >= 0:
            self.loop.forget(self.fd)
            os.close(self.fd)
            self.fd, self.broken = -1, True


class Source:
    """What the command writes: read only as fast as all who want to have it can take it."""

    def __init__(self, loop: Loop, fd: int, stream: int, sinks: list[Sink]) -> None:
        """Take the reading end, which becomes non-blocking; `sinks` may change."""
        self.loop, self.fd, self.stream, self.sinks = loop, fd, stream, sinks
        os.set_blocking(fd, False)
        self.watched = False

    def wait(self) -> None:
        """Wait for it, unless somebody has to catch up first."""
        if self.fd >= 0 and any(sink.deaf(self.stream) for sink in self.sinks):
            self.close()  # and the next that it writes ends it: SIGPIPE
        wanted = self.fd >= 0 and not any(sink.full for sink in self.sinks)
        if wanted and not self.watched:
            self.loop.watch(self.fd, IN, self.pump)
        elif self.watched and not wanted:
            self.loop.forget(self.fd)
        self.watched = wanted

    def pump(self) -> None:
        """Hand on what is there."""
        if data := self.read():
            for sink in list(self.sinks):
                sink.take(self.stream, data)

    def read(self) -> bytes | None:
        """Return what is there: None for nothing just now, b"" behind the last."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # EIO: nobody has the terminal's other side open. See pts(4)
        if not data:
            self.close()
        return data

    def drain(self) -> None:
        """Hand on what is there without waiting for more: its writers are dead."""
        while self.fd >= 0 and (data := self.read()):
            for sink in list(self.sinks):
                sink.take(self.stream, data)
        self.close()

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            self.loop.forget(self.fd)
            os.close(self.fd)
            self.fd, self.watched = -1, False
