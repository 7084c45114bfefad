"""Control groups: the outer one of a bench, and what the kernel keeps in those of a container."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checks import kernel, mounts
from checks.canaries import nonce
from checks.ledger import Page
from checks.mounts import Mount
from checks.visitor import Hindered
from checks.words import say

LIMITS = {
    # file: value; v1 and v2 names of the same limit
    "memory.limit_in_bytes": str(1 << 30),
    "memory.max": str(1 << 30),
    "pids.max": "512",
    # Ten times what others have: on a busy machine a load would never get as far as its limit.
    "cpu.shares": "10240",
    "cpu.weight": "1000",
}

SEAT = "bench"
"""The group below the bench's on v2 in which its processes are."""
CONTROLLERS = {
    # v2's name, and v1's
    "cpu": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "io": "blkio",
    "pids": "pids",
}


@dataclass(frozen=True)
class Control:
    """The groups that hold a process under one controller: its own first, then those above it.

    They end below the bench's, whose limits are nobody's doing but the judge's. None at all: the
    process is in no group but the bench's.
    """

    directories: tuple[Path, ...]
    unified: bool
    """Whether this is v2."""
    outer: Path
    """The bench's own group."""

    @property
    def directory(self) -> Path | None:
        """Return the process's own group; None where it has none below the bench's."""
        return self.directories[0] if self.directories else None

    def file(self, v1: str, v2: str) -> str:
        """Return the name that a file has in this version."""
        return v2 if self.unified else v1

    def texts(self, v1: str, v2: str) -> list[tuple[Path, str]]:
        """Return a file's path and text in each group that has one, the process's own first."""
        found = []
        for directory in self.directories:
            file = directory / self.file(v1, v2)
            with contextlib.suppress(OSError):
                found.append((file, file.read_text(encoding="ascii").strip()))
        return found

    def smallest(self, v1: str, v2: str) -> tuple[int | None, str]:
        """Return the smallest number that a file has in these groups, and that file's path.

        None where no group has a number there: `max`, or no file.
        """
        found = [(int(text), str(file)) for file, text in self.texts(v1, v2) if text.isdecimal()]
        if found:
            return min(found)
        where = self.directory or ""
        return None, str(Path(where, self.file(v1, v2)))

    def counted(self, v1: str, v2: str, key: str) -> tuple[int, str]:
        """Return the greatest count under `key` in a file of these groups, and that file's path."""
        found = [
            (int(words[1]), str(file))
            for file, text in self.texts(v1, v2)
            for words in map(str.split, text.splitlines())
            if words[0] == key
        ]
        return max(found, default=(0, str(Path(self.directory or "", self.file(v1, v2)))))

    def outside(self, v1: str, v2: str, key: str) -> int:
        """Return the count under `key` in the bench's own group: on v2 of all that are below."""
        return Control((self.outer,), self.unified, self.outer).counted(v1, v2, key)[0]


class Group:
    """One group in each hierarchy: those of v1, and v2."""

    def __init__(self, directories: list[Path]) -> None:
        """Take the directories of the group, one a hierarchy."""
        self.directories = directories
        # On v2 a group with processes can't give controllers to the groups below it, and runtimes
        # make theirs beside their own. See cgroups(7), "no internal processes".
        self.seats = [path / SEAT if _is_v2(path) else path for path in directories]

    @property
    def path(self) -> str:
        """Return where the group is below the top of every hierarchy, "" where that differs."""
        paths = {f"/{directory.relative_to(_top(directory))}" for directory in self.directories}
        return paths.pop() if len(paths) == 1 else ""

    def join(self) -> None:
        """Move the calling process, which has one thread, and so its children, into the group."""
        enter(self.seats)

    def found(self) -> None:
        """Make the calling process's new cgroup namespace begin at the group, and give it a seat.

        A namespace begins where whoever makes it is. See cgroup_namespaces(7).
        """
        enter(self.directories)
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        self.join()
        self.give()

    def give(self) -> None:
        """Hand all that it has been given down to the groups below. Nobody may be in the group."""
        for directory in filter(_is_v2, self.directories):
            for controller in CONTROLLERS:
                # Not every machine gives every one of them.
                with contextlib.suppress(OSError):
                    file = directory / "cgroup.subtree_control"
                    file.write_text(f"+{controller}", encoding="ascii")

    def below(self) -> list[str]:
        """Return the groups that somebody made below this one."""
        return [
            str(path)
            for directory in self.directories
            for path in directory.rglob("*/")
            if path not in self.seats
        ]

    def control(self, pid: int, controller: str) -> Control:
        """Return the groups of a process under a controller, by the name that v2 has for it.

        Raises Hindered where no group on the bench could have that controller.
        """
        own = places("self")
        for names, directory in places(pid).items():
            unified = not names and any(controller in _given(d) for d in self.directories)
            if unified or CONTROLLERS[controller] in names.split(","):
                # What we are in ourselves is none of the container's, nor what the bench is in.
                ours = {*self.directories, *self.seats, own[names], *own[names].parents}
                above = (directory, *directory.parents)
                outer = next((d for d in self.directories if _top(d) == _top(own[names])), None)
                groups = tuple(group for group in above if group not in ours)
                return Control(groups, unified, outer or own[names])
        raise Hindered(say("cgroup.no_controller", controller=controller))


