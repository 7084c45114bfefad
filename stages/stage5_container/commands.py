"""The command line of stage 5: `run`, and what containers are looked after by."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from stages import linux
from stages.command_line import FAILED, note, serve
from stages.stage4_overlayfs.more.interrupts import Stopped
from stages.stage5_container.door import PACKET, new_pair
from stages.stage5_container.monitor import Background, Monitor
from stages.stage5_container.options import OPTIONS, Contained
from stages.stage5_container.runtime import live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence
    from types import ModuleType


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
    if arguments and arguments[0] in ("network", "volume"):
        status: int = room(f"{arguments[0]}_verbs").serve(arguments)
        return status
    try:
        return serve("stage5", OPTIONS, run, arguments, Contained)
    except ValueError as error:
        note(str(error))
        return FAILED


def run(container: Contained) -> int:
    """Run a container: this process looks after it, or, in the background, one of its own."""
    if not (container.detach or container.tty):
        return live(container, Monitor(container))
    ours, theirs = new_pair()
    child = linux.fork()
    if child == 0:
        ours.close()
        return live(container, Background(container, theirs))
    theirs.close()
    if container.detach:
        return until_begun(ours, child)
    tty, interactive = container.tty, container.interactive
    status: int = room("attach").own(ours, child, tty=tty, interactive=interactive)
    return status


def room(name: str) -> ModuleType:
    """Return one of the rooms in more/: what isn't asked for isn't loaded either."""
    return import_module(f"stages.stage5_container.more.{name}")


def until_begun(ours: socket, child: int) -> int:
    """Wait until the command runs; say its ID, and return 0; or how its monitor has failed."""
    if (message := ours.recv(PACKET))[:1] == b"r":
        os.write(1, message[1:] + b"\n")
        return 0
    ended = linux.waitid(child, linux.WEXITED)
    assert ended
    return ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)
