"""A monitor's door: a socket in the container's folder, where others come to wait, look and type.

A message is a letter and what goes with it; a packet is a message, for the socket keeps them apart
(SOCK_SEQPACKET). Whoever comes says first what for:

    A  to attach: to see what is written from now on, and to type
    O  the same, for whoever has begun it: it ends when its owner goes without a word
    W  to wait for its end

Then it may say `i` and bytes that are typed, `e` that no more will be, `w` rows and columns of its
window, `s` a signal's number, `d` that it goes and the container may stay. It hears `1` and `2`
with what comes out of stdout and stderr, `r` with the ID once the command runs, and last `x` with
the exit status. See unix(7).
"""

from __future__ import annotations

import _socket
import os
from struct import pack, unpack

from stages import linux
from stages.light import contextmanager, suppress
from stages.stage5_container.loop import IN, MUCH, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage5_container.monitor import Monitor

PACKET = 32768
"""Bytes of a message at most: it has to fit into a socket's buffer whole."""
NAME = "door"


class Door:
    """Where visitors come in."""

    def __init__(self, monitor: Monitor, folder: str) -> None:
        """Open it in a container's folder, in place of one whose monitor is dead."""
        self.monitor, self.path = monitor, f"{folder}/{NAME}"
        with suppress(FileNotFoundError):
            linux.unlink(self.path)
        self.socket = new_socket()
        with reachable(folder) as place:
            linux.request(f'bind("{self.path}")', self.socket.bind, f"{place}/{NAME}")
        self.socket.listen(16)
        self.socket.setblocking(False)
        monitor.loop.watch(self.socket.fileno(), IN, self.admit)

    def admit(self) -> bool:
        """Let somebody in. Only root, or the user whose store it is, finds the way here."""
        try:
            fd, _ = self.socket._accept()  # type: ignore[attr-defined]  # socket.accept() takes another module
        except BlockingIOError:
            return False
        Visitor(self.monitor, _socket.socket(fileno=fd))
        return True

    def close(self) -> None:
        """Close it: nobody comes any more, and whoever stands before it comes in."""
        self.monitor.loop.forget(self.socket.fileno())
        with suppress(FileNotFoundError):
            linux.unlink(self.path)
        while self.admit():
            pass
        self.socket.close()


class Visitor:
    """Somebody who looks on, and may type."""

    def __init__(self, monitor: Monitor, socket: _socket.socket) -> None:
        """Take the socket."""
        self.monitor, self.socket = monitor, socket
        self.waiting: list[bytes] = []
        self.length, self.owner = 0, False
        socket.setblocking(False)
        monitor.visitors.append(self)
        self.watch()

    @property
    def full(self) -> bool:
        """Return whether it has to catch up first."""
        return self.length > MUCH

    def deaf(self, _: int) -> bool:
        """Return False: others may come."""
        return False

    def watch(self) -> None:
        """Wait for what it says, and, where something waits for it, until it hears."""
        self.monitor.loop.forget(self.socket.fileno())
        events = (IN if self.monitor.hungry else 0) | (OUT if self.waiting else 0)
        self.monitor.loop.watch(self.socket.fileno(), events, self.serve)

    def take(self, stream: int, data: bytes) -> None:
        """Have it hear what the command wrote."""
        for start in range(0, len(data), PACKET):
            self.tell(b"%d" % stream + data[start : start + PACKET])

    def tell(self, message: bytes) -> None:
        """Have it hear a message, soon."""
        self.waiting.append(message)
        self.length += len(message)
        self.flush()
        self.watch()

    def serve(self) -> None:
        """Hear it, and be heard."""
        if self.waiting:
            self.flush()
            self.watch()
        try:
            message = self.socket.recv(PACKET + 1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            self.heed(message[:1], message[1:])
        else:
            self.leave(killed=self.owner)

    def flush(self) -> None:
        """Say what it can hear just now."""
        try:
            while self.waiting:
                self.socket.send(self.waiting[0])
                self.length -= len(self.waiting.pop(0))
        except BlockingIOError:
            return
        except OSError:
            self.waiting.clear()  # it has gone: we shall hear that, too
            self.length = 0

    def hear_out(self) -> None:
        """Take what it still says: or the kernel tells it of a reset, and not of the end."""
        with suppress(OSError):
            while self.socket.recv(PACKET + 1):
                pass

    def heed(self, letter: bytes, more: bytes) -> None:
        """Do what a message asks for."""
        monitor = self.monitor
        if letter in b"AO":
            self.owner = letter == b"O"
            monitor.sinks.append(self)
        elif letter == b"i":
            monitor.put(more)
        elif letter == b"e" and self.owner and not monitor.container.tty:
            monitor.put_end()
        elif letter == b"w" and len(more) == 4:
            rows, columns = unpack("HH", more)
            monitor.resize(rows, columns)
        elif letter == b"s" and more:
            monitor.send(more[0])
        elif letter == b"d":
            self.leave()

    def leave(self, *, killed: bool = False) -> None:
        """Forget it; where it was the owner and said nothing, the command goes, too."""
        if self in self.monitor.sinks:
            self.monitor.sinks.remove(self)
        self.monitor.visitors.remove(self)
        self.monitor.loop.forget(self.socket.fileno())
        self.socket.close()
        if killed:
            self.monitor.give_up()


def new_socket() -> _socket.socket:
    """Return a socket that keeps messages apart."""
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)


def new_pair() -> tuple[_socket.socket, _socket.socket]:
    """Return two ends, for two who know each other."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)


@contextmanager
def reachable(folder: str) -> Iterator[str]:
    """Have a short path to a directory: a socket's address has 108 bytes. See unix(7)."""
    fd = linux.open_file(folder, linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def knock(folder: str, what: bytes) -> _socket.socket | None:
    """Come to a container's monitor, and say what for; None where there is none."""
    socket = new_socket()
    try:
        with reachable(folder) as place:
            socket.connect(f"{place}/{NAME}")
        socket.send(what)
    except OSError:
        socket.close()
        return None
    return socket


def window(rows: int, columns: int) -> bytes:
    """Return the message that tells a window's size."""
    return b"w" + pack("HH", rows, columns)
