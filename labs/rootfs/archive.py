"""Tar archives, from wherever their bytes come: handed to `unpack.py`, which sits in the target."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

from labs.errors import CANNOT, Refused
from labs.rootfs import programs
from labs.rootfs.interrupts import Interrupts
from labs.texts import say

UNPACK = Path(__file__).with_name("unpack.py")
CHUNK = 1 << 18
ZSTD = b"\x28\xb5\x2f\xfd"


def chunks(path: Path) -> Iterator[bytes]:
    """Read a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def stream(descriptor: int, interrupts: Interrupts) -> Iterator[bytes]:
    """Read a pipe piece by piece."""
    while piece := interrupts.read(descriptor, CHUNK):
        yield piece


def unpack(
    pieces: Generator[bytes, None, None],
    root: Path,
    interrupts: Interrupts,
    *,
    name: str,
    layer: bool = False,
) -> list[str]:
    """Unpack the archive called `name` into `root`; in a `layer`, whiteouts delete.

    Returns remarks for the reader. Raises Refused where the archive is damaged or hostile, OSError
    where the kernel says no (a full disk).
    """
    with contextlib.closing(pieces):
        notes = _unpack(pieces, root, interrupts, name=name, layer=layer)
        # The unpacker has all it wants; whoever compares a digest wants the last byte.
        for _ in pieces:
            pass
    return notes


def _unpack(
    pieces: Iterator[bytes], root: Path, interrupts: Interrupts, *, name: str, layer: bool
) -> list[str]:
    first = next(pieces, b"")
    command = [sys.executable, "-I", "-S", str(UNPACK), str(root), "layer" if layer else "archive"]
    with interrupts.held():
        children: list[subprocess.Popen[bytes]] = []
        try:
            pipe = subprocess.PIPE
            # In a session of its own a terminal's Ctrl-C reaches us alone, and we stop it.
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
            children.append(child)
            if first.startswith(ZSTD):
                children.append(_zstd(child, name))
            with interrupts.let_through():
                _feed(children[-1], first, pieces)
                assert child.stdout
                said = child.stdout.read()
                status = [each.wait() for each in children]
        finally:
            for each in reversed(children):
                programs.stop(each)
    if not said:
        raise Refused(name, say("rootfs.unpack_died", status=status[0]))
    notes = _understood(json.loads(said), name)
    if any(status):
        raise Refused(name, say("rootfs.damaged", name="zstd"))
    return notes


def printable(text: str) -> str:
    """Return a name from an archive with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _zstd(unpacker: subprocess.Popen[bytes], name: str) -> subprocess.Popen[bytes]:
    if not shutil.which("zstd"):
        raise Refused(name, say("rootfs.no_zstd"), say("rootfs.no_zstd.remedy"), status=CANNOT)
    child = subprocess.Popen(
        ["zstd", "-dcq"], stdin=subprocess.PIPE, stdout=unpacker.stdin, start_new_session=True
    )
    assert unpacker.stdin
    # The unpacker sees the end only when the last writer has closed.
    unpacker.stdin.close()
    return child


def _feed(child: subprocess.Popen[bytes], first: bytes, rest: Iterator[bytes]) -> None:
    assert child.stdin
    try:
        child.stdin.write(first)
        for piece in rest:
            child.stdin.write(piece)
        child.stdin.close()
    except BrokenPipeError:
        # It has given up, and says why in its report.
        return


def _understood(report: dict[str, object], name: str) -> list[str]:
    key, what = report.get("key"), printable(str(report.get("name", "")))
    if key is None:
        notes = report["notes"]
        assert isinstance(notes, list)
        return [say(f"rootfs.{note['key']}", name=printable(note["name"])) for note in notes]
    if key == "kernel":
        number = report["errno"]
        assert isinstance(number, int)
        if number in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG):
            # Names that don't fit each other are the archive's fault, not the machine's.
            raise Refused(name, say("rootfs.damaged", name=f"{what}: {os.strerror(number)}"))
        raise OSError(number, os.strerror(number), what)
    raise Refused(name, say(f"rootfs.{key}", name=what))
