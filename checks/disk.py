"""A disk for the judge: a loop device on a file in memory.

To the kernel it is a block device like any other; what is read of it and written to it, past the
cache, is counted and throttled like any other's. The file has no name, and the device detaches
itself when the last who had it open is gone: not even SIGKILL leaves one behind. See loop(4).
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from checks.bench import Bench
from checks.canaries import nonce
from checks.visitor import Hindered
from checks.words import say

CONTROL = "/dev/loop-control"
MAJOR = 7
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4
CONFIG = struct.Struct("=II 5Q 4I 64s 64x 32x 16x 64x")
"""struct loop_config: the file, the block size, and struct loop_info64."""
SIZE = 8 << 20
TRIES = 20


@dataclass(frozen=True)
class Disk:
    """A block device: how it is called on the bench, its number, and a way to it past the cache."""

    name: str
    number: str
    """`MAJOR:MINOR`, as the kernel writes it in the files of a group."""
    direct: int
    """An open descriptor, with O_DIRECT."""


@contextlib.contextmanager
def disk(bench: Bench) -> Iterator[Disk]:
    """Give a disk of SIZE bytes, that the bench can see. Raises Hindered where none can be had."""
    with contextlib.ExitStack() as stack:
        try:
            backing = os.memfd_create(nonce("labrun-disk"))
            stack.callback(os.close, backing)
            os.posix_fallocate(backing, 0, SIZE)
            control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, control)
            minor, name = _attach(stack, control, backing, bench)
            direct = os.open(bench.path(name), os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            stack.callback(os.close, direct)
        except OSError as error:
            reason = f"{error.filename or CONTROL}: {error.strerror}"
            raise Hindered(say("disk.none", reason=reason)) from None
        yield Disk(name, f"{MAJOR}:{minor}", direct)


def _attach(
    stack: contextlib.ExitStack, control: int, backing: int, bench: Bench
) -> tuple[int, str]:
    """Attach the file to a free device, which stays so until the stack ends; return which."""
    for _ in range(TRIES):
        minor = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
        name = _node(minor, bench)
        device = os.open(bench.path(name), os.O_RDWR | os.O_CLOEXEC)
        label = os.readlink(f"/proc/self/fd/{backing}").encode()[:63]
        config = CONFIG.pack(backing, 0, *[0] * 5, 0, 0, 0, LO_FLAGS_AUTOCLEAR, label)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(device)
            # Between the question and this somebody else may have taken it.
            if error.errno != errno.EBUSY:
                raise
            continue
        stack.callback(os.close, device)
        return minor, name
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), CONTROL)


def _node(minor: int, bench: Bench) -> str:
    """Return the path of a loop device on the bench, where its /dev has none, of one made there."""
    name = f"/dev/loop{minor}"
    if os.path.exists(bench.path(name)):
        return name
    name = f"{bench.scratch}/loop{minor}"
    if not os.path.exists(bench.path(name)):
        os.mknod(bench.path(name), stat.S_IFBLK | 0o600, os.makedev(MAJOR, minor))
    return name


def moved(text: str, number: str, write: bool, *, unified: bool) -> int:
    """Return the bytes that a group's statistics count for a device: of io.stat, or of blkio."""
    for row in text.splitlines():
        words = row.split()
        if words[0] != number:
            continue
        if unified:
            counts = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            return int(counts.get("wbytes" if write else "rbytes", 0))
        if words[1] == ("Write" if write else "Read"):
            return int(words[2])
    return 0
