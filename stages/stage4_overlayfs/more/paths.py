"""Paths in a tree that is somebody else's: its links are read as it means them, never as ours.

Nobody changes the tree meanwhile: what has been looked at stays what it is. (Where somebody may, a
context that is being edited, files are opened through more/walk.py, which asks the kernel.)
"""

from __future__ import annotations

import errno
import os
import stat

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MOST_LINKS = 40
"""Links on one way, as for the kernel. See path_resolution(7)."""
MOST_BYTES = 1 << 20
"""Bytes of a passwd or group file."""


def follow(path: str, link_of: Callable[[str], str | None], *, closed: bool = False) -> str:
    """Return a path below a root with no link in it; a part that isn't there stays as it is.

    `link_of` returns what a link says, None where there is none. `/` and `..` can't leave the root,
    as for a process whose root it is; or, where it is `closed`, what would is a ValueError.
    """
    waiting, here, links = path.split("/")[::-1], list[str](), 0
    while waiting:
        part = waiting.pop()
        if part == ".." and closed and not here:
            raise ValueError("it leads out of the context")
        if part == "..":
            del here[-1:]
        elif part not in ("", "."):
            here.append(part)
            link = link_of("/".join(here))
            if link is None:
                continue
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if link.startswith("/") and closed:
                raise ValueError(f"it is a link to {link}, out of the context")
            here = [] if link.startswith("/") else here[:-1]
            waiting += link.split("/")[::-1]
    return "/".join(here)


class Tree:
    """An image's files below `root`, mounted for us alone."""

    def __init__(self, root: str) -> None:
        """Take the directory."""
        self.root = root

    def status(self, path: str) -> os.stat_result | None:
        """Return what is at a path, as `resolve` returns it; None for nothing."""
        try:
            return os.lstat(f"{self.root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def link(self, path: str) -> str | None:
        """Return what the link at a path says; None where there is none."""
        status = self.status(path)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return None
        return os.readlink(f"{self.root}/{path}")

    def resolve(self, path: str) -> str:
        """Return where a path of the container's leads."""
        return follow(path, self.link)

    def lines(self, path: str) -> list[list[str]]:
        """Return the fields of a file such as /etc/passwd; none where there is no such file."""
        whole = f"{self.root}/{self.resolve(path)}"
        try:
            fd = os.open(whole, linux.O_PATH | linux.O_NOFOLLOW | linux.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            # A device would be the host's, and to open one can be enough: watchdog(4), say, would
            # reset the machine. O_PATH opens none.
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return []
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                text = file.read(MOST_BYTES).decode("utf-8", "replace")
        finally:
            os.close(fd)
        return [row.split(":") for row in text.splitlines()]


def owner_of(tree: Tree, text: str) -> tuple[int, int]:
    """Return uid and gid for USER or USER:GROUP, names or numbers; ValueError for unknown ones.

    Without a group a number is the group's, too, and a name has the group of its line.
    """
    user, colon, group = text.partition(":")
    uid = gid = 0
    if user.isdecimal():
        uid = gid = int(user)
    else:
        rows = [row for row in tree.lines("etc/passwd") if row[0] == user and len(row) > 3]
        if not rows or not (rows[0][2].isdecimal() and rows[0][3].isdecimal()):
            raise ValueError(f"{user}: no user of the image's /etc/passwd: say a number")
        uid, gid = int(rows[0][2]), int(rows[0][3])
    if colon and group.isdecimal():
        gid = int(group)
    elif colon:
        rows = [row for row in tree.lines("etc/group") if row[0] == group and len(row) > 2]
        if not rows or not rows[0][2].isdecimal():
            raise ValueError(f"{group}: no group of the image's /etc/group: say a number")
        gid = int(rows[0][2])
    if max(uid, gid) >= (1 << 32) - 1:
        raise ValueError(f"{text}: beyond the greatest number of an owner: say a smaller one")
    return uid, gid
