"""The command line of stage 5: `run`, and what containers are looked after by."""

from __future__ import annotations

import os

from stages.command_line import FAILED, USAGE, note, serve, usage
from stages.light import import_module
from stages.stage4_overlayfs.more.interrupts import end_with
from stages.stage5_container.monitor import Monitor
from stages.stage5_container.options import OPTIONS, Contained
from stages.stage5_container.runtime import live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


def main() -> None:
    """Do what this process's arguments ask for, and end it."""
    end_with(command)


VERBS = {
    "attach": "start", "commit": "commit", "container": "system", "cp": "cp", "diff": "diff",
    "exec": "enter", "images": "images", "inspect": "inspect", "kill": "stop", "logs": "logs",
    "network": "network_verbs", "pause": "freeze", "port": "port", "ps": "ps",
    "rename": "rename", "restart": "start", "rm": "rm", "rmi": "images", "start": "start",
    "stats": "stats", "stop": "stop", "system": "system", "tag": "images", "top": "top",
    "unpause": "freeze", "volume": "volume_verbs", "wait": "wait",
}  # fmt: skip
"""In which room of more/ each command is: what isn't asked for isn't loaded either."""
LONG = ("prune", "--help", "-h")
"""What there is of `container` alone: all else is said without it, too."""
SHORT = "Usage: stage5 COMMAND [OPTIONS] [ARG...]"
STAGE4 = {"image": ["image"], "build": ["build"], "pull": ["image", "pull"],
          "push": ["image", "push"], "history": ["image", "history"]}  # fmt: skip


def command(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; return the exit status that the contract wants."""
    verb, *rest = arguments or [""]
    status: int
    if verb == "container" and rest and rest[0] not in LONG:
        # Docker's longer way to say most of it.
        return command([{"ls": "ps", "list": "ps"}.get(rest[0], rest[0]), *rest[1:]])
    if verb in VERBS:
        module = room(VERBS[verb])
        two = bool(rest) and f"{verb} {rest[0]}" in module.VERBS
        name = f"{verb} {rest[0]}" if two else verb
        status = room("verb").serve(name, module.VERBS, rest[1:] if two else rest)
        return status
    if verb in STAGE4:
        image = import_module("stages.stage4_overlayfs.more.verbs")
        status = image.serve_verb([*STAGE4[verb], *rest])
        return status
    if verb in ("", "-h", "--help", "help"):
        return overview(asked=bool(verb))
    if verb not in ("run", "create"):
        note(f"there is no command {verb!r}: `stage5 --help` lists them\n\n{SHORT}")
        return USAGE
    try:
        if verb == "create":
            create = room("start").create
            return serve("stage5", OPTIONS, create, ["run", *rest], Contained)
        return serve("stage5", OPTIONS, run, arguments, Contained)
    except ValueError as error:
        note(str(error))
        return FAILED


def overview(*, asked: bool) -> int:
    """Say what there is; without an error only where that was asked."""
    lines = [usage("stage5", OPTIONS), "", "Looking after containers, and images:"]
    for name in sorted({*VERBS.values()}):
        for verb, what in sorted(room(name).VERBS.items()):
            lines.append(f"  {f'{verb} {what.operands}':<38} {what.meaning}")
    lines.append("  create, build, pull, push, image …     as run, and as in stage 4")
    if asked:
        os.write(1, "\n".join([*lines, ""]).encode())
        return 0
    note("\n".join(["it needs a command", "", *lines]))
    return USAGE


def run(container: Contained) -> int:
    """Run a container: this process looks after it, or, in the background, one of its own."""
    if container.detach or container.tty:
        status: int = room("begin").begin(container)
        return status
    return live(container, Monitor(container))


def room(name: str) -> ModuleType:
    """Return one of the rooms in more/."""
    return import_module(f"stages.stage5_container.more.{name}")