def enter(directories: list[Path]) -> None:
    """Move the calling process, which has one thread, into these groups."""
    for directory in directories:
        # "0" is the writer. To move one thread the kernel need not wait for all processors, as it
        # does to move a process; v2 has `tasks` no more. See cgroups(7).
        file = directory / ("cgroup.procs" if _is_v2(directory) else "tasks")
        file.write_text("0", encoding="ascii")


def _is_v2(directory: Path) -> bool:
    return (directory / "cgroup.subtree_control").exists()


def _given(directory: Path) -> list[str]:
    """Return the controllers that a v2 group gives to those below it; none for a v1 group."""
    with contextlib.suppress(FileNotFoundError):
        return (directory / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return []


def _top(directory: Path) -> Path:
    """Return where the hierarchy of a group is mounted."""
    return next(above for above in (directory, *directory.parents) if above.is_mount())


def own_directories() -> list[Path]:
    """Return the directory of this process's cgroup in each hierarchy that is mounted."""
    return [*places("self").values()]


def places(pid: int | str) -> dict[str, Path]:
    """Return a process's group in each hierarchy that is mounted, by its controllers; v2 is "".

    See proc_pid_cgroup(5), proc_pid_mountinfo(5).
    """
    own = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found: dict[str, Path] = {}
    # A bind mount, as a container has it, shows only a part of the tree.
    for mount in mounts.parse(mounts.own()):
        for controllers in _groups(mount, own):
            below = os.path.relpath(own[controllers], mount.root)
            if not below.startswith(".."):
                found.setdefault(controllers, Path(mount.point, below))
    return found


def remount() -> None:
    """Mount the hierarchies anew in the calling process's cgroup namespace, in place of the old.

    What is mounted in the machine's own namespace reaches all of the machine's groups, and its
    options are those of the whole hierarchy (kernel, cgroup_reconfigure): a container with a
    /sys/fs/cgroup of its own would take `nsdelegate` from the machine.
    """
    there = [mount for mount in mounts.parse(mounts.own()) if mount.type in ("cgroup", "cgroup2")]
    drafts = []
    for number, mount in enumerate(there):
        draft = f"{DRAFTS}/{number}"
        os.makedirs(draft)
        # The kernel finds a hierarchy of v1 by its controllers or its name.
        wanted = ",".join(sorted(mount.options & {*_hierarchies()}))
        flags = _SAFE if "rw" in mount.options else _SAFE | kernel.MS_RDONLY
        # Where the kernel doesn't let us, the machine's stays.
        with contextlib.suppress(OSError):
            kernel.mount("cgroup", draft, mount.type, flags, wanted or None)
            drafts.append((draft, mount))
    for _, mount in reversed(drafts):
        kernel.umount(mount.point)
    for draft, mount in drafts:
        kernel.mount(draft, mount.point, None, kernel.MS_MOVE)
        os.rmdir(draft)


BENCH = "labrun-bench"
"""How the group of a bench begins to be called; what is below is the bench's, and its judge's."""
DRAFTS = "/run/.bench/cgroup"
_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def _hierarchies() -> list[str]:
    """Return what tells the hierarchies of v1 apart: their controllers, and names."""
    rows = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return [word for row in rows for word in row.split(":", 2)[1].split(",") if word]


def _groups(mount: Mount, own: dict[str, str]) -> list[str]:
    """Return which of a process's groups, by their controllers, are in a mounted hierarchy."""
    if mount.type == "cgroup2":
        return [controllers for controllers in own if not controllers]
    if mount.type != "cgroup":
        return []
    return [names for names in own if names and mount.options & {*names.split(",")}]


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
    name = nonce(BENCH)
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
