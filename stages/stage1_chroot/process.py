"""A process from its birth to its end: what it inherits, the signals it gets, how it ended."""

from __future__ import annotations

import os
import time

from stages import linux
from stages.command_line import note
from stages.linux import (
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGPIPE,
    SIGQUIT,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    SIGXFSZ,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PASSED_ON = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH}
INSIST = 2.0
"""Seconds within which a second SIGINT means: kill it (CONTRACT)."""
DEFAULT_PATH = "/bin:/usr/bin"
"""Where execvp(3) looks when there is no PATH."""


def hold_signals() -> set[int]:
    """Block the signals that the command is to get, before there is a command to get them.

    Returns the set of signals that were blocked before, for the command.
    """
    # Whoever started us may have had SIGCHLD ignored, and then no child could be waited for.
    linux.sigaction(SIGCHLD, linux.SIG_DFL)
    return linux.sigprocmask(linux.SIG_BLOCK, PASSED_ON | {SIGCHLD})


def release_signals(before: set[int]) -> None:
    """Unblock for the command what its caller had unblocked, and undo what Python has set."""
    # Python ignores SIGPIPE and SIGXFSZ, and execve(2) hands ignored signals on: `yes | head`
    # would never end. What the caller had set for these two, Python has forgotten.
    linux.sigaction(SIGPIPE, linux.SIG_DFL)
    linux.sigaction(SIGXFSZ, linux.SIG_DFL)
    # What came in while the signals were held reaches the command now.
    linux.sigprocmask(linux.SIG_SETMASK, before)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its `parent`, the runtime, dies in whatever way."""
    linux.set_pdeathsig(SIGKILL)
    # A parent that died before that call sends nothing: somebody else has adopted us.
    if linux.getppid() != parent:
        os._exit(128 + SIGKILL)


def close_descriptors() -> None:
    """Close all but stdin, stdout and stderr.

    An open directory of the host's is a door that no root closes: fchdir(2) goes through.
    """
    linux.close_range(3, 0xFFFFFFFF)


def become_command(command: Sequence[str], environment: Mapping[bytes, bytes]) -> None:
    """Replace this process by the command, looked for along PATH as execvp(3) does.

    Raises OSError: ENOENT where it is nowhere, else why it cannot be run.
    """
    name = command[0]
    path = os.fsdecode(environment.get(b"PATH", DEFAULT_PATH.encode()))
    places = [name] if "/" in name else [f"{place or '.'}/{name}" for place in path.split(":")]
    refusal: OSError | None = None
    for place in places:
        try:
            linux.execve(place, command, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            refusal = refusal or error
        except PermissionError as error:
            # There is one, but it can't be run. A later directory may hold a better one.
            refusal = error
    assert refusal
    raise refusal


def wait_for(child: int) -> int:
    """Wait until the child ends, passing signals on to it; return its exit status.

    128+N when signal N ended it, as a shell reports it.
    """
    last_interrupt = -INSIST
    while True:
        signum, sender = linux.sigwaitinfo(PASSED_ON | {SIGCHLD})
        if signum == SIGCHLD:
            if ended := linux.waitid(child, linux.WEXITED | linux.WNOHANG):
                return ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)
            continue
        # A key such as Ctrl-C reaches the terminal's whole foreground group: the command has it.
        if sender != linux.SI_KERNEL:
            linux.kill(child, signum)
        if signum == SIGINT:
            now = time.monotonic()
            if now - last_interrupt < INSIST:
                note(f"second SIGINT within {INSIST:g} s: killing process {child}, asked twice")
                linux.kill(child, SIGKILL)
            last_interrupt = now
