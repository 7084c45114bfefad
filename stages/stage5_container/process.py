"""The child's last steps, and a first process that does what pid 1 has to."""

from __future__ import annotations

import ctypes
import os

from stages import linux
from stages.stage1_chroot import rootfs
from stages.stage1_chroot.process import PASSED_ON
from stages.stage4_overlayfs.more.paths import Tree

NAME = b"init"
"""What the first process is called (--init)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from stages.stage5_container.options import Contained


def close_all_but(*kept: int) -> None:
    """Close all descriptors but stdin, stdout, stderr, and those that execve(2) itself closes.

    `kept` are of the runtime's own. See close_range(2).
    """
    first = 3
    for fd in sorted(fd for fd in kept if fd >= first):
        if fd > first:
            linux.close_range(first, fd - 1)
        first = fd + 1
    linux.close_range(first, 0xFFFFFFFF)


def hold_sources(container: Contained) -> None:
    """Open what is to be mounted, while we still are who may go there.

    The root of a user namespace is some other user outside, and the store is closed to that one.
    """
    for index, one in enumerate(container.volumes):
        if one.source:
            fd = linux.open_file(one.source, linux.O_PATH | linux.O_CLOEXEC)
            container.volumes[index] = one._replace(source=f"/proc/self/fd/{fd}")


def enter_workdir(directory: str) -> None:
    """Stand in a directory of the container's, made where there is none, as Docker does.

    Raises OSError: ENOENT for one that lies outside, however it is spelled.
    """
    try:
        rootfs.enter_workdir(directory)
    except FileNotFoundError as error:
        if str(error.filename).startswith("getcwd"):
            raise
        # Where / is the container's, no path leads out of it.
        for count in range(2, directory.count("/") + 2):
            part = "/".join(directory.split("/")[:count])
            if part and not os.path.exists(part):
                linux.mkdir(part, 0o755)
        rootfs.enter_workdir(directory)


def be_first(kept: Iterable[int]) -> None:
    """Fork: the child goes on, to become the command; this process stays, and is pid 1 (--init).

    The kernel gives pid 1 every orphan, to be waited for, and drops each signal that it has no
    handler for. A command seldom knows; here the command is no pid 1. See pid_namespaces(7).
    """
    # Whoever could open our /proc/1/exe would have the host's own interpreter (CVE-2019-5736).
    forget_words()
    linux.set_dumpable(0)
    child = linux.fork()
    if child == 0:
        lead_terminal()
        return
    for fd in kept:
        os.close(fd)
    linux.close_range(0, 2)
    while True:
        signum, _ = linux.sigwaitinfo(PASSED_ON | {linux.SIGCHLD})
        if signum != linux.SIGCHLD:
            linux.kill(child, signum)
            continue
        while ended := reap():
            if ended.si_pid == child:
                os._exit(ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128))


def forget_words() -> None:
    """Wipe the words that the host has started this process with: /proc/1/cmdline shows them.

    See proc_pid_stat(5): where they are in our memory, and our environment.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    first, last, variables, end = (int(field) for field in fields[45:49])
    if first and variables:
        ctypes.memset(first, 0, last - first)
        ctypes.memset(variables, 0, end - variables)
        ctypes.memmove(first, NAME, min(len(NAME), last - first - 1))


def reap() -> os.waitid_result | None:
    """Wait for any child that has ended; None where none has."""
    try:
        return os.waitid(os.P_ALL, 0, linux.WEXITED | linux.WNOHANG)
    except ChildProcessError:
        return None


def lead_terminal() -> None:
    """Be a process group of its own, the terminal's foreground one: Ctrl-C is for it alone."""
    linux.setpgid(0, 0)
    if os.isatty(0):
        # From the background tcsetpgrp(3) stops whoever calls it, unless that signal is held.
        held = linux.sigprocmask(linux.SIG_BLOCK, {linux.SIGTTOU})
        os.tcsetpgrp(0, os.getpid())
        linux.sigprocmask(linux.SIG_SETMASK, held)


def home_of(root: str, uid: int) -> bytes:
    """Return where a user of the tree `root` is at home, as its /etc/passwd says; else /.

    Read by ourselves: getpwuid(3) would load a library out of the container (CVE-2019-14271).
    """
    for row in Tree(root).lines("etc/passwd"):
        if len(row) > 5 and row[2] == str(uid) and row[5]:
            return os.fsencode(row[5])
    return b"/root" if uid == 0 else b"/"
