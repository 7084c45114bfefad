"""How to see a cell by hand: the command to type in this runtime, and what to compare it with."""

import os
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from checks.bench import Bench
from checks.model import Axis
from checks.peers import runtime
from checks.runtimes import Request, Runtime, Unsupported, namespaces
from labs.matrix.columns import HOST, Column
from labs.stages import BUILT

BARE = ("stage1", "@chroot")
"""Those that mount nothing: for them, /proc has to be mounted in ROOT first."""
NEED_MORE = ("@runc", "@crun", "@docker", "@podman")
"""Those that need more than a command: a folder of files, an image, a store of their own."""


@dataclass(frozen=True)
class ByHand:
    """What to type, as root: each a line for a shell, or "" where there is none."""

    inside: str = ""
    host: str = ""
    before: str = ""
    after: str = ""


@cache
def _facts() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def by_hand(axis: Axis, column: Column, place: Path) -> ByHand:
    """Return how to see the axis with a column's runtime; `place` is shown as ROOT."""
    facts = _facts().get(axis.id)
    if facts is None or column.name in NEED_MORE:
        return ByHand()
    process = str(os.getppid())
    host = facts["host"].format(process=process)
    if column.name == HOST:
        return ByHand(host=host)
    words = [word.format(process=process) for word in facts["inside"]]
    argv = _argv(runtime(column.command), words, axis, place)
    shown = [word.replace(str(place), "ROOT") for word in argv]
    shown[0] = _short(shown[0])
    tail = facts.get("tail", "")
    inside = shlex.join(shown) + (("" if tail.startswith(";") else " ") + tail if tail else "")
    if facts.get("proc") and column.name in BARE:
        return ByHand(inside, host, "mount -t proc proc ROOT/proc", "umount ROOT/proc")
    return ByHand(inside, host)


def again(axis: Axis, column: Column) -> str:
    """Return the command that measures a cell again."""
    if column.name in BUILT:
        return f"labrun check {column.name} --only {axis.id}"
    return shlex.join(["labrun", "check", "--only", axis.id, "--runtime", column.command])


def _argv(judged: Runtime, words: Sequence[str], axis: Axis, place: Path) -> list[str]:
    """Return how the runtime is called, with the namespace that the axis asks for if it has one."""
    options = namespaces(axis.option) if axis.option else ()
    try:
        return judged.argv(Request(words, options=options), Bench(place))
    except Unsupported:
        return judged.argv(Request(words), Bench(place))


def _short(program: str) -> str:
    """Return a program's path as it can be typed here."""
    path = Path(program)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else program
