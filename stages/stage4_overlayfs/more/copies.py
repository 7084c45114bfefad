"""Copies of files that are as good as the files: owner, mode, times, attributes, links, holes."""

from __future__ import annotations

import errno
import os
from stat import S_ISDIR, S_ISLNK, S_ISREG

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK, BUFFER = 1 << 30, 1 << 20
"""Bytes that one copy_file_range(2) is asked for, and one read(2); they may do fewer."""


class Copies:
    """Copies into one directory; files with several names stay one file."""

    def __init__(self, target: str) -> None:
        """Take the directory, which is there."""
        self.target = target
        self.links: dict[tuple[int, int], str] = {}
        self.times: list[tuple[str, os.stat_result]] = []

    def __enter__(self) -> Copies:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the directories their times, now that nothing is made in them any more."""
        for path, status in reversed(self.times):
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def copy(
        self, source: str, path: str, wanted: Callable[[str], bool] = lambda name: True
    ) -> None:
        """Copy one file; of a directory only itself. `wanted` says which attributes go along."""
        status, target = os.lstat(source), f"{self.target}{path}"
        if S_ISDIR(status.st_mode):
            os.mkdir(target, 0o700)
        elif first := self.links.get((status.st_dev, status.st_ino)):
            os.link(first, target, follow_symlinks=False)
            return
        elif S_ISREG(status.st_mode):
            copy_bytes(source, target)
        elif S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            device = status.st_rdev
            linux.mknod(target, status.st_mode, os.major(device), os.minor(device))
        if status.st_nlink > 1 and not S_ISDIR(status.st_mode):
            self.links[status.st_dev, status.st_ino] = target
        self.like(source, path, wanted)

    def like(self, source: str, path: str, wanted: Callable[[str], bool]) -> None:
        """Give the copy what the file has besides its bytes."""
        status, target = os.lstat(source), f"{self.target}{path}"
        copy_metadata(source, target, wanted)
        if S_ISDIR(status.st_mode):
            self.times.append((target, status))

    def tree(self, source: str) -> None:
        """Copy a directory with all that is in it, but not what is mounted there."""
        device = os.lstat(source).st_dev
        self.like(source, "", lambda name: True)
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for entry in os.scandir(f"{source}{folder}"):
                path = f"{folder}/{entry.name}"
                self.copy(entry.path, path)
                here = entry.stat(follow_symlinks=False)
                if S_ISDIR(here.st_mode) and here.st_dev == device:
                    waiting.append(path)


def copy_metadata(source: str, target: str, wanted: Callable[[str], bool]) -> None:
    """Give `target` the owner, mode, attributes and times of `source`, in the order that keeps all.

    chown(2) takes setuid and file capabilities away, so what it would take comes after it.
    """
    status = os.lstat(source)
    try:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    except OSError as error:
        # In a user namespace nobody may stand for that user: then the copy is this process's own.
        if error.errno != errno.EINVAL:
            raise
    if not S_ISLNK(status.st_mode):
        os.chmod(target, status.st_mode & 0o7777)
    for name in filter(wanted, os.listxattr(source, follow_symlinks=False)):
        linux.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False))
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(target, ns=times, follow_symlinks=False)


def copy_bytes(source: str, target: str) -> None:
    """Copy a file's bytes, and leave its holes holes; where the file system can, share them."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writer = os.open(target, flags, 0o600)
        try:
            size = os.fstat(reader).st_size
            os.ftruncate(writer, size)
            end = 0
            while end < size:
                try:
                    start = os.lseek(reader, end, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    break  # a hole up to the end
                end = os.lseek(reader, start, os.SEEK_HOLE)
                while start < end:
                    copied = copy_some(reader, writer, start, end - start)
                    if copied == 0:
                        return
                    start += copied
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def copy_some(reader: int, writer: int, start: int, count: int) -> int:
    """Copy some of `count` bytes from `start` on; return how many."""
    try:
        return os.copy_file_range(reader, writer, min(count, CHUNK), start, start)
    except OSError as error:
        # From one kind of file system to another the kernel doesn't (Linux 5.19).
        if error.errno != errno.EXDEV:
            raise
    return os.pwrite(writer, os.pread(reader, min(count, BUFFER), start), start)
