"""Other people's programs: run to their end, or stopped with us."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

from labs.rootfs.interrupts import Interrupts

STEP = 0.5
"""Seconds."""


def run(
    arguments: list[str],
    interrupts: Interrupts,
    *,
    seconds: float,
    cwd: Path | None = None,
    interruptible: bool = True,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program, its output kept, its messages in English; it ends when we are interrupted.

    One that is not `interruptible` gets a session of its own, since a terminal sends Ctrl-C to all
    of ours. Raises `subprocess.TimeoutExpired` after `seconds`, OSError if it can't be started.
    """
    with interrupts.held():
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            cwd=cwd,
            start_new_session=not interruptible,
            pass_fds=pass_fds,
        )
        try:
            with interrupts.let_through() if interruptible else contextlib.nullcontext():
                output, errors = _communicate(child, seconds)
        finally:
            stop(child)
    return subprocess.CompletedProcess(arguments, child.returncode, output, errors)


def _communicate(child: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Wait for the end in short steps: a signal that just missed the kernel's wait is seen then."""
    end = time.monotonic() + seconds
    while True:
        try:
            return child.communicate(timeout=STEP)
        except subprocess.TimeoutExpired:
            if time.monotonic() > end:
                raise


def stop(child: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a child that is still running, politely first: apt-get ends its helpers on SIGTERM."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe:
            # What was still to be written has no reader any more.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def last_line(text: str) -> str:
    """Return the last line that says something: where programs put the cause."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
