"""Ctrl-C while a tree is being made: what is half made goes first, and then this process.

To unpack a big image takes a while, and there is no command yet to get the signal.
"""

from __future__ import annotations

import contextlib
import os
import signal

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that people end a program with."""


class Stopped(BaseException):
    """A signal has come that ends this process."""

    def __init__(self, signum: int) -> None:
        """Take the signal."""
        super().__init__(signum)
        self.signum = signum

    def end(self) -> None:
        """End this process by that signal: whoever waits for us is to see what we ended of."""
        signal.signal(self.signum, signal.SIG_DFL)
        os.kill(os.getpid(), self.signum)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Have such a signal raise Stopped, unless the caller has it ignored, as nohup(1) does."""
    before = {one: signal.getsignal(one) for one in ENDING}

    def stop(signum: int, _: object) -> None:
        # Once is enough: the way out must not be interrupted.
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(signum)

    for one, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def unstoppable() -> Iterator[None]:
    """Have such a signal wait until the end of the block."""
    held = linux.sigprocmask(linux.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        linux.sigprocmask(linux.SIG_SETMASK, held)
