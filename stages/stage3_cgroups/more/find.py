"""Where control groups are: which trees are mounted, and where in each this process is."""

from __future__ import annotations

import errno
import os

from stages.light import read_text
from stages.stage3_cgroups.more.files import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

V1_NAMES = {"blkio": "io", "cpuacct": "cpu"}
"""What v2 calls a controller of v1, where it is not the same."""


class Trees:
    """The trees that are mounted: `v1` has the directory of our own group for each controller.

    `v2` is that directory in the one tree of v2, and `top` where that is mounted; "" without one.
    """

    def __init__(self) -> None:
        """Read /proc. See proc_pid_cgroup(5), proc_pid_mountinfo(5)."""
        self.v1: dict[str, str] = {}
        self.v2 = self.top = ""
        try:
            text = read_text("/proc/self/cgroup")
        except OSError:
            return
        rows = [line.split(":", 2) for line in text.split("\n") if line]
        own = {names: path for _, names, path in rows}
        for fstype, root, point, options in cgroup_mounts():
            for names, path in own.items():
                # v2's row has no names; a v1 mount has its controllers' among its options.
                kinds = names.split(",") if names else []
                if bool(kinds) != (fstype == "cgroup") or not {*kinds} <= options:
                    continue
                directory = below(point, root, path)
                if directory and kinds:
                    self.v1.update(dict.fromkeys(kinds, directory))
                elif directory:
                    self.v2, self.top = directory, point
        # A tree with a name and no controller is systemd's book-keeping.
        self.v1 = {name: at for name, at in self.v1.items() if "=" not in name}

    def on_v2(self) -> set[str]:
        """Return the controllers that the tree of v2 has."""
        try:
            return {*entries(f"{self.top}/cgroup.controllers")} if self.top else set()
        except OSError:
            return set()

    def on_v1(self) -> set[str]:
        """Return the controllers that are on v1, as v2 names them."""
        return {V1_NAMES.get(name, name) for name in self.v1}

    def require(self, controllers: Collection[str]) -> None:
        """Raise OSError, ENOENT, for the controllers that no tree has which is mounted."""
        if missing := sorted({*controllers} - self.on_v1() - self.on_v2()):
            words = f"cgroup({','.join(missing)})"
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), words)


def cgroup_mounts() -> Iterator[tuple[str, str, str, set[str]]]:
    """Yield type, root, mount point and options of each mounted tree; later ones are on top."""
    for line in filter(None, read_text("/proc/self/mountinfo").split("\n")):
        head, _, tail = line.partition(" - ")
        fstype, _, options = tail.split()[:3]
        if fstype in ("cgroup", "cgroup2"):
            root, point = (unescaped(word) for word in head.split()[3:5])
            yield fstype, root, point, {*options.split(",")}


def unescaped(word: str) -> str:
    """Return a path of mountinfo, in which blanks and backslashes are octal."""
    for code in ("040", "011", "012", "134"):
        word = word.replace(f"\\{code}", chr(int(code, 8)))
    return word


def below(point: str, root: str, path: str) -> str:
    """Return where the group `path` is, in a mount that shows the tree from `root` on.

    "" where it shows another part, such as the tree outside of a cgroup namespace (`/..`).
    """
    relative = os.path.relpath(path, root)
    if root.startswith("/..") or path.startswith("/..") or relative.startswith(".."):
        return ""
    return os.path.normpath(os.path.join(point, relative))
