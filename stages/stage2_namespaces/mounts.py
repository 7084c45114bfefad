"""Mounts: a tree of the container's own, with /proc, /sys and /dev, and the host's taken away."""

from __future__ import annotations

import os

from stages import linux
from stages.stage2_namespaces.more.devices import INERT, furnish_dev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage2_namespaces.options import Isolated


def stand_in(root: str) -> None:
    """Make the mounts this process's own, and stand in the directory `root`, a mount of its own.

    Raises OSError: ENOENT or ENOTDIR for `root`, EPERM without CAP_SYS_ADMIN. See mount(2).
    """
    # systemd mounts / shared: what is mounted below would appear on the host too, and the reverse.
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    # pivot_root(2) takes a mount, not a directory; a directory mounted on itself is one.
    linux.mount(root, root, None, linux.MS_BIND | linux.MS_REC)
    # Path look-ups stop at the old mount, which is now below: step into the new one.
    linux.chdir(root)


def furnish(container: Isolated) -> None:
    """Mount /proc, /sys and /dev in the root that we stand in.

    A user namespace may mount only what shows its own: where the pids, the network or the IPC are
    the host's, so is the file system that shows them. See mount_namespaces(7).
    """
    new = container.namespaces
    ours = new if "user" in new else {"pid", "net", "ipc"}
    # A fresh one shows the pids of the namespace that mounts it. It has to come before the host's
    # goes: a user namespace that sees no whole /proc may not mount one ("too revealing").
    mount_on("proc", "proc", INERT, "pid" in ours)
    # What is written there reaches the kernel, which all containers share.
    mount_on("sys", "sysfs", INERT | linux.MS_RDONLY, "net" in ours)
    mount_on("dev", "tmpfs", linux.MS_NOSUID | linux.MS_STRICTATIME, True, "mode=755,size=65536k")
    furnish_dev("user" in new, "mqueue" if "ipc" in ours else "", container.rootless)


def mount_on(name: str, fstype: str, flags: int, fresh: bool, data: str | None = None) -> None:
    """Mount a file system on the directory `name` of the root, or else the host's of that name."""
    # A link here would take the mount elsewhere, out of ROOT even (CVE-2019-19921).
    os.close(linux.open_file(name, linux.O_PATH | linux.O_DIRECTORY | linux.O_NOFOLLOW))
    if fresh:
        linux.mount(fstype, name, fstype, flags, data)
        return
    linux.mount(f"/{name}", name, None, linux.MS_BIND | linux.MS_REC)
    attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
    if flags & linux.MS_RDONLY:
        attributes |= linux.MOUNT_ATTR_RDONLY
    # mount(2) with MS_REMOUNT would miss what is mounted below, such as /sys/fs/cgroup.
    linux.mount_setattr(name, linux.AT_RECURSIVE, attributes)


def leave_host() -> None:
    """Make where we stand the root, and take the host's tree away. See pivot_root(2)."""
    # Both on the same spot: the host's root ends up on top of ours, and needs no directory in it.
    linux.pivot_root(".", ".")
    # No path leads back: not `..`, not a second chroot(2). What still is in use there (this
    # program) stays until it isn't.
    linux.umount2(".", linux.MNT_DETACH)
    linux.chdir("/")
