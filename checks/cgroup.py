"""The outer cgroup of a bench: what is tried there can take only so much of the machine."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from checks import mounts
from checks.canaries import nonce
from checks.ledger import Page
from checks.mounts import Mount

LIMITS = {
    # file: value; v1 and v2 names of the same limit
    "memory.limit_in_bytes": str(1 << 30),
    "memory.max": str(1 << 30),
    "pids.max": "512",
}


SEAT = "bench"
"""The group below the bench's on v2 in which its processes are."""


class Group:
    """One group in each hierarchy: those of v1, and v2."""

    def __init__(self, directories: list[Path]) -> None:
        """Take the directories of the group, one a hierarchy."""
        self.directories = directories
        # On v2 a group with processes can't give controllers to the groups below it, and runtimes
        # make theirs beside their own. See cgroups(7), "no internal processes".
        self.seats = [
            directory / SEAT if (directory / "cgroup.subtree_control").exists() else directory
            for directory in directories
        ]

    @property
    def path(self) -> str:
        """Return where the group is below the top of every hierarchy, "" where that differs."""
        paths = {f"/{directory.relative_to(_top(directory))}" for directory in self.directories}
        return paths.pop() if len(paths) == 1 else ""

    def join(self) -> None:
        """Move the calling process, and with it its children, into the group."""
        for seat in self.seats:
            # "0" is the writer. See cgroups(7).
            (seat / "cgroup.procs").write_text("0", encoding="ascii")

    def below(self) -> list[str]:
        """Return the groups that somebody made below this one."""
        return [
            str(path)
            for directory in self.directories
            for path in directory.rglob("*/")
            if path not in self.seats
        ]


def _top(directory: Path) -> Path:
    """Return where the hierarchy of a group is mounted."""
    return next(above for above in directory.parents if above.is_mount())


def own_directories() -> list[Path]:
    """Return the directory of this process's cgroup in each hierarchy that is mounted.

    See proc_pid_cgroup(5), proc_pid_mountinfo(5).
    """
    own = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    # A bind mount, as a container has it, shows only a part of the tree.
    return [
        Path(mount.point, below)
        for mount in mounts.parse(mounts.own())
        for path in _groups(mount, own)
        if not (below := os.path.relpath(path, mount.root)).startswith("..")
    ]


def _groups(mount: Mount, own: dict[str, str]) -> list[str]:
    """Return which of a process's groups, by their controllers, are in a mounted hierarchy."""
    if mount.type == "cgroup2":
        return [path for controllers, path in own.items() if not controllers]
    if mount.type != "cgroup":
        return []
    return [path for names, path in own.items() if names and mount.options & {*names.split(",")}]


def _inherit_cpuset(directory: Path) -> None:
    """Give a v1 cpuset what its parent has: it begins empty, and then nothing may join it.

    See cpuset(7).
    """
    for file in ("cpuset.cpus", "cpuset.mems"):
        parent = directory.parent / file
        if (directory / file).exists() and parent.exists():
            (directory / file).write_text(parent.read_text(encoding="ascii"), encoding="ascii")


def _giver(directory: Path) -> Path:
    """Return the nearest group, from this one upwards, below which the limits can be set.

    On v2 a group with processes, as a login's is, gives no controllers to groups below it: see
    cgroups(7), "no internal processes". On v1 every group has its hierarchy's.
    """
    for above in (directory, *directory.parents):
        try:
            given = (above / "cgroup.subtree_control").read_text(encoding="ascii").split()
        except OSError:
            break
        if {"memory", "pids"} <= {*given}:
            return above
    return directory


@contextlib.contextmanager
def outer_group(page: Page) -> Iterator[Group]:
    """Make the outer group, as far as this machine lets us, and remove it at the end."""
    name = nonce("labrun-bench")
    made: list[Path] = []
    try:
        for parent in map(_giver, own_directories()):
            with contextlib.suppress(OSError):
                page.add("cgroup", parent / name)
                (parent / name).mkdir()
                made.append(parent / name)
                if parent.joinpath("cpuset.cpu_exclusive").exists():
                    _inherit_cpuset(parent / name)
                for file, value in LIMITS.items():
                    if (parent / name / file).exists():
                        (parent / name / file).write_text(value, encoding="ascii")
        group = Group(made)
        for seat in group.seats:
            seat.mkdir(exist_ok=True)
        yield group
    finally:
        for directory in made:
            _remove(directory)


def _remove(directory: Path, patience: float = 5.0) -> None:
    """Remove a group and those below it, and end what still runs there: a bench's last processes.

    On the machine itself no pid namespace takes them along: a runtime that hangs may leave some.
    """
    below = sorted((path for path in directory.rglob("*/")), reverse=True)
    until = time.monotonic() + patience
    for group in [*below, directory]:
        while True:
            try:
                group.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                _kill(group)
                # The kernel tells nobody on v1 that a group became empty.
                time.sleep(0.01)


def _kill(group: Path) -> None:
    """Kill every process of a group; one that is on its way out already takes no notice."""
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
