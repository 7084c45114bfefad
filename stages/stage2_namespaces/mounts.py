"""Mounts: a tree of the container's own, with /proc, /sys and /dev, and the host's taken away."""

from __future__ import annotations

import os

from stages import linux
from stages.linux import (
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_STRICTATIME,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    S_IFCHR,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage2_namespaces.options import Isolated

DEVICES = {
    # name: major, minor. See null(4), full(4), random(4), tty(4)
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
INERT = MS_NOSUID | MS_NODEV | MS_NOEXEC
TTY_GROUP = 5
"""Who owns terminals, in Debian's and Docker's /etc/group."""


def stand_in(root: str) -> None:
    """Make the mounts this process's own, and stand in the directory `root`, a mount of its own.

    Raises OSError: ENOENT or ENOTDIR for `root`, EPERM without CAP_SYS_ADMIN. See mount(2).
    """
    # systemd mounts / shared: what is mounted below would appear on the host too, and the reverse.
    linux.mount(None, "/", None, MS_REC | MS_PRIVATE)
    # pivot_root(2) takes a mount, not a directory; a directory mounted on itself is one.
    linux.mount(root, root, None, MS_BIND | MS_REC)
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
    mount_on("sys", "sysfs", INERT | MS_RDONLY, "net" in ours)
    furnish_dev("user" in new, "mqueue" if "ipc" in ours else "", container.rootless)


def mount_on(name: str, fstype: str, flags: int, fresh: bool, data: str | None = None) -> None:
    """Mount a file system on the directory `name` of the root, or else the host's of that name."""
    # A link here would take the mount elsewhere, out of ROOT even (CVE-2019-19921).
    os.close(linux.open_file(name, O_PATH | O_DIRECTORY | O_NOFOLLOW))
    if fresh:
        linux.mount(fstype, name, fstype, flags, data)
        return
    linux.mount(f"/{name}", name, None, MS_BIND | MS_REC)
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    if flags & MS_RDONLY:
        attributes |= MOUNT_ATTR_RDONLY
    # mount(2) with MS_REMOUNT would miss what is mounted below, such as /sys/fs/cgroup.
    linux.mount_setattr(name, AT_RECURSIVE, attributes)


def furnish_dev(bind: bool, mqueue: str, rootless: bool) -> None:
    """Make /dev: a few harmless devices, terminals, shared memory and message queues.

    See tmpfs(5), devpts(4), mq_overview(7).
    """
    mount_on("dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, True, "mode=755,size=65536k")
    before = linux.umask(0)
    for name, (major, minor) in DEVICES.items():
        make_device(f"dev/{name}", major, minor, bind)
    for name, target in LINKS.items():
        linux.symlink(target, f"dev/{name}")
    linux.mkdir("dev/pts", 0o755)
    linux.mkdir("dev/shm", 0o1777)
    linux.umask(before)
    # The one who owns terminals has to exist: an ordinary user's namespace has group 0 alone.
    group = "" if rootless and bind else f",gid={TTY_GROUP}"
    options = f"newinstance,ptmxmode=0666,mode=620{group}"
    linux.mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    linux.mount("tmpfs", "dev/shm", "tmpfs", INERT, "mode=1777,size=65536k")
    if mqueue:
        linux.mkdir("dev/mqueue", 0o755)
        linux.mount("mqueue", "dev/mqueue", "mqueue", INERT)


def make_device(path: str, major: int, minor: int, bind: bool) -> None:
    """Make a device node, or mount the host's on a file. See mknod(2)."""
    if bind:
        # Whoever could make nodes in a user namespace could make one for the host's disk.
        os.close(linux.open_file(path, linux.O_WRONLY | linux.O_CREAT, 0o666))
        linux.mount(f"/{path}", path, None, MS_BIND)
    else:
        linux.mknod(path, S_IFCHR | 0o666, major, minor)


def leave_host() -> None:
    """Make where we stand the root, and take the host's tree away. See pivot_root(2)."""
    # Both on the same spot: the host's root ends up on top of ours, and needs no directory in it.
    linux.pivot_root(".", ".")
    # No path leads back: not `..`, not a second chroot(2). What still is in use there (this
    # program) stays until it isn't.
    linux.umount2(".", MNT_DETACH)
    linux.chdir("/")
