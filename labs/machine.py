"""What the machine is, in the few words that every report begins with."""

import os
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo. See proc_pid_mountinfo(5)."""

    root: str
    """What of the file system is mounted: `/`, or a path inside it."""
    point: str
    options: frozenset[str]
    """The mount's own options, and those of its file system (`cpu`, `memory` on cgroup v1)."""
    type: str
    device: int
    """The number of its file system, as stat(2) gives it for a file there."""

    @property
    def visible(self) -> bool:
        """Return whether its point leads to it: a later mount may lie over it."""
        try:
            return os.stat(self.point).st_dev == self.device
        except OSError:
            return False


def mounts(text: str | None = None) -> list[Mount]:
    """Return this process's mounts, in the order in which they were made.

    `text` is read instead of /proc/self/mountinfo. Raises OSError where there is no /proc.
    """
    found = []
    for line in (MOUNTINFO.read_text() if text is None else text).splitlines():
        # The optional fields between the two halves end with a lone dash.
        before, _, after = line.partition(" - ")
        _, _, number, root, point, options = before.split()[:6]
        major, minor = number.split(":")
        kind, _, superoptions = (*after.split(), "")[:3]
        both = frozenset(f"{options},{superoptions}".split(","))
        if "ro" in options.split(","):
            both -= {"rw"}
        device = os.makedev(int(major), int(minor))
        found.append(Mount(_plain(root), _plain(point), both, kind, device))
    return found


def _plain(path: str) -> str:
    """Return a path without the kernel's octal escapes for space, tab, newline and backslash."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def cgroups(mounted: list[Mount]) -> list[Mount]:
    """Return the cgroup trees among the mounts, of either version, that can be reached."""
    return [mount for mount in mounted if mount.type in ("cgroup", "cgroup2") and mount.visible]


def cgroup_version(trees: list[Mount]) -> str:
    """Return `v1`, `v2`, `hybrid` (controllers on v1 beside a cgroup2), or `none`.

    A hierarchy that has only a name (systemd's `name=systemd`) controls nothing and isn't counted.
    """
    one = any(
        mount.type == "cgroup" and not any(option.startswith("name=") for option in mount.options)
        for mount in trees
    )
    two = any(mount.type == "cgroup2" for mount in trees)
    if one and two:
        return "hybrid"
    return "v1" if one else "v2" if two else "none"


def host() -> dict[str, object]:
    """Return the facts that reports carry: `kernel`, `arch`, `cgroup`, `root`.

    `cgroup` is `none` where no cgroup file system is mounted, or where there is no /proc.
    """
    try:
        trees = cgroups(mounts())
    except OSError:
        trees = []
    system = os.uname()
    return {
        "kernel": system.release,
        "arch": system.machine,
        "cgroup": cgroup_version(trees),
        "root": os.geteuid() == 0,
    }
