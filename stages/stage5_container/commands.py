"""The command line of stage 5: `run`, and what containers are looked after by."""

from __future__ import annotations

import os
import signal
import sys

from stages.command_line import FAILED, note, serve
from stages.stage4_overlayfs.more.interrupts import Stopped
from stages.stage5_container.monitor import Monitor
from stages.stage5_container.options import OPTIONS, Contained
from stages.stage5_container.runtime import live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Do what this process's arguments ask for, and end it."""
    try:
        status = command(sys.argv[1:])
    except Stopped as stopped:
        stopped.end()
        raise
    except KeyboardInterrupt:
        # Whoever waits for us is to see what we ended of, a shell's loop for one.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise
    # Nothing is left to flush or close, and taking an interpreter down in order costs 2 ms.
    os._exit(status)


def command(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; return the exit status that the contract wants."""
    try:
        return serve("stage5", OPTIONS, run, arguments, Contained)
    except ValueError as error:
        note(str(error))
        return FAILED


def run(container: Contained) -> int:
    """Run a container in this process, or in one of its own."""
    return live(container, Monitor(container))
