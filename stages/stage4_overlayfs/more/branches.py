"""How a union looks a name up: through its branches from the top, until one of them says enough.

Kernel overlay and AUFS differ only in how a branch says so (`Marks`). Here the look-up is done by
hand: for the union in user space, and to compare a container's tree with its image's without a
mount. See the kernel's filesystems/overlayfs.rst, and aufs(5).
"""

from __future__ import annotations

import os
from stat import S_ISCHR, S_ISDIR

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    class Marks(Protocol):
        """How a branch says that what is below it doesn't show."""

        def hides(self, folder: str, name: str) -> bool:
            """Say whether the directory `folder` has a whiteout for `name`."""

        def opaque(self, folder: str) -> bool:
            """Say whether nothing below the directory `folder` shows through it."""

        def redirect(self, folder: str) -> str:
            """Return where the branches below have this directory, "" where at the same place."""

        def shown(self, name: str) -> bool:
            """Say whether a name is a file's, not a mark."""

        def attribute(self, name: str) -> bool:
            """Say whether an extended attribute is a file's, not a mark."""


class NoMarks:
    """A plain directory: nothing is below it."""

    def hides(self, folder: str, name: str) -> bool:
        """No."""
        return False

    def opaque(self, folder: str) -> bool:
        """No."""
        return False

    def redirect(self, folder: str) -> str:
        """Nowhere else."""
        return ""

    def shown(self, name: str) -> bool:
        """Every name is a file's."""
        return True

    def attribute(self, name: str) -> bool:
        """Every attribute is a file's."""
        return True


class OverlayMarks(NoMarks):
    """Kernel overlay: a device 0:0 is a whiteout; a directory's attributes say the rest."""

    def __init__(self, prefix: str) -> None:
        """Take where the attributes are: "trusted.overlay.", in user namespaces "user.overlay."."""
        self.prefix = prefix

    def hides(self, folder: str, name: str) -> bool:
        """Say whether `name` there is the device 0:0."""
        try:
            status = os.lstat(f"{folder}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        return S_ISCHR(status.st_mode) and status.st_rdev == 0

    def opaque(self, folder: str) -> bool:
        """Say whether the attribute says so."""
        return linux.getxattr(folder, f"{self.prefix}opaque") == b"y"

    def redirect(self, folder: str) -> str:
        """Return what the attribute says: a path from the root, or another name beside it."""
        return os.fsdecode(linux.getxattr(folder, f"{self.prefix}redirect") or b"")

    def attribute(self, name: str) -> bool:
        """Say whether the attribute isn't one of overlay's own."""
        return not name.startswith(self.prefix)


WHITEOUT, OPAQUE, REST = ".wh.", ".wh..wh..opq", "trusted.labrun.rest"


class AufsMarks(NoMarks):
    """AUFS: an empty file `.wh.NAME` hides NAME; `.wh..wh..opq` hides all below its directory."""

    def hides(self, folder: str, name: str) -> bool:
        """Say whether there is a file of that name."""
        return os.path.lexists(f"{folder}/{WHITEOUT}{name}")

    def opaque(self, folder: str) -> bool:
        """Say whether there is that file."""
        return os.path.lexists(f"{folder}/{OPAQUE}")

    def shown(self, name: str) -> bool:
        """Say whether the name doesn't begin as AUFS's own do."""
        return not name.startswith(WHITEOUT)

    def attribute(self, name: str) -> bool:
        """Say whether the attribute isn't what our union counts a file's names with."""
        return name != REST


class Union:
    """What branches, listed from the top down, show together."""

    def __init__(
        self, branches: Sequence[str], marks: Marks, linked: Callable[[str], str] | None = None
    ) -> None:
        """Take the branches' paths; `linked` says where a lower file with more names now is."""
        self.branches, self.marks, self.linked = list(branches), marks, linked

    def find(self, path: str) -> str | None:
        """Return where the file is that shows as `path`, such as "etc/passwd"; None: nowhere."""
        found = self.below(path)
        return self.place(found[0]) if found else None

    def place(self, found: str) -> str:
        """Return where a file that was found in a branch really is."""
        if self.linked and not found.startswith(f"{self.branches[0]}/"):
            status = os.lstat(found)
            if status.st_nlink > 1 and not S_ISDIR(status.st_mode):
                return self.linked(found)
        return found

    def below(self, path: str) -> list[str]:
        """Return the file that shows as `path`, or all directories that make it up, top first."""
        found = self.branches
        for name in filter(None, path.split("/")):
            found = self.step(found, name)
        return found

    def step(self, folders: list[str], name: str) -> list[str]:
        """Return where `name` is, in a directory that is made up of `folders`."""
        found: list[str] = []
        for index, folder in enumerate(folders):
            path = f"{folder}/{name}"
            mode = mode_of(path)
            # A file ends the search; where a directory is above, it doesn't show at all.
            if mode and not S_ISDIR(mode):
                return found or [path]
            if mode:
                found.append(path)
                # Nothing below shows through an opaque directory; a renamed one shows what is
                # below the name that it had.
                if self.marks.opaque(path):
                    return found
                if other := self.marks.redirect(path):
                    return found + self.renamed(folders[index + 1 :], folder, other)
            if self.marks.hides(folder, name):
                return found
        return found

    def renamed(self, folders: list[str], folder: str, other: str) -> list[str]:
        """Return what is below a renamed directory, at its `other` name."""
        if not other.startswith("/"):
            return self.step(folders, other)
        top = next(i for i, each in enumerate(self.branches) if f"{folder}/".startswith(f"{each}/"))
        return Union(self.branches[top + 1 :], self.marks).below(other)

    def entries(self, path: str) -> dict[str, str]:
        """Return the names in the directory `path`, and where each file is."""
        shown: dict[str, str] = {}
        names: set[str] = set()
        folders = self.below(path)
        for folder in filter(os.path.isdir, folders):
            names.update(filter(self.marks.shown, os.listdir(folder)))
        for name in sorted(names):
            if found := self.step(folders, name):
                shown[name] = self.place(found[0])
        return shown


def mode_of(path: str) -> int:
    """Return a file's mode, 0 where there is none: the device 0:0 is none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return 0 if S_ISCHR(status.st_mode) and status.st_rdev == 0 else status.st_mode
