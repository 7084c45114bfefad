"""Control groups, version 2: one tree of groups for all controllers.

A group has a controller's files where its parent hands that controller down, and only a group
without processes of its own may do so. See cgroups(7), and the kernel's admin-guide/cgroup-v2.
"""

from __future__ import annotations

import os

from stages import linux
from stages.stage3_cgroups.limits import PERIOD
from stages.stage3_cgroups.more.delegation import Seat
from stages.stage3_cgroups.more.files import make, read_word, remove_when_empty, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage3_cgroups.limits import Limits
    from stages.stage3_cgroups.more.find import Trees
    from stages.stage3_cgroups.more.usage import Usage

SHARES, WEIGHT, MOST_WEIGHT = 1024, 100, 10000
"""The usual shares of v1, and the usual and the greatest weight of v2: the same thing."""


def weight(shares: int) -> int:
    """Return a weight in proportion: twice the shares is twice the weight, and twice the time."""
    return min(max(round(shares * WEIGHT / SHARES), 1), MOST_WEIGHT)


def settings(limits: Limits) -> list[tuple[str, str, str]]:
    """Return controller, file and text of each limit."""
    found = []
    if limits.memory and limits.memory_swap:
        swap = limits.memory_swap - limits.memory
        found.append(("memory", "memory.max", str(limits.memory)))
        # Swap alone, which the option doesn't count by itself.
        found.append(("memory", "memory.swap.max", "max" if limits.memory_swap < 0 else str(swap)))
    if limits.quota:
        found.append(("cpu", "cpu.max", f"{limits.quota} {PERIOD}"))
    if limits.shares:
        found.append(("cpu", "cpu.weight", str(weight(limits.shares))))
    if limits.cpus:
        found.append(("cpuset", "cpuset.cpus", limits.cpus))
    if limits.pids:
        found.append(("pids", "pids.max", str(limits.pids)))
    for device, rate in limits.reads.items():
        found.append(("io", "io.max", f"{device} rbps={rate}"))
    for device, rate in limits.writes.items():
        found.append(("io", "io.max", f"{device} wbps={rate}"))
    return found


class GroupV2:
    """One group, in the one tree."""

    def __init__(self, name: str, trees: Trees, limits: Limits) -> None:
        """Take a name, and where this process's own group is."""
        self.needed = limits.controllers() - trees.on_v1()
        # Groups share by weight with their neighbours. Where the container's group is alone in a
        # part of the tree that it was given, that part has to have the weight.
        self.seat = Seat(name, trees, self.needed, weight(limits.shares) if limits.shares else 0)
        self.door: int | None = None
        self.path = ""

    def prepare(self) -> None:
        """Find the group that hands controllers down; none where nobody asked for limits."""
        try:
            self.path = f"{self.seat.take()}/{self.seat.name}"
        except OSError:
            if self.needed:
                raise

    def create(self) -> None:
        """Make the group there, and open it: a child can be born through its directory."""
        if not self.path:
            return
        try:
            make(self.path)
        except OSError:
            self.path = ""
            if self.needed:
                raise
            return
        flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
        self.door = linux.open_file(self.path, flags)

    def limit(self, limits: Limits) -> None:
        """Write each limit into its file."""
        for kind, file, text in settings(limits):
            if kind in self.needed:
                # A kernel that doesn't account for swap has no such file (swapaccount=0).
                without = file == "memory.swap.max" and not os.path.exists(f"{self.path}/{file}")
                if without and not limits.swap_asked:
                    continue
                linux.write_file(f"{self.path}/{file}", text)

    def join(self) -> None:
        """Nothing: the child was born inside."""

    def read(self, usage: Usage) -> None:
        """Add to `usage` what the kernel has counted."""
        if self.path:
            usage.read_v2(self.path)

    def freeze(self) -> None:
        """Stop every process in it."""
        if self.path:
            linux.write_file(f"{self.path}/cgroup.freeze", "1")
            wait_until(lambda: "frozen 1" in read_word(f"{self.path}/cgroup.events"))

    def remove(self) -> None:
        """Kill what is still in it, all at once, and remove it."""
        try:
            if self.path and "populated 1" in read_word(f"{self.path}/cgroup.events"):
                linux.write_file(f"{self.path}/cgroup.kill", "1")
            if self.path:
                remove_when_empty(self.path)
        except FileNotFoundError:
            pass  # it was never made, or is gone
        if self.door is not None:
            os.close(self.door)
            self.door = None

    def leave(self) -> None:
        """Give the place back."""
        self.seat.leave()
