"""Try something in a child that changes nothing: it works in namespaces that end with it.

A kernel that has a mechanism may still forbid it here (a sysctl, a security module, the seccomp
filter of a container around us), so the doctor tries instead of guessing. The one trace that a
trial can leave is a kernel module that the kernel loads by itself, as it would for a real run.
"""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from checks import kernel

# prctl(2)
PR_SET_DUMPABLE = 4

NOBODY = 65534
"""The user that a trial becomes to see what an ordinary user may do."""
SECONDS = 30.0
"""A trial takes milliseconds, under emulation seconds; one that takes this long hangs, and is
killed."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `said` is what it returned, or the error in words with its `errno`."""

    ok: bool
    said: str = ""
    errno: int = 0


def attempt(trial: Callable[[], str], seconds: float = SECONDS) -> Outcome:
    """Run `trial` in a child of its own and say how it ended.

    The child is killed after `seconds`, when the doctor is interrupted, and when it dies. Call it
    before any thread exists: a fork copies only the thread that forks.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(trial, writer)
    os.close(writer)
    try:
        return _outcome(reader, seconds)
    finally:
        # The child leads a process group, so that what it started goes with it.
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)


def _child(trial: Callable[[], str], writer: int) -> None:
    """The child's half: it never returns, and its output is not the doctor's."""
    try:
        os.setpgid(0, 0)
        kernel.die_with_parent()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        outcome = {"ok": True, "said": trial()}
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        outcome = {"ok": False, "said": said, "errno": error.errno or 0}
    except Exception as error:
        # pyroute2's own errors carry the kernel's errno as `code`.
        code = getattr(error, "code", 0)
        outcome = {"ok": False, "said": f"{type(error).__name__}: {error}", "errno": int(code or 0)}
    finally:
        try:
            os.write(writer, json.dumps(outcome).encode())
        finally:
            os._exit(0)


def _outcome(reader: int, seconds: float) -> Outcome:
    """Read the child's report until its end of the pipe closes or the time is over."""
    report, end = b"", time.monotonic() + seconds
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(reader, 65536)
        if not piece:
            return Outcome(**json.loads(report)) if report else Outcome(False, "died", errno.EIO)
        report += piece
    return Outcome(False, os.strerror(errno.ETIMEDOUT), errno.ETIMEDOUT)


def unshare(*names: str) -> str:
    """Move this process into new namespaces, named as in /proc/self/ns; return the names.

    See unshare(2).
    """
    flags = 0
    for name in names:
        flags |= kernel.NAMESPACES[name]
    kernel.unshare(flags)
    return " ".join(names)


def private_tmpfs() -> str:
    """Return an empty tmpfs that only this process sees; call it after `unshare("mnt")`.

    systemd mounts / shared, so a mount made here would appear on the machine: private first.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    place = next(path for path in ("/mnt", "/media", "/srv", "/tmp") if os.path.isdir(path))
    kernel.mount("none", place, "tmpfs")
    return place


def become_ordinary() -> None:
    """Become `nobody`, when root of the machine; root of a user namespace is ordinary already."""
    if os.geteuid() == 0 and _full_map():
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # A change of user makes /proc/self root's, and with it the id maps that come next; it
        # also forgets the death signal.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        kernel.die_with_parent()


def _full_map() -> bool:
    """Return whether all ids map onto themselves, as they do in the first user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def enter_user_namespace(*others: str) -> None:
    """Become root of a new user namespace, with `others` inside it."""
    uid, gid = os.geteuid(), os.getegid()
    unshare("user")
    # The kernel takes a group map from an ordinary user only after setgroups(2) is given up.
    for file, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        _write(f"/proc/self/{file}", line)
    unshare(*others)


def _write(path: str, line: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as out:
            out.write(line)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f'write("{path}", "{line}")') from None
