"""The two sides of a copy: the host's tree, and a container's, whose every path is a trap.

A container that runs may exchange a directory for a link between a look and an open. So on its
side a path is never opened as a string of the host's, nor by a process that has gone inside: it
is walked by the kernel from the container's root, in one call, and no link leads above that
(CVE-2018-15664). And nothing of the container's is loaded or run for it (CVE-2019-14271).
"""

from __future__ import annotations

import errno
import os
import stat

from stages import linux
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.paths import follow
from stages.stage4_overlayfs.pack import KINDS
from stages.stage4_overlayfs.unpack import kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Item = tuple[tar.Entry, Iterator[memoryview]]
    """A file, and its bytes."""

INSIDE = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
LOOK = linux.O_PATH | linux.O_CLOEXEC
DIRECTORY = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC
NOT_FILES = ("proc", "sys", "dev")
"""What is mounted there is no file of anybody's, and has no end."""


class Side:
    """A tree: below the open directory `top`, which it ends at where it is a container's."""

    def __init__(self, top: int, *, inside: bool) -> None:
        """Take the open directory, `/` for the host."""
        self.top, self.inside = top, inside
        self.resolve = INSIDE if inside else 0
        self.endless = {
            status.st_dev
            for status in map(self.status, NOT_FILES if inside else ())
            if status and status.st_dev != os.fstat(top).st_dev
        }

    def open(self, path: str, flags: int) -> int:
        """Return a descriptor of a path."""
        return linux.openat2(self.top, path or ".", flags, self.resolve)

    def status(self, path: str, *, followed: bool = True) -> os.stat_result | None:
        """Return what is at a path; None where there is nothing."""
        try:
            fd = self.open(path, LOOK if followed else LOOK | linux.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def settled(self, path: str) -> str:
        """Return a path with no link in it that is there; what isn't there stays as it is."""
        return f"/{follow(path, self.link)}"

    def link(self, path: str) -> str | None:
        """Return what the link at a path says; None where there is none."""
        try:
            fd = self.open(f"/{path}", LOOK | linux.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)

    # Reading.

    def read(self, start: int, name: bytes) -> Iterator[Item]:
        """Give an open file, or a directory and all below it, as `name`; no sockets."""
        links: dict[tuple[int, int], bytes] = {}
        status = os.fstat(start)
        yield from item(start, name, links)
        waiting = [b""] if stat.S_ISDIR(status.st_mode) else []
        # Whoever names what has no end gets it.
        endless = self.endless - {status.st_dev}
        while waiting:
            below = waiting.pop()
            folder = linux.openat2(start, below or b".", DIRECTORY, BELOW)
            try:
                for one in sorted(map(os.fsencode, os.listdir(folder))):
                    way = below + b"/" + one if below else one
                    fd = look(folder, one)
                    if fd is None:
                        continue  # it has gone meanwhile
                    try:
                        facts = os.fstat(fd)
                        if not stat.S_ISSOCK(facts.st_mode):
                            yield from item(fd, name + b"/" + way if name else way, links)
                        if stat.S_ISDIR(facts.st_mode) and facts.st_dev not in endless:
                            waiting.append(way)
                    finally:
                        os.close(fd)
            finally:
                os.close(folder)


def look(folder: int, name: bytes) -> int | None:
    """Return a descriptor of a name in an open directory, which opens no device and no pipe."""
    try:
        return os.open(name, LOOK | linux.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return None


def item(fd: int, name: bytes, links: dict[tuple[int, int], bytes]) -> Iterator[Item]:
    """Give what was found as an entry; one that was given before is a hard link to it."""
    status = os.fstat(fd)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    entry = tar.Entry(name, kind, stat.S_IMODE(status.st_mode))
    entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
    number = status.st_dev, status.st_ino
    if kind != tar.DIRECTORY and status.st_nlink > 1:
        if number in links:
            entry.kind, entry.link = tar.LINK, links[number]
            yield entry, iter(())
            return
        links[number] = name
    if kind == tar.SYMLINK:
        entry.link = os.readlink(b"", dir_fd=fd)
    elif kind in (tar.CHAR, tar.BLOCK):
        entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if kind not in (tar.FILE, tar.DIRECTORY):
        yield entry, iter(())
        return
    # The descriptor says what it is: that, and nothing else that has its name by now, is opened.
    opened = linux.open_file(f"/proc/self/fd/{fd}", linux.O_RDONLY | linux.O_CLOEXEC)
    try:
        names = [one for one in os.listxattr(opened) if kept(one)]
        entry.xattrs = {one: os.getxattr(opened, one) for one in names}
        if kind == tar.DIRECTORY:
            yield entry, iter(())
        else:
            entry.size = os.fstat(opened).st_size
            yield entry, content(opened, entry.size, name)
    finally:
        os.close(opened)


def content(fd: int, size: int, name: bytes) -> Iterator[memoryview]:
    """Give the bytes that a file had when it was looked at: a log goes on growing."""
    while size:
        piece = os.read(fd, min(size, tar.PIECE))
        if not piece:
            why = "became shorter while it was copied"
            raise OSError(errno.ESTALE, why, tar.shown(name))
        size -= len(piece)
        yield memoryview(piece)
