"""The barrier between the two halves: the child waits here until the parent has done its part."""

from __future__ import annotations

import os

from stages import linux
from stages.linux import SIGKILL


class Barrier:
    """A pipe whose writing end only the runtime holds: it carries one message, then its death."""

    def __init__(self) -> None:
        """Make the pipe, before there is a child."""
        self.reader, self.writer = linux.pipe2(linux.O_CLOEXEC)
        self.is_open = False

    def open(self, message: str) -> None:
        """In the parent: let the child go on, and tell it what it has to know."""
        linux.write(self.writer, message.encode() + b"\n")
        self.is_open = True

    def wait(self) -> str:
        """In the child: wait for the message; a runtime that dies instead takes this process along.

        See pipe(7).
        """
        # The child's copy of the writing end would keep the pipe from ever coming to its end.
        os.close(self.writer)
        return self._read().decode().rstrip("\n")

    def die_with_runtime(self) -> None:
        """Have the kernel kill this process when the runtime dies, in whatever way.

        A change of user or group undoes that, so this comes after the last one. See prctl(2).
        """
        linux.set_pdeathsig(SIGKILL)
        # A runtime that died before that call sends nothing, and inside a pid namespace getppid()
        # is 0 in any case. But then nobody holds the writing end any more.
        os.set_blocking(self.reader, False)
        try:
            self._read()
        except BlockingIOError:
            return

    def _read(self) -> bytes:
        message = linux.read(self.reader, 4096)
        if not message:
            os._exit(128 + SIGKILL)
        return message


class Waiting:
    """A child, at the barrier or behind it: where the parent fails, it ends."""

    def __init__(self, child: int, barrier: Barrier) -> None:
        """Take charge of the process `child`."""
        self.child, self.barrier = child, barrier

    def __enter__(self) -> None:
        """Begin the parent's part."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End the child where the parent's part has failed."""
        if not kind:
            return
        try:
            ended = linux.waitid(self.child, linux.WEXITED | linux.WNOHANG)
        except ChildProcessError:
            return  # it was waited for already, and its number may be another's by now
        if not ended:
            linux.kill(self.child, SIGKILL)
            ended = linux.waitid(self.child, linux.WEXITED)
        # At the barrier a child ends only where it fails. It has said why, and what failed here
        # only followed from that. Behind it, the end may be the command's.
        if ended and ended.si_code == os.CLD_EXITED and not self.barrier.is_open:
            raise SystemExit(ended.si_status)
