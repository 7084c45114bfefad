"""/dev: a few harmless devices, terminals, shared memory and message queues."""

from __future__ import annotations

import os

from stages import linux

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
INERT = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
TTY_GROUP = 5
"""Who owns terminals, in Debian's and Docker's /etc/group."""


def furnish_dev(bind: bool, mqueue: str, rootless: bool) -> None:
    """Fill the file system that is mounted on `dev`.

    See tmpfs(5), devpts(4), mq_overview(7).
    """
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
    linux.mount("devpts", "dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, options)
    linux.mount("tmpfs", "dev/shm", "tmpfs", INERT, "mode=1777,size=65536k")
    if mqueue:
        linux.mkdir("dev/mqueue", 0o755)
        linux.mount("mqueue", "dev/mqueue", "mqueue", INERT)


def make_device(path: str, major: int, minor: int, bind: bool) -> None:
    """Make a device node, or mount the host's on a file. See mknod(2)."""
    if bind:
        # Whoever could make nodes in a user namespace could make one for the host's disk.
        os.close(linux.open_file(path, linux.O_WRONLY | linux.O_CREAT, 0o666))
        linux.mount(f"/{path}", path, None, linux.MS_BIND)
    else:
        linux.mknod(path, linux.S_IFCHR | 0o666, major, minor)
