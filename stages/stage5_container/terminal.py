"""Terminals: one of the container's own, and the caller's, which is its window meanwhile.

A pair of ends: what is typed goes in at the master, and the slave is what the command has for
stdin, stdout and stderr. It is made inside, of the container's own devpts: there it has a name. So
the command never has the caller's terminal open, and can't type into it. See pty(7), pts(4).
"""

from __future__ import annotations

import _socket
import errno
import os
import termios
from array import array
from struct import pack

from stages import linux
from stages.light import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PTMX = (5, 2)
"""Major and minor of the device that makes terminals. See pts(4)."""
INPUT = termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
SLAVES = range(136, 144)
"""Majors of the terminals that it makes."""


class Pty:
    """A terminal that the child opens, inside; and a socket that its master comes out by."""

    def __init__(self) -> None:
        """Make the socket, before there is a child."""
        self.outer, self.inner = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self.master = -1

    def take(self) -> int:
        """In the child, in its root: open a terminal, hand the master out, return the slave."""
        master, slave = open_terminal()
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [master]))]
        linux.request("sendmsg(SCM_RIGHTS)", self.inner.sendmsg, [b"m"], rights)
        os.close(master)
        linux.ioctl(slave, linux.TIOCSCTTY, 0)
        return slave

    def receive(self) -> int:
        """In the parent: return the master; -1 where the child ended first."""
        self.inner.close()
        _, rights, _, _ = self.outer.recvmsg(1, _socket.CMSG_SPACE(4))
        for _, kind, data in rights:
            if kind == _socket.SCM_RIGHTS:
                self.master = int.from_bytes(data[:4], "little")
                os.set_inheritable(self.master, False)
        return self.master

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal how big its window is, and thereby the command: SIGWINCH."""
        if rows and columns and self.master >= 0:
            # struct winsize: rows, columns, and pixels, which nobody knows. See TIOCSWINSZ(2const).
            linux.ioctl(self.master, linux.TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Close the socket; the master is whoever's who reads from it."""
        self.master = -1
        self.inner.close()
        self.outer.close()


def open_terminal() -> tuple[int, int]:
    """Open a new terminal of the container's own; return its two ends.

    Raises OSError, ENXIO, where the container has put something else in its place.
    """
    flags = linux.O_RDWR | os.O_NOCTTY | linux.O_CLOEXEC
    # In a container that has run for a while, what these names lead to is the container's choice.
    master = linux.open_file("/dev/pts/ptmx", flags | linux.O_NOFOLLOW)
    check(master, PTMX[0] == os.major(os.fstat(master).st_rdev), "/dev/pts/ptmx")
    unlock(master)
    # By the master itself, and not by a name: /dev/pts/N might be a link by now (CVE-2025-52565).
    slave = linux.ioctl(master, linux.TIOCGPTPEER, flags)
    check(slave, os.major(os.fstat(slave).st_rdev) in SLAVES, "TIOCGPTPEER")
    return master, slave


def check(fd: int, good: bool, what: str) -> None:
    """Raise OSError where a device isn't the one that it should be."""
    if not good:
        os.close(fd)
        raise OSError(errno.ENXIO, "the container has something else there", what)


def unlock(master: int) -> None:
    """Let the slave be opened. See unlockpt(3)."""
    linux.ioctl(master, linux.TIOCSPTLCK, pack("i", 0))


def show_console(slave: int) -> None:
    """Mount the terminal at /dev/console, where programs look for one. See console(4)."""
    os.close(
        linux.open_file("/dev/console", linux.O_WRONLY | linux.O_CREAT | linux.O_CLOEXEC, 0o600)
    )
    linux.mount(f"/proc/self/fd/{slave}", "/dev/console", None, linux.MS_BIND)


class Raw:
    """The caller's terminal, as long as its keys are somebody else's."""

    def __init__(self, fd: int) -> None:
        """Take the terminal's descriptor; one that is no terminal is left alone."""
        self.fd = fd
        self.before: Any = None

    def __enter__(self) -> Raw:
        """Hand on each key as it comes, Ctrl-C too; show nothing by itself. See termios(3)."""
        if os.isatty(self.fd):
            self.before = termios.tcgetattr(self.fd)
            raw = self.before[:]
            raw[6] = list(raw[6])
            # What cfmakeraw(3) sets.
            raw[0] &= ~(INPUT | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
            raw[1] &= ~termios.OPOST
            raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            raw[3] &= ~(
                termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
            )
            termios.tcsetattr(self.fd, termios.TCSADRAIN, raw)
        return self

    def __exit__(self, *_: object) -> None:
        """Have it as it was."""
        if self.before:
            with suppress(termios.error):  # it has been hung up meanwhile
                termios.tcsetattr(self.fd, termios.TCSADRAIN, self.before)


def window_of(fd: int) -> tuple[int, int]:
    """Return rows and columns of a terminal; 0 and 0 of what is none."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns
