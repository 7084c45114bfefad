"""Whiteouts: how a layer says that something below it is gone.

A layer can't take away what is in a lower one: it only can lie on top of it. So a deletion is a
mark. In a tar of OCI's, as AUFS began it, `.wh.NAME` beside where NAME was; and `.wh..wh..opq` in
a directory says that nothing of its lower contents is there ("opaque"). On disk there are three
forms. See OCI image-spec, layer.md, "Whiteouts"; the kernel's filesystems/overlayfs.
"""

from __future__ import annotations

import os
import stat

from stages import linux
from stages.light import read_text, suppress
from stages.stage4_overlayfs.more.walk import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol

    class Form(Protocol):
        """The seam: how one driver keeps deletions, on unpacking and on packing."""

        merged: bool
        """Whether the lower layers are in the same directory, so that a deletion deletes."""

        def whiteout(self, dirfd: int, name: bytes) -> None:
            """Say in a directory that the lower `name` is gone."""

        def revive(self, dirfd: int, name: bytes) -> None:
            """Take that back: the layer has a `name` of its own."""

        def opaque(self, dirfd: int, ours: Collection[bytes]) -> None:
            """Say that a directory's lower contents are gone; `ours` are this layer's names."""

        def deletes(self, name: bytes, status: os.stat_result) -> bytes | None:
            """Return the name that the file `name` is a whiteout of; None where it is a file.

            It is empty where the file is another mark of the driver's.
            """

        def is_opaque(self, dirfd: int) -> bool:
            """Return whether a directory hides its lower contents."""


PREFIX, OPAQUE = b".wh.", b".wh..wh..opq"


class OverlayForm:
    """The kernel's overlay: a character device 0:0, and an extended attribute of a directory."""

    merged = False

    def __init__(self, privileged: bool | None = None) -> None:
        """Take the attribute's name: by default, whatever a mount by this process would read.

        `trusted.` takes CAP_SYS_ADMIN over the whole machine. Inside a user namespace overlay is
        mounted with `userxattr`, and then reads `user.overlay.` instead.
        """
        if privileged is None:
            privileged = os.geteuid() == 0 and not in_user_namespace()
        self.prefix = "trusted.overlay." if privileged else "user.overlay."

    def whiteout(self, dirfd: int, name: bytes) -> None:
        """Make the device. It leads to no driver, so anybody may make one. See mknod(2)."""
        linux.mknod(name, linux.S_IFCHR, 0, 0, dirfd)

    def revive(self, dirfd: int, name: bytes) -> None:
        """Remove the device."""
        os.unlink(name, dir_fd=dirfd)

    def opaque(self, dirfd: int, ours: Collection[bytes]) -> None:
        """Set the attribute."""
        linux.setxattr(dirfd, self.prefix + "opaque", b"y")

    def deletes(self, name: bytes, status: os.stat_result) -> bytes | None:
        """Return `name` itself for a device 0:0."""
        return name if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 else None

    def is_opaque(self, dirfd: int) -> bool:
        """Return whether it has the attribute."""
        opaque = self.prefix + "opaque"
        return opaque in os.listxattr(dirfd) and os.getxattr(dirfd, opaque) == b"y"


class AufsForm:
    """AUFS, which OCI has it from: the marks are empty files, of the same names as in a tar."""

    merged = False

    def whiteout(self, dirfd: int, name: bytes) -> None:
        """Make the file."""
        self._mark(dirfd, PREFIX + name)

    def revive(self, dirfd: int, name: bytes) -> None:
        """Remove the file."""
        os.unlink(PREFIX + name, dir_fd=dirfd)

    def opaque(self, dirfd: int, ours: Collection[bytes]) -> None:
        """Make the file."""
        self._mark(dirfd, OPAQUE)

    def _mark(self, dirfd: int, name: bytes) -> None:
        flags = linux.O_WRONLY | linux.O_CREAT | linux.O_NOFOLLOW | linux.O_CLOEXEC
        os.close(os.open(name, flags, 0o444, dir_fd=dirfd))

    def deletes(self, name: bytes, status: os.stat_result) -> bytes | None:
        """Return what follows the prefix; nothing where that is a mark of AUFS's own."""
        if name.startswith(PREFIX + PREFIX):
            return b""
        return name[len(PREFIX) :] if name.startswith(PREFIX) else None

    def is_opaque(self, dirfd: int) -> bool:
        """Return whether the file is there."""
        with suppress(FileNotFoundError):
            os.stat(OPAQUE, dir_fd=dirfd, follow_symlinks=False)
            return True
        return False


class ApplyForm:
    """No mark at all: the lower layers are in the same directory, and what is deleted goes."""

    merged = True

    def whiteout(self, dirfd: int, name: bytes) -> None:
        """Delete it, with all that is below; no error where there is nothing."""
        with suppress(FileNotFoundError):
            remove(dirfd, name)

    def revive(self, dirfd: int, name: bytes) -> None:
        """Nothing: there is no mark."""

    def opaque(self, dirfd: int, ours: Collection[bytes]) -> None:
        """Delete what isn't this layer's."""
        for name in names(dirfd):
            if name not in ours:
                remove(dirfd, name)

    def deletes(self, name: bytes, status: os.stat_result) -> bytes | None:
        """Return None: what is gone can't be seen."""
        return None

    def is_opaque(self, dirfd: int) -> bool:
        """Return False."""
        return False


def in_user_namespace() -> bool:
    """Return whether this process has fewer uids than the machine. See user_namespaces(7)."""
    return read_text("/proc/self/uid_map").split() != ["0", "0", "4294967295"]


def names(dirfd: int) -> list[bytes]:
    """Return what is in a directory, in order."""
    return sorted(map(os.fsencode, os.listdir(dirfd)))


def remove(dirfd: int, name: bytes) -> None:
    """Remove a file, or a directory with all that is below it, and never follow a link.

    Directories below are moved up beside it and emptied one after another: however deep they are,
    two are open, and no `..` has to be trusted on a way back.
    """
    try:
        os.unlink(name, dir_fd=dirfd)
        return
    except IsADirectoryError:
        waiting = [name]
    while waiting:
        top = waiting.pop()
        fd = os.open(top, DIRECTORY, dir_fd=dirfd)
        try:
            os.fchmod(fd, 0o700)
            for child in names(fd):
                try:
                    os.unlink(child, dir_fd=fd)
                except IsADirectoryError:
                    # No file of a layer has this prefix.
                    beside = PREFIX + b"gone-" + os.urandom(8).hex().encode()
                    os.rename(child, beside, src_dir_fd=fd, dst_dir_fd=dirfd)
                    waiting.append(beside)
        finally:
            os.close(fd)
        os.rmdir(top, dir_fd=dirfd)
