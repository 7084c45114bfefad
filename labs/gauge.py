"""The gauge: what the kernel has counted for a container, read from outside.

Each control group (cgroup) counts what its processes use. On v1 a process is in one group for each
controller, on v2 in one for all; `groups_of` finds them and `read` reads them, by the names that
this machine's tree has. What goes over the network no group counts: its devices do.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from checks import mounts

Groups = Mapping[str, Path]
"""The directory of a group by its controller, as v1 names it; all in one under "" on v2."""

RUN = "labrun-run-"
"""How the groups of our runtimes are called."""


@dataclass(frozen=True)
class Reading:
    """What was counted up to one moment; None where nobody here counts it."""

    at: float = 0.0
    """Seconds, by a clock that never jumps."""
    cpu: float | None = None
    """Seconds of CPU time."""
    memory: int | None = None
    """Bytes in use."""
    swap: int | None = None
    """Bytes that were swapped out."""
    pids: int | None = None
    """Processes and threads."""
    read: int | None = None
    written: int | None = None
    """Bytes read from disks, and written."""
    received: int | None = None
    sent: int | None = None
    """Bytes that came and went over the network."""
    killed: int | None = None
    """Processes that the kernel killed for want of memory."""
    refused: int | None = None
    """Forks that were refused."""
    periods: int | None = None
    throttled: int | None = None
    """Periods in which the group ran, and those in which it was made to wait."""


@dataclass(frozen=True)
class Limits:
    """What a group may take; None: as much as there is."""

    cpus: float | None = None
    memory: int | None = None
    swap: int | None = None
    """Bytes of swap beside the memory."""
    pids: int | None = None
    read: int | None = None
    written: int | None = None
    """Bytes a second, of all devices together."""


@dataclass(frozen=True)
class Names:
    """The files of one tree."""

    version: str
    cpu: str
    memory: str
    pids: str
    io: str
    killed: str


V1 = Names(
    version="v1",
    cpu="cpuacct.usage",
    memory="memory.usage_in_bytes",
    pids="pids.current",
    io="blkio.throttle.io_service_bytes",
    killed="memory.oom_control",
)
V2 = Names(
    version="v2",
    cpu="cpu.stat",
    memory="memory.current",
    pids="pids.current",
    io="io.stat",
    killed="memory.events",
)


def trees() -> Iterator[tuple[mounts.Mount, str]]:
    """Yield each hierarchy that is mounted here, and one of its controllers ("" for v2's).

    A hierarchy that two controllers share is there for each.
    """
    for mount in mounts.parse(mounts.own()):
        if mount.type == "cgroup2":
            yield mount, ""
        elif mount.type == "cgroup":
            for name in ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio"):
                if name in mount.options:
                    yield mount, name


def groups_of(pid: int) -> Groups:
    """Return the groups that a process is in. Raises OSError where there is no such process.

    See proc_pid_cgroup(5).
    """
    own: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    found = {}
    for mount, name in trees():
        # A bind mount, as a container has it, shows only a part of the tree.
        below = os.path.relpath(own.get(name, "/"), mount.root)
        if name in own and not below.startswith(".."):
            found[name] = Path(mount.point, below)
    return found


def names(groups: Groups) -> Names:
    """Return the names of the tree that counts memory for these groups.

    On a hybrid machine v2's tree is there too, with few controllers or none.
    """
    return V1 if "memory" in groups or "cpuacct" in groups else V2


def path(groups: Groups, file: str) -> Path:
    """Return where a file of a group is, such as `memory.max` or `cpuacct.usage`."""
    return groups.get(file.partition(".")[0], groups.get("", Path("/nonexistent"))) / file


def read(groups: Groups, pid: int = 0, *, around: bool = False) -> Reading:
    """Return what is counted just now; with `pid`, also by its network's devices.

    `around`: where a group doesn't count memory, its next one above speaks for it.
    """
    at = time.monotonic()
    received, sent = _network(pid) if pid else (None, None)
    counted = _read_v1(groups) if names(groups) is V1 else _read_v2(groups, around)
    return replace(counted, at=at, received=received, sent=sent)


def _read_v1(groups: Groups) -> Reading:
    nanoseconds = _number(groups, V1.cpu)
    events = _table(groups, V1.killed)
    stat = _table(groups, "cpu.stat")
    transfers: dict[str, int] = {"Read": 0, "Write": 0}
    lines = _lines(groups, V1.io)
    for line in lines or ():
        # "7:0 Write 4096", and at the end "Total 4096"
        words = line.split()
        if len(words) == 3 and words[1] in transfers:
            transfers[words[1]] += int(words[2])
    memory, both = _number(groups, V1.memory), _number(groups, "memory.memsw.usage_in_bytes")
    return Reading(
        cpu=None if nanoseconds is None else nanoseconds / 1e9,
        memory=memory,
        swap=None if memory is None or both is None else max(both - memory, 0),
        pids=_number(groups, V1.pids),
        read=None if lines is None else transfers["Read"],
        written=None if lines is None else transfers["Write"],
        killed=events.get("oom_kill"),
        refused=_table(groups, "pids.events").get("max"),
        periods=stat.get("nr_periods"),
        throttled=stat.get("nr_throttled"),
    )


def _read_v2(groups: Groups, around: bool) -> Reading:
    stat = _table(groups, V2.cpu)
    counting = _counting(groups) if around else groups
    lines = _lines(groups, V2.io)
    transfers = {"rbytes": 0, "wbytes": 0}
    for line in lines or ():
        # "7:0 rbytes=0 wbytes=4096 rios=0 …"
        for word in line.split()[1:]:
            key, _, value = word.partition("=")
            if key in transfers:
                transfers[key] += int(value)
    return Reading(
        cpu=stat["usage_usec"] / 1e6 if "usage_usec" in stat else None,
        memory=_number(counting, V2.memory),
        swap=_number(counting, "memory.swap.current"),
        pids=_number(counting, V2.pids),
        read=None if lines is None else transfers["rbytes"],
        written=None if lines is None else transfers["wbytes"],
        killed=_table(groups, V2.killed).get("oom_kill"),
        refused=_table(groups, "pids.events").get("max"),
        periods=stat.get("nr_periods"),
        throttled=stat.get("nr_throttled"),
    )


def _counting(groups: Groups) -> Groups:
    """Return the nearest group of v2, from this one upwards, whose memory is counted.

    A group has a controller's files only where its parent hands that down: cgroups(7). Where nobody
    asked for a limit, the next one above counts for it, and for whoever else is in there.
    """
    own = groups.get("", Path("/nonexistent"))
    for above in (own, *own.parents):
        if (above / V2.memory).exists():
            return {"": above}
        if not (above / "cgroup.procs").exists():
            break
    return groups


def limits(groups: Groups) -> Limits:
    """Return what a group may take, as its files say."""
    if names(groups) is V1:
        quota, period = _number(groups, "cpu.cfs_quota_us"), _number(groups, "cpu.cfs_period_us")
        memory = _limit(groups, "memory.limit_in_bytes")
        both = _limit(groups, "memory.memsw.limit_in_bytes")
        return Limits(
            cpus=quota / period if quota and period and quota > 0 else None,
            memory=memory,
            swap=None if memory is None or both is None else both - memory,
            pids=_limit(groups, "pids.max"),
            read=_rates(groups, "blkio.throttle.read_bps_device"),
            written=_rates(groups, "blkio.throttle.write_bps_device"),
        )
    words = (_lines(groups, "cpu.max") or ["max"])[0].split()
    return Limits(
        cpus=int(words[0]) / int(words[1]) if words[0] != "max" else None,
        memory=_limit(groups, "memory.max"),
        swap=_limit(groups, "memory.swap.max"),
        pids=_limit(groups, "pids.max"),
        read=_rates(groups, "io.max", "rbps"),
        written=_rates(groups, "io.max", "wbps"),
    )


UNLIMITED = 1 << 60
"""v1 says "no limit" by the largest number of pages that there could be."""


def _limit(groups: Groups, file: str) -> int | None:
    value = _number(groups, file)
    return None if value is None or value >= UNLIMITED else value


def _rates(groups: Groups, file: str, key: str = "") -> int | None:
    """Return the sum of the rates of all devices: "7:0 4194304", or "7:0 rbps=max wbps=…"."""
    found = []
    for line in _lines(groups, file) or ():
        for word in line.split()[1:]:
            name, _, value = word.rpartition("=")
            if name == key and value.isdigit():
                found.append(int(value))
    return sum(found) if found else None


def _lines(groups: Groups, file: str) -> list[str] | None:
    """Return the lines of a file; None where there is none, or its group has gone."""
    try:
        return path(groups, file).read_text(encoding="ascii").splitlines()
    except OSError:
        # ENOENT, and ENODEV for a group that was removed between open and read.
        return None


def _number(groups: Groups, file: str) -> int | None:
    lines = _lines(groups, file)
    return int(lines[0]) if lines and lines[0].lstrip("-").isdigit() else None


def _table(groups: Groups, file: str) -> dict[str, int]:
    """Return the numbers of a file with a name and a number on each line."""
    rows = (line.split() for line in _lines(groups, file) or ())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].lstrip("-").isdigit()}


def _network(pid: int) -> tuple[int | None, int | None]:
    """Return the bytes received and sent by all devices but `lo` in a process's network.

    See proc_pid_net_dev(5).
    """
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return None, None
    received = sent = 0
    for line in lines:
        name, _, counters = line.partition(":")
        fields = counters.split()
        if name.strip() != "lo":
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


@dataclass(frozen=True)
class Running:
    """A container that runs, found by its groups."""

    name: str
    groups: Groups
    pids: tuple[int, ...]
    """Its processes, as this process numbers them; the first is the one that was started first."""

    @property
    def own_network(self) -> bool:
        """Say whether its network isn't ours: only then do its devices count for it alone."""
        with suppress(OSError, IndexError):
            ours = os.readlink("/proc/self/ns/net")
            return os.readlink(f"/proc/{self.pids[0]}/ns/net") != ours
        return False


def running() -> list[Running]:
    """Return the containers of our runtimes that run on this machine, by the names of groups."""
    found: dict[str, dict[str, Path]] = {}
    for mount, name in trees():
        for folder in _below(Path(mount.point)):
            found.setdefault(folder.name, {}).setdefault(name, folder)
    containers = []
    for name, groups in sorted(found.items()):
        inside: set[int] = set()
        for folder in groups.values():
            for group in (folder, *_folders(folder)):
                with suppress(OSError):
                    text = (group / "cgroup.procs").read_text(encoding="ascii")
                    inside |= {int(pid) for pid in text.split()} - {0}
        # A group without processes is about to go, or about to be filled.
        if inside:
            containers.append(Running(name, groups, tuple(sorted(inside, key=_began))))
    return containers


def _below(top: Path) -> Iterator[Path]:
    """Yield the groups of our runtimes below a group."""
    for folder in _folders(top):
        if folder.name.startswith(RUN):
            yield folder


def _folders(top: Path) -> Iterator[Path]:
    """Yield every group below a group. Groups come and go while we look."""
    for folder, folders, _ in os.walk(top):
        for name in sorted(folders):
            yield Path(folder, name)


def _began(pid: int) -> int:
    """Return when a process began, in clock ticks; late for one that has gone."""
    with suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The name may have spaces and brackets in it. See proc_pid_stat(5), field 22.
        return int(text.rpartition(")")[2].split()[19])
    return 1 << 62


Counter = Callable[[Reading], float | None]


def rate(before: Reading, after: Reading, counter: Counter) -> float | None:
    """Return by how much a second a counter rose from one reading to the next."""
    first, last = counter(before), counter(after)
    passed = after.at - before.at
    if first is None or last is None or passed <= 0:
        return None
    return max(last - first, 0) / passed
