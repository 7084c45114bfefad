"""What is copied arrives: files are made relative to open directories, and no link is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from stages import linux
from stages.command_line import note
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.making import Maker, hard_link
from stages.stage4_overlayfs.unpack import path_of
from stages.stage5_container.more.sides import BELOW, DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from stages.stage5_container.more.sides import Item, Side

SPECIAL = stat.S_ISUID | stat.S_ISGID


class Arrivals:
    """A directory that files arrive in, and as whose."""

    def __init__(self, side: Side, folder: str, owner: tuple[int, int] | None) -> None:
        """Take the directory's path; `owner` gets all, or with None each keeps its own."""
        self.side, self.owner, self.maker = side, owner, Maker()
        self.at = side.open(folder, DIRECTORY)
        self.path = folder
        self.new: list[tar.Entry] = []

    def close(self) -> None:
        """Close it."""
        os.close(self.at)

    def take(self, items: Iterable[Item]) -> None:
        """Make all of them; directories get their times once all is in them."""
        for entry, pieces in items:
            path = path_of(entry.name)
            if not path:
                continue  # the directory itself, which is there
            if not self.side.inside and entry.kind in (tar.CHAR, tar.BLOCK):
                # Inside, the control group keeps it from being opened. Out here nothing does.
                note(f"{tar.shown(path)}: left out: a device that a container has made")
                continue
            self.claim(entry)
            above, _, name = path.rpartition(b"/")
            folder = self.way_to(above)
            try:
                if entry.kind == tar.DIRECTORY:
                    self.make_folder(entry, folder, name)
                else:
                    self.make_room(entry, folder, name)
                    if entry.kind == tar.LINK:
                        self.link(entry, folder, name)
                    else:
                        self.maker.make(entry, folder, name, pieces)
            finally:
                os.close(folder)
        for entry in sorted(self.new, key=lambda one: one.name, reverse=True):
            fd = self.reach(path_of(entry.name))
            try:
                self.maker.dress(fd, entry)
            finally:
                os.close(fd)

    def claim(self, entry: tar.Entry) -> None:
        """Say whose it is here."""
        if self.owner is None:
            return
        entry.uid, entry.gid = self.owner
        if not self.side.inside:
            # Its bytes are the container's choice: it must not run as whoever fetched it.
            entry.mode &= ~SPECIAL
            entry.xattrs.pop("security.capability", None)

    def way_to(self, path: bytes) -> int:
        """Return a descriptor of a directory below, made where nothing is: a tar may not say it."""
        try:
            return self.reach(path)
        except FileNotFoundError:
            above, _, name = path.rpartition(b"/")
            folder = self.way_to(above)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folder)
                os.chown(name, *self.owner or (0, 0), dir_fd=folder, follow_symlinks=False)
            return self.reach(path)
        finally:
            os.close(folder)

    def reach(self, path: bytes) -> int:
        """Return a descriptor of a directory below; inside a container its own links may lead.

        Out here they may not: a container would say where on the host its files go.
        """
        if self.side.inside:
            return self.side.open(f"{self.path}/{os.fsdecode(path)}", DIRECTORY)
        return linux.openat2(self.at, path or b".", DIRECTORY, BELOW)

    def make_folder(self, entry: tar.Entry, folder: int, name: bytes) -> None:
        """Make a directory; one that is there stays as it is, with what is in it."""
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise refusal(errno.ENOTDIR, entry, "no directory goes over a file") from None
            return
        self.new.append(entry)

    def make_room(self, entry: tar.Entry, folder: int, name: bytes) -> None:
        """Raise OSError, EISDIR, for a directory: all else makes way for a file."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise refusal(errno.EISDIR, entry, "no file goes over a directory")

    def link(self, entry: tar.Entry, folder: int, name: bytes) -> None:
        """Give a file that has arrived a second name."""
        above, _, first = path_of(entry.link).rpartition(b"/")
        source = self.reach(above)
        try:
            hard_link(source, first, folder, name)
        finally:
            os.close(source)


def refusal(number: int, entry: tar.Entry, why: str) -> OSError:
    """Return the error for an entry that has no place here."""
    return OSError(number, f"{os.strerror(number)}: {why}", tar.shown(entry.name))
