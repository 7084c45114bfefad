"""Run a program in a root file system, with as few rights as it needs to show that it runs.

    python3 -I -S inside.py ROOT REPORT_FD nobody|same PROGRAM [ARG...]

Started in namespaces of its own by `verify.py`. Nobody vouches for what is in ROOT, so the program
is not root's: it runs as nobody, without devices, without a way to new privileges. If it can't be
executed, errno's number is written to REPORT_FD.
"""

import ctypes
import os
import sys

# <linux/mount.h>, <linux/prctl.h>
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 2, 4, 8, 32, 4096
PR_SET_NO_NEW_PRIVS = 38
NOBODY = 65534


def shield(root: str) -> None:
    """Mount `root` onto itself without devices and setuid. See mount(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(root)
    # A remount sets all flags anew: one that forbids execution is to stay, and to be noticed.
    noexec = MS_NOEXEC if os.statvfs(root).f_flag & os.ST_NOEXEC else 0
    flags = MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOSUID | noexec
    for source, how in ((name, MS_BIND), (None, flags)):
        if libc.mount(source, name, None, ctypes.c_ulong(how), None) != 0:
            raise OSError(ctypes.get_errno(), "mount", root)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> None:
    """Enter ROOT and become PROGRAM."""
    root, report, user, *command = sys.argv[1:]
    try:
        shield(root)
        os.chroot(root)
        os.chdir("/")
        # In a user namespace nobody else is mapped, and its root is an ordinary user already.
        if user == "nobody":
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        os.set_inheritable(int(report), False)
        os.execve(command[0], command, {"PATH": "/bin:/usr/bin"})
    except OSError as error:
        os.write(int(report), str(error.errno).encode())
        os._exit(125)


if __name__ == "__main__":
    main()
