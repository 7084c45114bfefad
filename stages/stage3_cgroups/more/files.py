"""A group's directory and its files."""

from __future__ import annotations

import errno
import os
import time

from stages import linux
from stages.light import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 5.0
"""Seconds after which a group that can't be emptied is given up: longer than any exit takes."""


def make(path: str) -> None:
    """Make a group: a directory, which the kernel fills."""
    linux.mkdir(path, 0o755)


def read_word(path: str) -> str:
    """Return what a file says, without the end of its last line; "" where it is not there."""
    try:
        return read_text(path).strip()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return ""
        raise


def entries(path: str) -> list[str]:
    """Return the words of a file; raise FileNotFoundError where it is not there."""
    return read_text(path).split()


def table(path: str) -> dict[str, int]:
    """Return a file of lines such as `oom_kill 1`; empty where it is not there."""
    rows = [line.split() for line in read_word(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def kill_all(path: str) -> None:
    """Kill every process of a group."""
    for pid in entries(f"{path}/cgroup.procs"):
        # 0 is one that this pid namespace has no number for; kill(2) would take it for ourselves.
        if int(pid) > 0:
            try:
                linux.kill(int(pid), linux.SIGKILL)
            except ProcessLookupError:
                continue


def remove_when_empty(path: str) -> None:
    """Remove a group, with those made below it, as soon as the last process has left it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            linux.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                remove_when_empty(entry.path)
        # The kernel tells nobody on v1 that a group has become empty.
        kill_all(path)
        time.sleep(0.001)


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until the kernel has done what a file asked for; for PATIENCE at most."""
    until = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < until:
        time.sleep(0.001)
