"""Ctrl-C and its kin as exceptions, but only where we say so: nothing half-made is left."""

import os
import select
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
        self._wake: tuple[int, int] | None = None
        self._woke_before = -1

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere signals stay whoever's they are.
        if threading.current_thread() is threading.main_thread():
            self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._woke_before = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
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
        if self._wake:
            signal.set_wakeup_fd(self._woke_before)
            for end in self._wake:
                os.close(end)
            self._wake = None
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

    def read(self, descriptor: int, size: int) -> bytes:
        """Read from a pipe as os.read does; a signal ends the wait for data, whenever it comes.

        One that comes after Python has looked for signals and before the kernel sleeps in read(2)
        would be noticed only with the next data; the wake-up pipe closes that gap.
        """
        while self._wake:
            ready, _, _ = select.select([descriptor, self._wake[0]], [], [])
            if descriptor in ready:
                break
            os.read(self._wake[0], 64)
        return os.read(descriptor, size)

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
        raise KeyboardInterrupt if number == signal.SIGINT else self._told(number)

    def _told(self, number: int) -> BaseException:
        """Return what a signal other than Ctrl-C's raises."""
        name = signal.Signals(number).name
        return Refused("rootfs", say("rootfs.stopped", signal=name), status=128 + number)
