"""Which devices a container may open: the node is only a name, and root could make any.

Docker leaves a container CAP_MKNOD, so that it can make nodes; the kernel asks the control group
when one is opened. v1 has a list in two files; v2 asks a program (more/device_program.py).
See the kernel's admin-guide/cgroup-v1/devices and admin-guide/cgroup-v2, "Device controller".
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.light import later
from stages.stage3_cgroups.more.files import entries, kill_all, make, remove_when_empty
from stages.stage3_cgroups.v2 import GroupV2
from stages.stage4_overlayfs.whiteouts import in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage3_cgroups.cgroup import ControlGroup
    from stages.stage3_cgroups.limits import Limits
    from stages.stage3_cgroups.more.usage import Usage
    from stages.stage5_container.more import device_program
else:
    device_program = later("stages.stage5_container.more.device_program")

ALLOWED = (
    # runc's, which Docker adds none to (libcontainer/specconv, AllowedDevices), but for 10:200:
    # a container has no tun to open. As devices.allow has them: c(haracter) or b(lock) device, its
    # numbers, and what is allowed of r(ead), w(rite), m(knod).
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:2 rwm",  # ptmx
    "c 136:* rwm",  # pts
)


def device_rules(group: ControlGroup) -> ControlGroup:
    """Return a container's group, which is still to be entered, with the rules for devices in it.

    An ordinary user's group has none, and needs none: in a user namespace nobody can make a node,
    and the host's own are opened by the user's rights.
    """
    if not in_user_namespace():
        group.parts.append(DeviceGroup(group))
    return group


class DeviceGroup:
    """A group in v1's tree of devices; or a program for the container's group of v2."""

    door: int | None = None

    def __init__(self, group: ControlGroup) -> None:
        """Look where such rules can be; nothing is made yet."""
        self.group, self.path = group, ""
        if own := group.trees.v1.get("devices"):
            self.path = f"{own}/{group.name}"

    def prepare(self) -> None:
        """Nothing: it is there, or it isn't."""

    def create(self) -> None:
        """Make the group of v1."""
        if self.path:
            make(self.path)

    def limit(self, limits: Limits) -> None:
        """Write the rules, or attach them; raise OSError where there is no place for them."""
        if self.path:
            # Its parent allows them: what nobody allowed to it, it can't allow to a child.
            linux.write_file(f"{self.path}/devices.deny", "a")
            for allowed in ALLOWED:
                linux.write_file(f"{self.path}/devices.allow", allowed)
            return
        for part in self.group.parts:
            if isinstance(part, GroupV2) and part.path:
                attach(part.path)
                return
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "cgroup(devices)")

    def join(self) -> None:
        """Move the calling process in."""
        if self.path:
            linux.write_file(f"{self.path}/tasks", "0")

    def read(self, usage: Usage) -> None:
        """Nothing: it counts nothing."""

    def freeze(self) -> None:
        """Nothing: other groups do."""

    def remove(self) -> None:
        """Remove the group of v1; a program goes with the group that it was attached to."""
        if self.path and os.path.isdir(self.path):
            if entries(f"{self.path}/cgroup.procs"):
                kill_all(self.path)
            remove_when_empty(self.path)

    def leave(self) -> None:
        """Nothing."""


def attach(directory: str) -> None:
    """Have the kernel ask our program whenever somebody in a group of v2 opens a device."""
    code = device_program.program(ALLOWED)
    loaded = linux.bpf_prog_load(code, linux.BPF_PROG_TYPE_CGROUP_DEVICE)
    target = linux.open_file(directory, linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC)
    try:
        # Those of the groups above are asked, too: all have to agree.
        kind, flags = linux.BPF_CGROUP_DEVICE, linux.BPF_F_ALLOW_MULTI
        linux.bpf_prog_attach(target, loaded, kind, flags)
    finally:
        os.close(target)
        os.close(loaded)
