"""The other side of a monitor's door: the caller's streams, keys, signals and window."""

from __future__ import annotations

import os

from stages import linux
from stages.stage1_chroot.process import PASSED_ON, hold_signals, release_signals
from stages.stage5_container.door import PACKET, knock, window
from stages.stage5_container.loop import IN, Loop, Writer
from stages.stage5_container.state import KILLED
from stages.stage5_container.terminal import Raw, window_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

KEYS = b"\x10\x11"
"""ctrl-p ctrl-q: what leaves a container running, as with Docker."""


class Attachment:
    """One who has come to the door, until the container has ended or the keys were typed."""

    def __init__(self, door: socket, *, tty: bool, interactive: bool, owner: bool) -> None:
        """Take the socket, and what the container is like."""
        self.door, self.tty, self.owner = door, tty, owner
        self.loop, self.status, self.typed = Loop(), -1, b""
        self.writers = {1: Writer(self.loop, 1), 2: Writer(self.loop, 2)}
        self.interactive, self.begun = interactive, False

    def converse(self) -> int:
        """Carry everything to and fro; return the container's exit status, 0 where it stays."""
        before = hold_signals()
        signals = linux.signalfd(PASSED_ON)
        with Raw(0 if self.tty and self.interactive else -1):
            self.loop.watch(signals, IN, lambda: self.heed(linux.read_signal(signals)))
            self.loop.watch(self.door.fileno(), IN, self.hear)
            if self.interactive:
                self.loop.watch(0, IN, self.type)
            self.heed(linux.SIGWINCH)
            while self.status < 0:
                self.loop.turn()
            while any(writer.waiting for writer in self.writers.values()):
                self.loop.forget(self.door.fileno())
                self.loop.forget(0)
                self.loop.turn()
        os.close(signals)
        release_signals(before)
        return self.status

    def hear(self) -> None:
        """Hear what the monitor says."""
        try:
            message = self.door.recv(PACKET + 1)
        except OSError:
            message = b""
        letter, more = message[:1], message[1:]
        if letter in (b"1", b"2"):
            self.writers[int(letter)].put(more)
        elif letter == b"x":
            self.status = int(more)
        elif letter == b"r":
            self.begun = True
        elif not message:
            self.status = KILLED  # its monitor was killed, and so was the command

    def type(self) -> None:
        """Hand on what is typed."""
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""  # EIO: the terminal has been hung up
        if not data:
            self.loop.forget(0)
            self.say(b"e")
            if self.tty:
                self.status = 128 + linux.SIGHUP  # nobody can type any more, nor see
            return
        if self.tty and self.leaves(data):
            self.say(b"d")
            self.status = 0
            return
        self.say(b"i" + data)

    def leaves(self, data: bytes) -> bool:
        """Return whether the keys were typed, one behind the other, however they come."""
        self.typed = (self.typed + data)[-len(KEYS) :]
        return self.typed == KEYS

    def heed(self, signum: int) -> None:
        """Hand a signal on; a window that has changed is told in full."""
        if signum == linux.SIGWINCH and self.tty:
            self.say(window(*window_of(0)))
        elif signum != linux.SIGWINCH:
            self.say(b"s" + bytes([signum]))

    def say(self, message: bytes) -> None:
        """Say something to the monitor; where it is gone we shall hear of it."""
        try:
            self.door.send(message)
        except OSError:
            return


def own(door: socket, child: int, *, tty: bool, interactive: bool) -> int:
    """Be the caller of a container that this process has begun, until it ends or is left."""
    door.send(b"O")
    status = Attachment(door, tty=tty, interactive=interactive, owner=True).converse()
    if status != KILLED:
        return status
    # Nothing was said: the monitor has failed, and its own exit status tells of what.
    ended = linux.waitid(child, linux.WEXITED)
    assert ended
    return ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)


def attach(folder: str, *, tty: bool, interactive: bool) -> int | None:
    """Come to a running container; None where it doesn't run."""
    door = knock(folder, b"A")
    if not door:
        return None
    return Attachment(door, tty=tty, interactive=interactive, owner=False).converse()
