"""systemd: how it is asked for a part of its tree, over its own private socket.

The message is D-Bus's, written by hand: a client library, or systemd-run(1), takes longer to start
than a container. See org.freedesktop.systemd1(5), and the D-Bus specification.
"""

from __future__ import annotations

import errno
import os
from struct import pack

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

METHOD_CALL, PATH, INTERFACE, MEMBER, SIGNATURE = 1, 1, 2, 3, 8
"""What a message is, and its header's fields."""
ERROR = 3
MANAGER = "org.freedesktop.systemd1.Manager"
DESCRIPTION = "a container of labrun's"


def private_socket() -> str:
    """Return the socket of the systemd that manages our part of the tree; "" without one."""
    folder = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    path = f"{folder or f'/run/user/{os.geteuid()}'}/systemd/private"
    return path if os.path.exists(path) else ""


def start_scope(path: str, unit: str, pid: int, weight: int) -> None:
    """Ask for a scope: a group with `pid` in it, below which we may do as we like.

    `weight` is the scope's beside its neighbours, 100 by default; 0: as systemd has it.

    Raises OSError, EACCES with systemd's own words, where it refuses. See systemd.scope(5).
    """
    words = f'StartTransientUnit("{unit}", PID {pid})'
    linux.request(words, exchange, path, unit, pid, weight)


def exchange(path: str, unit: str, pid: int, weight: int) -> None:
    """Send the one message, and read the one answer."""
    import _socket  # socket wraps it, which costs 3 ms

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
        # The kernel tells the other side who we are. EXTERNAL says: ask it.
        user = str(os.geteuid()).encode().hex()
        connection.sendall(f"\0AUTH EXTERNAL {user}\r\n".encode())
        answer = connection.recv(256)
        if not answer.startswith(b"OK"):
            raise OSError(errno.EACCES, answer.decode(errors="replace").strip())
        connection.sendall(b"BEGIN\r\n" + message(unit, pid, weight))
        answer = connection.recv(4096)
    finally:
        connection.close()
    if answer[1:2] == bytes([ERROR]):
        words = answer.rstrip(b"\0").rpartition(b"\0")[2].decode(errors="replace")
        raise OSError(errno.EACCES, words.lstrip() or os.strerror(errno.EACCES))


def message(unit: str, pid: int, weight: int) -> bytes:
    """Return StartTransientUnit(unit, "fail", properties, nothing) as D-Bus has it."""
    properties = Writer()
    properties.variant("Description", "s", lambda out: out.string(DESCRIPTION))
    properties.variant("Delegate", "b", lambda out: out.uint32(1))
    properties.variant("CollectMode", "s", lambda out: out.string("inactive-or-failed"))
    properties.variant("PIDs", "au", lambda out: out.array_of_uint32([pid]))
    if weight:
        properties.variant("CPUWeight", "t", lambda out: out.uint64(weight))
    body = Writer()
    body.string(unit)
    body.string("fail")
    body.array(8, properties.data)
    body.array(8, b"")
    fields = Writer()
    fields.field(PATH, "o", "/org/freedesktop/systemd1")
    fields.field(INTERFACE, "s", MANAGER)
    fields.field(MEMBER, "s", "StartTransientUnit")
    fields.field(SIGNATURE, "g", "ssa(sv)a(sa(sv))")
    head = Writer()
    # little-endian, a call, no flags, version 1; the body's length; the number of the message
    head.data += b"l" + bytes([METHOD_CALL, 0, 1]) + pack("<II", len(body.data), 1)
    head.array(8, fields.data)
    head.align(8)
    return bytes(head.data + body.data)


class Writer:
    """D-Bus's wire format, as much as one call takes: each value at a multiple of its size."""

    def __init__(self) -> None:
        """Begin at a multiple of 8."""
        self.data = bytearray()

    def align(self, size: int) -> None:
        """Fill up with zeros to a multiple of `size`."""
        self.data += bytes(-len(self.data) % size)

    def uint32(self, value: int) -> None:
        """Write a number of 32 bits; a boolean is one, too."""
        self.align(4)
        self.data += pack("<I", value)

    def uint64(self, value: int) -> None:
        """Write a number of 64 bits."""
        self.align(8)
        self.data += pack("<Q", value)

    def string(self, text: str) -> None:
        """Write text: its length, its bytes, and a zero."""
        self.uint32(len(text.encode()))
        self.data += text.encode() + b"\0"

    def signature(self, text: str) -> None:
        """Write a type: its length in one byte, its letters, and a zero."""
        self.data += bytes([len(text)]) + text.encode() + b"\0"

    def array(self, alignment: int, elements: bytes | bytearray) -> None:
        """Write elements that are in wire format: their length, and then they, aligned."""
        self.uint32(len(elements))
        self.align(alignment)
        self.data += elements

    def array_of_uint32(self, values: list[int]) -> None:
        """Write an array of numbers."""
        self.array(4, b"".join(pack("<I", value) for value in values))

    def variant(self, name: str, kind: str, value: Callable[[Writer], None]) -> None:
        """Write one (sv): a name, and a value that says of what type it is."""
        self.align(8)
        self.string(name)
        self.signature(kind)
        value(self)

    def field(self, code: int, kind: str, text: str) -> None:
        """Write one field of a header."""
        self.align(8)
        self.data.append(code)
        self.signature(kind)
        if kind == "g":
            self.signature(text)
        else:
            self.string(text)
