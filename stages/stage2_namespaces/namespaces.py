"""Namespaces: which are new, and the two that are not made in one go with the others."""

from __future__ import annotations

import os

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

FLAGS = {
    "pid": linux.CLONE_NEWPID,
    "net": linux.CLONE_NEWNET,
    "mnt": linux.CLONE_NEWNS,
    "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS,
    "user": linux.CLONE_NEWUSER,
    "cgroup": linux.CLONE_NEWCGROUP,
}


def fork_into(namespaces: Collection[str], cgroup: int | None = None) -> int:
    """Fork a child that is the first process of the new namespaces; return its pid, 0 in it.

    `cgroup` is the directory of a control group that it is born in, as a later stage wants it.
    Raises OSError: EPERM without CAP_SYS_ADMIN, but for a user namespace. See namespaces(7).
    """
    # All in one call: the kernel makes the user namespace first, and it owns the others.
    flags = 0
    for kind in namespaces:
        flags |= FLAGS.get(kind, 0)
    return linux.clone3(flags, cgroup)


def shift_boottime(seconds: int) -> None:
    """Enter a time namespace whose boot-time clock is `seconds` ahead of the host's.

    See time_namespaces(7).
    """
    # It can't be made along with the others: the offset is fixed once a process is inside.
    linux.unshare(linux.CLONE_NEWTIME)
    linux.write_file("/proc/self/timens_offsets", f"boottime {seconds} 0")
    # unshare(2) puts only children into it; this process is to become COMMAND itself.
    fd = linux.open_file("/proc/self/ns/time_for_children", linux.O_RDONLY | linux.O_CLOEXEC)
    linux.setns(fd, linux.CLONE_NEWTIME)
    os.close(fd)
