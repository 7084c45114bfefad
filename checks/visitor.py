"""The visitor: a child of the judge that goes where a process is, looks, and reports.

It joins the process's namespaces, takes its root, ids and capabilities, and then does one small
thing: reads a link, opens a canary. So the judge need believe nothing that the container prints,
and nothing need be installed in it.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn, TypeVar

from checks import kernel
from checks.words import say

T = TypeVar("T")

ENDINGS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
PATIENCE = 10.0
"""Seconds that a visit may take. What a visitor does takes milliseconds; a container that hangs
it (a FUSE mount that never answers) must not hang the judge."""


class Hindered(Exception):
    """The visitor could not go there, or did not come back."""


def status_fields(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status. See proc_pid_status(5)."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def is_init(pid: int) -> bool:
    """Say whether a process is pid 1 of a namespace: the kernel drops signals that it ignores.

    See pid_namespaces(7).
    """
    return status_fields(pid)["NSpid"].split()[-1] == "1"


def link(pid: int, namespace: str) -> str:
    """Return which namespace a process is in, such as `net:[4026531840]`. See namespaces(7)."""
    return os.readlink(f"/proc/{pid}/ns/{namespace}")


def visit(
    pid: int,
    look: Callable[[], T],
    *,
    root: bool = True,
    only: Collection[str] = kernel.NAMESPACES,
) -> T:
    """Return what `look()` returns (as JSON carries it) where the process `pid` is.

    With `root=False` the visitor joins the namespaces, but keeps the root of the mount namespace
    and its own capabilities: what the *kernel* holds there, not what the process may reach.
    `only` are the namespaces that it joins. Raises OSError where `look` does, Hindered where the
    visit fails.
    """
    report, answer = os.pipe()
    with signals_held():
        child = os.fork()
        if child == 0:
            try:
                os.close(report)
                _go(pid, look, answer, root, only)
            finally:
                os._exit(1)
    os.close(answer)
    try:
        text = _read(report, PATIENCE)
    finally:
        os.close(report)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if text is None:
        raise Hindered(say("visit.lost", pid=pid, seconds=PATIENCE))
    if not text:
        raise Hindered(say("visit.died", pid=pid))
    result = json.loads(text)
    if "errno" in result:
        raise OSError(result["errno"], result["text"])
    # The visitor itself has no words: their file is not where it is.
    if "kept out" in result:
        raise Hindered(say("visit.join", pid=pid, reason=result["kept out"]))
    if "failed" in result:
        raise Hindered(say("visit.failed", pid=pid, reason=result["failed"]))
    value: T = result["value"]
    return value


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back what ends the judge while it forks.

    A child that never leaves this block stays deaf to them. It has the judge's handlers and the
    judge's stack: a Ctrl-C would have it tidy up in the judge's place, and take the bench down.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read(fd: int, patience: float) -> bytes | None:
    """Read until the last writer is gone; None where patience ends first."""
    parts: list[bytes] = []
    until = time.monotonic() + patience
    while select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
        if not (part := os.read(fd, 65536)):
            return b"".join(parts)
        parts.append(part)
    return None


def _go(
    pid: int, look: Callable[[], Any], answer: int, root: bool, only: Collection[str]
) -> NoReturn:
    """Be the visitor."""
    result: dict[str, Any]
    try:
        kernel.die_with_parent()
        _join(pid, root, only)
        # A new pid namespace is entered only by a child.
        if child := os.fork():
            os.waitpid(child, 0)
            os._exit(0)
        kernel.die_with_parent()
    except Exception as error:
        result = {"kept out": str(error)}
    else:
        try:
            result = {"value": look()}
        except OSError as error:
            result = {"errno": error.errno or 0, "text": error.strerror or str(error)}
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}"}
    os.write(answer, json.dumps(result).encode())
    os._exit(0)


def _join(pid: int, root: bool, only: Collection[str]) -> None:
    """Join the namespaces of `pid`, and take its root, ids and capabilities."""
    fields = status_fields(pid)
    own = os.getpid()
    uids = _ids_inside(fields["Uid"].split()[:3], f"/proc/{pid}/uid_map")
    gids = _ids_inside(fields["Gid"].split()[:3], f"/proc/{pid}/gid_map")
    groups = _ids_inside(fields["Groups"].split(), f"/proc/{pid}/gid_map")
    # Everything is opened before anything is joined: afterwards /proc is another.
    root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    namespaces = [
        (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), flag)
        for name, flag in kernel.NAMESPACES.items()
        if name in only
        and os.path.exists(f"/proc/{pid}/ns/{name}")
        and link(pid, name) != link(own, name)
    ]
    for fd, flag in namespaces:
        kernel.setns(fd, flag)
    if not root:
        os.close(root_fd)
        os.chdir("/")
        return
    os.fchdir(root_fd)
    os.chroot(".")
    os.chdir("/")
    os.close(root_fd)
    kernel.keep_capabilities()
    # Where setgroups(2) is denied, the process itself could not change its groups either.
    with contextlib.suppress(PermissionError):
        os.setgroups(groups)
    os.setresgid(*gids)
    os.setresuid(*uids)
    kernel.limit_capabilities(
        int(fields["CapEff"], 16), int(fields["CapPrm"], 16), int(fields["CapBnd"], 16)
    )


def _ids_inside(ids: list[str], table: str) -> list[int]:
    """Return ids of a process as its own user namespace numbers them.

    /proc/PID/status shows them as *our* user namespace does. See user_namespaces(7).
    """
    with open(table, encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return [
        next(
            (
                inside + id_ - outside
                for inside, outside, n in ranges
                if outside <= id_ < outside + n
            ),
            id_,
        )
        for id_ in map(int, ids)
    ]


def walk_up(fd: int) -> Iterator[tuple[int, int]]:
    """Yield device and inode of a directory, then of each parent, up to where `..` ends."""
    here = os.dup(fd)
    try:
        seen: tuple[int, int] | None = None
        while True:
            facts = os.fstat(here)
            if (facts.st_dev, facts.st_ino) == seen:
                return
            seen = (facts.st_dev, facts.st_ino)
            yield seen
            above = os.open("..", os.O_PATH | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = above
    finally:
        os.close(here)
