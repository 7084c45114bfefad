"""Names: how a program finds an address, by its files and by questions of DNS (RFC 1035)."""

import contextlib
import secrets
import socket
import struct
from pathlib import Path

HEADER = struct.Struct("!6H")
"""Number, flags, how many questions, answers, authorities, others: section 4.1.1."""
RECURSE, RESPONSE = 0x0100, 0x8180
A, IN = 1, 1
LARGEST = 1 << 16
"""Bytes of a file that are looked at: it is a stranger's."""


def files() -> tuple[dict[str, str], list[str]]:
    """Return the names of /etc/hosts, and the IPv4 nameservers of /etc/resolv.conf.

    Of several addresses of one name, the first that is IPv4. See hosts(5), resolv.conf(5).
    """
    hosts: dict[str, str] = {}
    for row in _rows("/etc/hosts"):
        if len(row) > 1 and ":" not in row[0]:
            for name in row[1:]:
                hosts.setdefault(name, row[0])
    servers = [row[1] for row in _rows("/etc/resolv.conf") if row[:1] == ["nameserver"] and row[1:]]
    return hosts, [server for server in servers if ":" not in server]


def _rows(path: str) -> list[list[str]]:
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        text = file.read(LARGEST).decode(errors="replace")
        return [line.partition("#")[0].split() for line in text.splitlines()]
    return []


def question(name: str) -> tuple[bytes, int]:
    """Return the question for a name's IPv4 address, and its number."""
    number = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return HEADER.pack(number, RECURSE, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, A, IN), number


def answering(asked: bytes, address: str) -> bytes:
    """Return the answer to a question: that address, whatever was asked."""
    number = HEADER.unpack_from(asked)[0]
    end = _behind_name(asked, HEADER.size) + 4
    # The name is that of the question, by its place: section 4.1.4.
    record = struct.pack("!HHHIH", 0xC000 | HEADER.size, A, IN, 60, 4) + socket.inet_aton(address)
    return HEADER.pack(number, RESPONSE, 1, 1, 0, 0) + asked[HEADER.size : end] + record


def answer(text: bytes, number: int) -> str:
    """Return the first IPv4 address of an answer, "" where it has none."""
    try:
        got, _, questions, answers, _, _ = HEADER.unpack_from(text)
        at = HEADER.size
        for _ in range(questions):
            at = _behind_name(text, at) + 4
        for _ in range(answers if got == number else 0):
            at = _behind_name(text, at)
            kind, _, _, length = struct.unpack_from("!HHIH", text, at)
            at += 10
            if kind == A and length == 4:
                return socket.inet_ntoa(text[at : at + 4])
            at += length
    except (struct.error, IndexError, OSError):
        return ""  # it is a stranger's
    return ""


def _behind_name(text: bytes, at: int) -> int:
    """Return where a name ends: with an empty label, or with a reference to another."""
    while length := text[at]:
        if length >= 0xC0:
            return at + 2
        at += length + 1
    return at + 1
