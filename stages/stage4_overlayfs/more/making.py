"""Making what an entry says, relative to an open directory, and what is there makes room.

No call here follows a link, the last part of its path included.
"""

from __future__ import annotations

import os
import stat

from stages import linux
from stages.stage4_overlayfs import whiteouts
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.owners import Owners
from stages.stage4_overlayfs.more.tar import Entry, Hostile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    Made = TypeVar("Made")

NEW = os.O_EXCL | linux.O_WRONLY | linux.O_CREAT | linux.O_NOFOLLOW | linux.O_CLOEXEC
NODES = {tar.CHAR: stat.S_IFCHR, tar.BLOCK: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
LONGEST_LINK = 4095
"""Bytes. See symlink(2)."""


class Maker:
    """Makes files of an entry's type and likeness."""

    def __init__(self) -> None:
        """Find out whom files can be given to."""
        self.owners = Owners()

    def make(self, entry: Entry, folder: int, name: bytes, content: Iterator[memoryview]) -> None:
        """Make anything but a directory and a hard link."""
        if entry.kind == tar.FILE:
            self.file(entry, folder, name, content)
        elif entry.kind == tar.SYMLINK:
            self.symlink(entry, folder, name)
        else:
            self.node(entry, folder, name)

    def file(self, entry: Entry, folder: int, name: bytes, content: Iterator[memoryview]) -> None:
        """Write a file."""
        fd = new(folder, name, lambda: os.open(name, NEW, 0o600, dir_fd=folder))
        try:
            for piece in content:
                while piece:
                    piece = piece[os.write(fd, piece) :]
            self.dress(fd, entry)
        finally:
            os.close(fd)

    def symlink(self, entry: Entry, folder: int, name: bytes) -> None:
        """Make a link, whatever it says: it is the container's root that it will be read in."""
        if not entry.link or b"\0" in entry.link or len(entry.link) > LONGEST_LINK:
            raise Hostile(entry.name, "a link that leads nowhere")
        new(folder, name, lambda: os.symlink(entry.link, name, dir_fd=folder))
        uid, gid, _ = self.owners.of(entry)
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    def node(self, entry: Entry, folder: int, name: bytes) -> None:
        """Make a device node or a FIFO."""
        if entry.kind == tar.CHAR and entry.major == entry.minor == 0:
            raise Hostile(entry.name, "the device 0:0 is a whiteout of overlay's")
        numbers = NODES[entry.kind] | 0o600, entry.major, entry.minor
        try:
            new(folder, name, lambda: linux.mknod(name, *numbers, folder))
        except PermissionError:
            if entry.kind == tar.FIFO:
                raise
            raise Hostile(entry.name, "a device node, which takes root to make") from None
        # Opening a device starts its driver. O_PATH doesn't, and the link in /proc is to what
        # was opened, whatever has the name by now.
        flags = linux.O_PATH | linux.O_NOFOLLOW | linux.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != NODES[entry.kind]:
                raise Hostile(entry.name, "somebody exchanged it meanwhile")
            self.dress(f"/proc/self/fd/{fd}", entry)
        finally:
            os.close(fd)

    def dress(self, file: int | str, entry: Entry) -> None:
        """Set owner, mode, extended attributes and time: each takes away some of those before."""
        uid, gid, foreign = self.owners.of(entry)
        os.chown(file, uid, gid)
        # chown(2) clears setuid and capabilities. A setuid file of somebody whom this process
        # can't give it to would become a setuid file of its own.
        os.chmod(file, entry.mode & (0o1777 if foreign else 0o7777))
        for name, value in entry.xattrs.items():
            linux.setxattr(file, name, value)
        os.utime(file, ns=(entry.mtime, entry.mtime))


def hard_link(source: int, first: bytes, folder: int, name: bytes) -> None:
    """Give the file `first` in the directory `source` a second name in `folder`."""
    # Links are not followed: what gets the second name is what has the first one.
    new(
        folder,
        name,
        lambda: os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False),
    )


def new(folder: int, name: bytes, make: Callable[[], Made]) -> Made:
    """Return what `make` makes, in the place of what a lower layer has there."""
    try:
        return make()
    except FileExistsError:
        whiteouts.remove(folder, name)
        return make()
