"""A directory becomes a layer's tar, with whatever its owner can tell about each file.

The same directory gives the same bytes: names in order, no time of packing, no names of owners.
Like unpacking, it works from open directories and follows no link, as a container that still runs
may exchange one for the other meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat

from stages import linux
from stages.stage4_overlayfs import whiteouts
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.walk import Walk
from stages.stage4_overlayfs.unpack import kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from stages.stage4_overlayfs.whiteouts import Form

KINDS = {
    stat.S_IFREG: tar.FILE,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCK,
    stat.S_IFIFO: tar.FIFO,
}
END = bytes(2 * tar.UNIT)


def pack(
    directory: linux.StrPath,
    form: Form,
    *,
    only: Collection[bytes] | None = None,
    deleted: Collection[bytes] = (),
) -> Iterator[bytes]:
    """Give the tar of what is in `directory`, piece by piece; `form` says what is a deletion.

    With `only`, paths such as b"etc/passwd", it holds those and the directories on their way; and
    a whiteout of each path in `deleted`: so a driver whose layers are whole trees says what has
    changed. Sockets are left out, as tar has none. Raises ValueError for what a layer can't hold,
    OSError (ESTALE) for a file that became shorter while it was read.
    """
    return Packing(directory, form, only, deleted).everything()


class Packing:
    """One directory on its way into an archive."""

    def __init__(
        self,
        directory: linux.StrPath,
        form: Form,
        only: Collection[bytes] | None,
        deleted: Collection[bytes],
    ) -> None:
        """Note what is asked for."""
        self.directory, self.form = directory, form
        self.deleted: dict[bytes, set[bytes]] = {}
        for path in deleted:
            above, _, name = path.rpartition(b"/")
            self.deleted.setdefault(above, set()).add(name)
        self.every = only is None
        # The directories on the way too: what is implied in a layer would be root's, and 0755.
        self.only = {way for path in (*(only or ()), *deleted) for way in ways(path)}
        self.links: dict[tuple[int, int], bytes] = {}

    def everything(self) -> Iterator[bytes]:
        """Give all entries, directories before what is in them, and the end mark."""
        walk = Walk(self.directory)
        try:
            waiting = [b""]
            while waiting:
                path = waiting.pop()
                below: list[bytes] = []
                yield from self.folder(walk.open(path), path, below)
                waiting += reversed(below)
        finally:
            walk.close()
        yield END

    def folder(self, folder: int, path: bytes, below: list[bytes]) -> Iterator[bytes]:
        """Give a directory and its files; put the directories in it into `below`."""
        prefix = path + b"/" if path else b""
        entry = described(prefix or b"./", os.fstat(folder))
        entry.xattrs = attributes(folder, path)
        yield tar.header(entry)
        if self.form.is_opaque(folder):
            yield tar.header(tar.Entry(prefix + whiteouts.OPAQUE, tar.FILE))
        gone = self.deleted.get(path, set())
        for name in sorted(gone.union(whiteouts.names(folder))):
            if name in gone:
                yield whiteout(prefix, name)
                continue
            if not self.every and prefix + name not in self.only:
                continue
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            hidden = self.form.deletes(name, status)
            if hidden == b"":
                continue
            if hidden is not None:
                yield whiteout(prefix, hidden)
            elif name.startswith(whiteouts.PREFIX):
                raise ValueError(f"{tar.shown(prefix + name)}: in a layer this would be a whiteout")
            elif stat.S_ISDIR(status.st_mode):
                below.append(prefix + name)
            elif not stat.S_ISSOCK(status.st_mode):
                yield from self.other(folder, name, prefix + name, status)

    def other(
        self, folder: int, name: bytes, path: bytes, status: os.stat_result
    ) -> Iterator[bytes]:
        """Give a file of any type but a directory."""
        entry = described(path, status)
        number = status.st_dev, status.st_ino
        if status.st_nlink > 1 and number in self.links:
            entry.kind, entry.size, entry.link = tar.LINK, 0, self.links[number]
            entry.major = entry.minor = 0
            yield tar.header(entry)
            return
        if status.st_nlink > 1:
            self.links[number] = path
        if entry.kind == tar.FILE:
            yield from content(folder, name, path)
            return
        if entry.kind == tar.SYMLINK:
            entry.link = os.readlink(name, dir_fd=folder)
        yield tar.header(entry)


def ways(path: bytes) -> list[bytes]:
    """Return a path and the directories on its way: a/b/c gives a, a/b and a/b/c."""
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def described(path: bytes, status: os.stat_result) -> tar.Entry:
    """Return the entry of a file, without what stat(2) doesn't tell."""
    entry = tar.Entry(path, KINDS[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode))
    entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, status.st_mtime_ns
    if entry.kind == tar.FILE:
        entry.size = status.st_size
    elif entry.kind in (tar.CHAR, tar.BLOCK):
        entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return entry


def attributes(fd: int, path: bytes) -> dict[str, bytes]:
    """Return the extended attributes that a layer has a say about.

    Raises ValueError where overlay keeps the rest of the file in a lower layer: a directory that
    was renamed on a mount with `redirect_dir`, or a file without contents (`metacopy`).
    """
    names = os.listxattr(fd)
    if any(name.endswith((".overlay.redirect", ".overlay.metacopy")) for name in names):
        raise ValueError(f"{tar.shown(path)}: only the overlay's mount shows all of it")
    return {name: os.getxattr(fd, name) for name in names if kept(name)}


def whiteout(prefix: bytes, name: bytes) -> bytes:
    """Return the entry that says that `name` is gone."""
    return tar.header(tar.Entry(prefix + whiteouts.PREFIX + name, tar.FILE))


def content(folder: int, name: bytes, path: bytes) -> Iterator[bytes]:
    """Give the header and the bytes of a file, as it is when opened."""
    # A FIFO that has taken its place would have open(2) wait for a writer.
    flags = linux.O_RDONLY | linux.O_NOFOLLOW | linux.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=folder)
    try:
        entry = described(path, os.fstat(fd))
        if entry.kind != tar.FILE:
            raise OSError(errno.ESTALE, "was exchanged while it was packed", tar.shown(path))
        entry.xattrs = attributes(fd, path)
        yield tar.header(entry)
        left = entry.size
        while left:
            piece = os.read(fd, min(left, tar.PIECE))
            if not piece:
                raise OSError(errno.ESTALE, "became shorter while it was packed", tar.shown(path))
            left -= len(piece)
            yield piece
        yield bytes(-entry.size % tar.UNIT)
    finally:
        os.close(fd)
