"""Control groups, version 1: a tree of groups for each controller.

So a container has a group in each tree that counts or limits something of it. A group's file is
named for its controller. See cgroups(7), and the kernel's admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import os

from stages import linux
from stages.stage3_cgroups.limits import PERIOD
from stages.stage3_cgroups.more.files import (
    entries,
    kill_all,
    make,
    read_word,
    remove_when_empty,
    wait_until,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stages.stage3_cgroups.limits import Limits
    from stages.stage3_cgroups.more.usage import Usage

USED = ("cpu", "cpuacct", "memory", "pids", "blkio", "freezer")
"""The controllers in which every container has a group: they count, and one of them freezes."""
NAMES = {"io": "blkio"}
"""What v1 calls a controller where v2 calls it otherwise."""


def settings(limits: Limits) -> list[tuple[str, str, str]]:
    """Return controller, file and text of each limit, in the order in which they go."""
    found = []
    if limits.memory:
        found.append(("memory", "memory.limit_in_bytes", str(limits.memory)))
        # Memory and swap together. It can't be less than the limit on memory, so that goes first.
        found.append(("memory", "memory.memsw.limit_in_bytes", str(limits.memory_swap)))
    if limits.quota:
        found.append(("cpu", "cpu.cfs_period_us", str(PERIOD)))
        found.append(("cpu", "cpu.cfs_quota_us", str(limits.quota)))
    if limits.shares:
        found.append(("cpu", "cpu.shares", str(limits.shares)))
    if limits.cpus:
        found.append(("cpuset", "cpuset.cpus", limits.cpus))
    if limits.pids:
        found.append(("pids", "pids.max", str(limits.pids)))
    for device, rate in limits.reads.items():
        found.append(("blkio", "blkio.throttle.read_bps_device", f"{device} {rate}"))
    for device, rate in limits.writes.items():
        found.append(("blkio", "blkio.throttle.write_bps_device", f"{device} {rate}"))
    return found


class GroupV1:
    """One group in each tree."""

    door: int | None = None

    def __init__(self, name: str, own: Mapping[str, str], limits: Limits) -> None:
        """Take a name, and the directory of this process's own group by controller."""
        self.needed = {NAMES.get(kind, kind) for kind in limits.controllers()}
        wanted = {kind: own[kind] for kind in (*USED, "cpuset") if kind in own}
        # An empty cpuset lets nobody in, so there is one only where CPUs were asked for.
        if "cpuset" not in self.needed:
            wanted.pop("cpuset", None)
        self.paths = {kind: f"{directory}/{name}" for kind, directory in wanted.items()}

    def prepare(self) -> None:
        """Nothing: every group of v1 has its controller's files."""

    def create(self) -> None:
        """Make a group in each tree; without those that can't be had and nobody asked for."""
        for kind, path in list(self.paths.items()):
            try:
                make(path)
            except OSError:
                if kind in self.needed:
                    raise
                del self.paths[kind]

    def limit(self, limits: Limits) -> None:
        """Write each limit into its file."""
        if "cpuset" in self.paths:
            # Memory nodes have to be named, too, before anybody may join.
            parent = os.path.dirname(self.paths["cpuset"])
            for file in ("cpuset.mems", "cpuset.cpus"):
                linux.write_file(f"{self.paths['cpuset']}/{file}", read_word(f"{parent}/{file}"))
        for kind, file, text in settings(limits):
            if kind not in self.paths:
                continue  # it is on v2 here
            path = f"{self.paths[kind]}/{file}"
            # A kernel that doesn't account for swap has no such file (swapaccount=0).
            without = file.startswith("memory.memsw") and not os.path.exists(path)
            if without and not limits.swap_asked:
                continue
            linux.write_file(path, text)

    def join(self) -> None:
        """Move the calling process into the group of each tree: "0" is whoever writes."""
        # Were the parent to write the child's pid, the kernel would first wait until no process of
        # the machine is just forking or ending (cgroup_threadgroup_rwsem): 15 to 20 ms. Whoever
        # moves itself, and has one thread, need not wait. `tasks` takes threads, cgroup.procs
        # whole processes.
        for path in dict.fromkeys(self.paths.values()):
            linux.write_file(f"{path}/tasks", "0")

    def read(self, usage: Usage) -> None:
        """Add to `usage` what the kernel has counted."""
        usage.read_v1(self.paths)

    def freeze(self) -> None:
        """Stop every process in it. See the kernel's cgroup-v1/freezer-subsystem."""
        if path := self.paths.get("freezer"):
            linux.write_file(f"{path}/freezer.state", "FROZEN")
            wait_until(lambda: read_word(f"{path}/freezer.state") == "FROZEN")

    def remove(self) -> None:
        """Kill what is still in it, and remove it from each tree."""
        for path in dict.fromkeys(self.paths.values()):
            try:
                if entries(f"{path}/cgroup.procs"):
                    # Whoever is frozen can't fork, so that nobody is missed; SIGKILL waits for it.
                    self.freeze()
                    kill_all(path)
                    if freezer := self.paths.get("freezer"):
                        linux.write_file(f"{freezer}/freezer.state", "THAWED")
            except FileNotFoundError:
                continue  # it was never made, or is gone
            remove_when_empty(path)

    def leave(self) -> None:
        """Nothing: the groups were made below our own, where we are still."""
