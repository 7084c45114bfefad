"""Ctrl-C and its kin as exceptions, but only where we say so: nothing half-made is left."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from labs.errors import Refused
from labs.texts import say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP are noted, and raised where `let_through` says.

    A signal may arrive between any two instructions, so between "the directory is made" and "the
    block that removes it is entered". Held by default, that moment does not exist.
    """

    def __init__(self) -> None:
        self._arrived: int | None = None
        self._through = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere signals stay whoever's they are.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # nohup and background jobs start with the signal ignored: so it stays.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if error is None:
            self._raise_pending()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Raise a signal the moment it arrives, and now if one has arrived already."""
        before, self._through = self._through, True
        try:
            self._raise_pending()
            yield
        finally:
            self._through = before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back until the end of the block."""
        before, self._through = self._through, False
        try:
            yield
        finally:
            self._through = before
        if before:
            self._raise_pending()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived = self._arrived or number
        if self._through:
            self._raise_pending()

    def _raise_pending(self) -> None:
        number, self._arrived = self._arrived, None
        if number is None:
            return
        # What follows is the tidying up, which a second Ctrl-C must not cut short.
        self._through = False
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        raise Refused("rootfs", say("rootfs.stopped", signal=name), status=128 + number)
