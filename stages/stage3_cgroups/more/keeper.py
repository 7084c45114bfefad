"""The keeper: a process that outlives a killed runtime, long enough to remove its groups.

A mount, a cable or a process goes with the last one that uses it, and pdeathsig ends the command.
A control group stays until somebody removes it.
"""

from __future__ import annotations

import os

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Keeper:
    """A child that waits for the runtime's end at a pipe, and does one thing then."""

    def __init__(self, tidy: Callable[[], None]) -> None:
        """Fork it; `tidy` is what it does where the runtime ends without a word."""
        reader, self.writer = linux.pipe2(linux.O_CLOEXEC)
        self.pid = linux.fork()
        if self.pid == 0:
            keep(reader, tidy)
        os.close(reader)
        # The keeper does so itself; but until it has run for the first time nobody else would.
        linux.setpgid(self.pid, self.pid)

    def dismiss(self) -> None:
        """End it: all is tidy."""
        linux.kill(self.pid, linux.SIGKILL)
        linux.waitid(self.pid, linux.WEXITED)
        os.close(self.writer)


def keep(reader: int, tidy: Callable[[], None]) -> None:
    """Be the keeper, whatever happens."""
    try:
        # What ends a whole process group, as Ctrl-C and `kill -9 -PGID` do, must not end it. The
        # signals that a runtime passes on are held already.
        linux.setpgid(0, 0)
        # Whoever reads the command's output waits for the last that could write it. And of the
        # pipe only the runtime may have the other end.
        linux.close_range(0, reader - 1)
        linux.close_range(reader + 1, 0xFFFFFFFF)
        linux.watch = None
        if not os.read(reader, 1):
            tidy()
    finally:
        os._exit(0)
