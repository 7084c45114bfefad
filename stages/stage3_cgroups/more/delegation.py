"""v2: where a group may be made that has controllers: "no internal processes", and delegation.

Only a group without processes hands controllers down, and our own group has us in it. So the
container's becomes a neighbour of ours, below a group that hands down what is wanted. Where
systemd manages the tree it is asked for a part of it: what it has not delegated is its own.
See cgroups(7), and systemd's "Control Group APIs and Delegation".
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.light import later
from stages.stage3_cgroups.more.files import entries, remove_when_empty, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from stages.stage3_cgroups.more import systemd
    from stages.stage3_cgroups.more.find import Trees
else:
    systemd = later("stages.stage3_cgroups.more.systemd")

COUNTING = ("memory", "cpu", "io", "pids")
"""The controllers that every container gets where they are to be had: they count."""
OURS = "runtime"
"""The group of the runtime itself, in a part of the tree that was delegated to it."""


class Seat:
    """A place for one container's group, for as long as it runs."""

    def __init__(self, name: str, trees: Trees, needed: Collection[str], weight: int) -> None:
        """Take the group's name, where we are, the controllers it has to have, and its weight."""
        self.name, self.needed, self.weight = name, needed, weight
        self.own, self.top = trees.v2, trees.top
        self.scope = ""

    def take(self) -> str:
        """Return a directory below which a group has the controllers that are needed.

        Raises OSError: EBUSY where none can be found, ENOENT for a controller not delegated.
        """
        if manager := systemd.private_socket():
            self.scope = self._scope(manager)
            return self.scope
        if giver := self._giver():
            return giver
        words = f"cgroup({','.join(sorted(self.needed))} below {self.own})"
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), words)

    def _giver(self) -> str:
        """Return the nearest group upwards that hands down what is needed, or can be made to."""
        above = self.own
        while os.path.exists(f"{above}/cgroup.subtree_control"):
            given = {*entries(f"{above}/cgroup.subtree_control")}
            # Without limits our own would do; but then nothing would be counted in it.
            if {*self.needed} <= given and (self.needed or given & {*COUNTING}):
                return above
            # The first group of all is exempt from the rule. It is the one without a type.
            if not os.path.exists(f"{above}/cgroup.type"):
                hand_down(above, self.needed)
                return above
            above = os.path.dirname(above)
        return "" if self.needed else self.own

    def _scope(self, manager: str) -> str:
        """Have systemd make a scope with this process in it, and make room for a second group."""
        unit = f"{self.name}.scope"
        systemd.start_scope(manager, unit, os.getpid(), self.weight)
        wait_until(lambda: own_group().endswith(f"/{unit}"))
        scope = f"{self.top}{own_group()}"
        # With us in it, it could hand nothing down.
        linux.mkdir(f"{scope}/{OURS}", 0o755)
        linux.write_file(f"{scope}/{OURS}/cgroup.procs", "0")
        hand_down(scope, self.needed)
        return scope

    def leave(self) -> None:
        """Go back where we were; systemd removes a scope that is empty.

        An ordinary user may not move a process out of what was delegated: there the scope goes
        when the runtime ends, a moment later.
        """
        if not self.scope:
            return
        try:
            linux.write_file(f"{self.own}/cgroup.procs", "0")
        except OSError:
            return
        remove_when_empty(f"{self.scope}/{OURS}")
        wait_until(lambda: not os.path.exists(self.scope))


def hand_down(group: str, needed: Collection[str]) -> None:
    """Have a group give its children the controllers that are needed, and those that count."""
    available = entries(f"{group}/cgroup.controllers")
    wanted = {*needed, *(name for name in COUNTING if name in available)}
    line = " ".join(f"+{name}" for name in sorted(wanted))
    if line:
        linux.write_file(f"{group}/cgroup.subtree_control", line)


def own_group() -> str:
    """Return the path of this process's group in the tree of v2. See proc_pid_cgroup(5)."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
