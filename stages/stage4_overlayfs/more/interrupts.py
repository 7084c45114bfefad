"""Ctrl-C while a tree is being made: what is half made goes first, and then this process.

To unpack a big image takes a while, and there is no command yet to get the signal.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in linux.py
import os
import sys

from stages import linux
from stages.light import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDING = (linux.SIGINT, linux.SIGTERM, linux.SIGHUP)
"""The signals that people end a program with."""


class Stopped(BaseException):
    """A signal has come that ends this process."""

    def __init__(self, signum: int) -> None:
        """Take the signal."""
        super().__init__(signum)
        self.signum = signum

    def end(self) -> None:
        """End this process by that signal: whoever waits for us is to see what we ended of."""
        _signal.signal(self.signum, linux.SIG_DFL)
        os.kill(os.getpid(), self.signum)


@contextmanager
def stoppable() -> Iterator[None]:
    """Have such a signal raise Stopped, unless the caller has it ignored, as nohup(1) does."""
    before = {one: _signal.getsignal(one) for one in ENDING}

    def stop(signum: int, _: object) -> None:
        # Once is enough: the way out must not be interrupted.
        for one in ENDING:
            _signal.signal(one, linux.SIG_IGN)
        raise Stopped(signum)

    for one, handler in before.items():
        if handler != linux.SIG_IGN:
            _signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in before.items():
            _signal.signal(one, handler)


def end_with(command: Callable[[list[str]], int]) -> None:
    """End this process as the command that its arguments ask for does: by status, or by signal."""
    try:
        status = command(sys.argv[1:])
    except Stopped as stopped:
        stopped.end()
        raise
    except KeyboardInterrupt:
        # Whoever waits for us is to see what we ended of, a shell's loop for one.
        linux.sigaction(linux.SIGINT, linux.SIG_DFL)
        os.kill(os.getpid(), linux.SIGINT)
        raise
    # Nothing is left to flush or close, and taking an interpreter down in order costs 2 ms.
    os._exit(status)


@contextmanager
def unstoppable() -> Iterator[None]:
    """Have such a signal wait until the end of the block."""
    held = linux.sigprocmask(linux.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        linux.sigprocmask(linux.SIG_SETMASK, held)
