"""The command line of stage 4: `run`, and what images and containers are dealt with by."""

from __future__ import annotations

import os

from stages import command_line
from stages.command_line import FAILED, note, serve
from stages.light import import_module
from stages.stage4_overlayfs.more.interrupts import end_with
from stages.stage4_overlayfs.options import OPTIONS, Stacked
from stages.stage4_overlayfs.runtime import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


def main() -> None:
    """Do what this process's arguments ask for, and end it."""
    end_with(command)


def command(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; return the exit status that the contract wants."""
    if arguments and arguments[0] in ("image", "build", "commit", "diff", "rm"):
        status: int = verbs().serve_verb(arguments)
        return status
    if not arguments or arguments[0] in ("-h", "--help"):
        text = f"{command_line.usage('stage4', OPTIONS)}\n\n{verbs().overview()}"
        if arguments:
            os.write(1, f"{text}\n".encode())
            return 0
        note(f"it needs a command\n\n{text}")
        return command_line.USAGE
    try:
        return serve("stage4", OPTIONS, run, arguments, Stacked)
    except ValueError as error:
        note(str(error))
        return FAILED


def verbs() -> ModuleType:
    """Return the room of the other commands: `run` doesn't need it, and is to start soon."""
    return import_module("stages.stage4_overlayfs.more.verbs")
