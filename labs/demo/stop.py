"""How what takes long is stopped: by Ctrl-C and its kin, in this process alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from labs.errors import SIGNALLED, Refused
from labs.rootfs.interrupts import Interrupts


class Stopped(KeyboardInterrupt):
    """Told to end by another signal than Ctrl-C's; as that, it is no mistake of a probe's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Stop(Interrupts):
    """Interrupts that a child of ours doesn't take for its own.

    Ctrl-C reaches every process of the terminal's group, also one that the judges have forked a
    moment ago. It carries our `with` blocks, and would take down the bench on its way out.
    """

    def __init__(self) -> None:
        """Remember whose the blocks are."""
        super().__init__()
        self._owner = os.getpid()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            os._exit(128 + number)
        super()._note(number, frame)

    def _told(self, number: int) -> BaseException:
        return Stopped(number)


@contextmanager
def told(what: str, sentence: str) -> Iterator[None]:
    """Have Stopped end `what` with a sentence and the signal's status; Ctrl-C says itself."""
    try:
        yield
    except Stopped as stopped:
        raise Refused(what, sentence, status=SIGNALLED + stopped.number) from None
