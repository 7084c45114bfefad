"""The kernel's table of mounts, as /proc/PID/mountinfo shows it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

OWN = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One mount: one line of the table. See proc_pid_mountinfo(5)."""

    root: str
    """What of the file system is mounted: `/`, or a path inside it."""
    point: str
    options: frozenset[str]
    """The mount's own options, and those of its file system (`cpu`, `memory` on cgroup v1)."""
    ties: frozenset[str]
    """How mounts spread from and to it: `shared:12`, `master:7`; none where it is private."""
    type: str
    device: int
    """The number of its file system, as stat(2) gives it for a file there."""
    line: str
    """The line itself, as evidence."""

    @property
    def visible(self) -> bool:
        """Return whether its point leads to it: a later mount may lie over it."""
        try:
            return os.stat(self.point).st_dev == self.device
        except OSError:
            return False


def own() -> str:
    """Return the table of this process. Raises OSError where there is no /proc."""
    return os.fsdecode(OWN.read_bytes())


def parse(table: str) -> list[Mount]:
    """Return the mounts of a table, in the order in which they were made."""
    # A path may have any character in it but those that the kernel escapes: space, tab, newline.
    return [_mount(line) for line in table.split("\n") if line]


def _mount(line: str) -> Mount:
    # The optional fields between the two halves end with a lone dash.
    before, _, after = line.partition(" - ")
    _, _, number, root, point, options, *ties = before.split(" ")
    kind, _, superoptions = after.split(" ")[:3]
    major, minor = number.split(":")
    both = frozenset(f"{options},{superoptions}".split(","))
    if "ro" in options.split(","):
        both -= {"rw"}
    device = os.makedev(int(major), int(minor))
    return Mount(_plain(root), _plain(point), both, frozenset(ties), kind, device, line)


def _plain(path: str) -> str:
    """Return a path without the kernel's octal escapes, such as `\\040` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), path)
