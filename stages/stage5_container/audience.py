"""Whoever looks on and types: the caller whose process this is, and visitors at the door."""

from __future__ import annotations

import os
import time

from stages import linux
from stages.command_line import note
from stages.linux import SIGCHLD
from stages.stage1_chroot.process import INSIST, PASSED_ON
from stages.stage5_container.loop import IN, Loop, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stages.stage5_container.door import Visitor
    from stages.stage5_container.loop import Sink
    from stages.stage5_container.options import Contained


class Audience:
    """Where the command's output goes, and where its input comes from."""

    def __init__(self, container: Contained) -> None:
        """Take the container; nobody is there yet."""
        self.container, self.loop = container, Loop()
        self.sinks: list[Sink] = []
        self.visitors: list[Visitor] = []
        self.feed: Writer | None = None
        self.ahead, self.fed, self.at_end = b"", False, False
        self.hungry, self.reading = True, False
        self.window: Callable[[int, int], None] | None = None
        self.sender: Callable[[int], None] | None = None
        self.size, self.signals = (0, 0), -1

    def now(self) -> float:
        """Return a time in seconds that only goes on."""
        return time.monotonic()

    # ---- what the caller has to do with it

    def relays(self) -> bool:
        """Return whether the command's output comes by here: for logs, or to spare a terminal.

        With --rm there will be nobody to ask for logs: then the streams are the caller's own.
        """
        return not self.container.remove or any(os.isatty(fd) for fd in (0, 1, 2))

    def stdin(self) -> str:
        """Return what the command's stdin is: "own", the caller's own; a "pipe"; or "nothing".

        A caller's terminal is never handed on: the command would be in another session of it.
        """
        return "pipe" if os.isatty(0) else "own"

    def be_ready(self) -> None:
        """Have signals come by the loop, and the caller's streams."""
        self.signals = linux.signalfd(PASSED_ON | {SIGCHLD})
        self.meet()

    def meet(self) -> None:
        """Have the caller's streams carried."""
        if self.relays() or self.container.tty:
            self.sinks.append(Caller(self.loop))
        if self.stdin() == "pipe":
            self.reading = True
            self.loop.watch(0, IN, self.type)

    def type(self) -> None:
        """Hand on what comes from the caller's stdin."""
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""  # EIO: the terminal has been hung up
        if data:
            self.put(data)
        else:
            self.reading = False
            self.loop.forget(0)
            self.put_end()

    def look_around(self) -> None:
        """Listen to those who type only as long as the command reads what they have typed."""
        hungry = not (self.feed and self.feed.full)
        if hungry == self.hungry:
            return
        self.hungry = hungry
        for visitor in self.visitors:
            visitor.watch()
        if self.reading and hungry:
            self.loop.watch(0, IN, self.type)
        elif self.reading:
            self.loop.forget(0)

    def flush(self) -> None:
        """Wait until the caller has all that was written; or wants no more of it."""
        self.unwanted_rest = False
        self.loop.watch(self.signals, IN, self.tire)
        callers = [sink for sink in self.sinks if isinstance(sink, Caller)]
        while any(caller.waiting for caller in callers) and not self.unwanted_rest:
            self.loop.turn()
        self.loop.forget(self.signals)

    def tire(self) -> None:
        """Give up the rest: a signal that would have ended the command ends the waiting for it."""
        if linux.read_signal(self.signals) not in (SIGCHLD, linux.SIGWINCH):
            self.unwanted_rest = True

    def insist(self, child: int) -> None:
        """Say that the command is going to be killed."""
        note(f"second SIGINT within {INSIST:g} s: killing process {child}, asked twice")

    def window_changed(self) -> bool:
        """Return whether a change of the caller's window is told otherwise than by a signal."""
        return False

    # ---- what is typed

    def put(self, data: bytes) -> None:
        """Have the command read it, also what is typed before there is one."""
        if self.feed:
            self.feed.put(data)
        elif not self.fed:
            self.ahead += data

    def put_end(self) -> None:
        """Have the command come to the end of its stdin."""
        self.at_end = True
        if self.feed:
            self.feed.end()

    def feed_from(self, feed: Writer | None) -> None:
        """Take where the command reads from; None where it doesn't any more."""
        self.feed = feed
        if feed and not self.fed:
            self.fed = True
            feed.put(self.ahead)
        if feed and self.at_end and not self.container.tty:
            feed.end()

    # ---- what visitors have to do with it

    def resize(self, rows: int, columns: int) -> None:
        """Have the command's window be of that size, now and when it is started again."""
        self.size = (rows, columns)
        if self.window:
            self.window(rows, columns)

    def send(self, signum: int) -> None:
        """Hand a signal on to the command."""
        if self.sender:
            self.sender(signum)


class Caller:
    """The caller's stdout and stderr."""

    def __init__(self, loop: Loop) -> None:
        """Write there whenever they take it."""
        self.writers = {1: Writer(loop, 1), 2: Writer(loop, 2)}

    @property
    def full(self) -> bool:
        """Return whether the caller has to catch up first."""
        return any(writer.full for writer in self.writers.values())

    @property
    def waiting(self) -> bool:
        """Return whether something is still to be written."""
        return any(writer.waiting for writer in self.writers.values())

    def deaf(self, stream: int) -> bool:
        """Return whether whoever read it has gone, as head(1) does."""
        return self.writers[stream].broken

    def take(self, stream: int, data: bytes) -> None:
        """Take what the command wrote."""
        self.writers[stream].put(data)


def leave_streams() -> None:
    """Have /dev/null for the streams that were the caller's."""
    null = linux.open_file("/dev/null", linux.O_RDWR | linux.O_CLOEXEC)
    for fd in (0, 1, 2):
        linux.dup2(null, fd)
    os.close(null)
