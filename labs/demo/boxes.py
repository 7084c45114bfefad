"""Two boxes side by side: the same command outside and inside."""

import re
import shlex
import textwrap
from collections.abc import Sequence
from itertools import pairwise, zip_longest

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from checks.trial import Ended
from labs.demo.engine import Played
from labs.demo.screen import Screen
from labs.demo.wrap import wrap
from labs.texts import say

NARROW = 76
"""Columns below which the boxes stand on each other."""
FRAME = 4
"""Columns that a box's frame and padding take."""
MARK = "> "

Line = tuple[str, bool]
"""A line of output, and whether it is one that matters."""


def sides(screen: Screen, done: Played, room: int) -> RenderableType:
    """Return both boxes, each with at most `room` lines inside where the output is longer."""
    stacked = screen.width < NARROW
    width = screen.width if stacked else screen.width // 2
    host, container = both(done, width - FRAME, room)
    if stacked:
        return Group(_box("host", host, width), _box("container", container, width))
    height = max(len(host.plain.splitlines()), len(container.plain.splitlines())) + 2
    grid = Table.grid(padding=0)
    grid.add_row(_box("host", host, width, height), _box("container", container, width, height))
    return grid


def both(done: Played, width: int, room: int) -> tuple[Text, Text]:
    """Return what a terminal of that width would show on the host, and in the container.

    At most `room` lines each, where that leaves three of the output.
    """
    return (
        _content(done, done.host_command, done.host, "# ", width, room),
        _content(done, done.command, done.container, "/ # ", width, room),
    )


def _box(name: str, content: Text, width: int, height: int | None = None) -> Panel:
    return Panel(
        content,
        title=Text(say(f"demo.{name}"), style="bold"),
        title_align="left",
        box=box.SQUARE,
        border_style="dim",
        width=width,
        height=height,
    )


def _content(
    done: Played, command: Sequence[str], ended: Ended, prompt: str, inner: int, room: int
) -> Text:
    """Return what a terminal would show: the command behind a prompt, then what it printed."""
    written = Text(no_wrap=True, overflow="crop")
    # What begins with a space goes on from the line before, as it would in a shell.
    typed = [
        piece
        for line in _typed(command, done.places["root"])
        for piece in wrap(line if line.startswith(" ") else f"{prompt}{line}", inner)
    ]
    written.append("\n".join(typed), "bold")
    lines = _output(done, ended, inner)
    for text, matters in crop(lines, max(room - len(typed), 3)):
        written.append("\n")
        written.append(text, "bold" if matters else "")
    if ended.status:
        written.append("\n" + say("demo.status", status=ended.status), "dim")
    elif not lines:
        written.append("\n" + say("demo.nothing"), "dim")
    return written


def _typed(command: Sequence[str], root: str) -> list[str]:
    """Return a command as one would type it; who types is in a shell already."""
    if list(command[:2]) == ["/bin/sh", "-c"]:
        return [line.replace(root, "ROOT") for line in command[2].strip().splitlines()]
    return [shlex.join(command).replace(root, "ROOT")]


def _output(done: Played, ended: Ended, width: int) -> list[Line]:
    """Return what a command printed, in lines that fit, the ones that matter marked."""
    pattern = done.marked
    text = "\n".join(
        stream.decode("utf-8", "replace").rstrip() for stream in (ended.stdout, ended.stderr)
    )
    lines = [*filter(None, map(str.rstrip, textwrap.dedent(text.expandtabs()).splitlines()))]
    if done.step.columns and not ended.status:
        # The last line is the answer that is compared, where one is.
        names = len(lines) - 1 if done.step.same else len(lines)
        lines = [*columns(lines[:names], width), *lines[names:]]
    rows: list[Line] = []
    for line in lines:
        matters = bool(pattern and pattern.search(line))
        margin = (MARK if matters else " " * len(MARK)) if pattern else ""
        room = width - len(margin)
        pieces = wrap(_printable(line), room)
        if not done.step.fold and len(pieces) > 1:
            pieces = [set_cell_size(_printable(line), room - 1) + "…"]
        rows += [(f"{margin}{piece}", matters) for piece in pieces]
    return rows


def _printable(line: str) -> str:
    """Return a line without the codes that would move the cursor or ring the bell."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line)


def columns(names: Sequence[str], width: int) -> list[str]:
    """Return names in columns, read downwards, as `ls` sets them on a terminal of that width."""
    for down in range(1, len(names) + 1):
        stacks = [names[start : start + down] for start in range(0, len(names), down)]
        widths = [max(map(cell_len, stack)) + 2 for stack in stacks]
        if sum(widths) - 2 <= width or down == len(names):
            rows = [
                "".join(map(set_cell_size, row, widths))
                for row in zip_longest(*stacks, fillvalue="")
            ]
            return [row.rstrip() for row in rows]
    return []


def crop(lines: Sequence[Line], room: int) -> list[Line]:
    """Return at most `room` lines: the first, those that matter, and the last ones.

    What is left out is counted where it would have stood.
    """
    if len(lines) <= room:
        return list(lines)
    wanted = [0] + [n for n, (_, matters) in enumerate(lines) if matters]
    wanted += range(len(lines) - 1, 0, -1)
    kept: list[int] = []
    for number in dict.fromkeys(wanted):
        trial = sorted([*kept, number])
        if len(trial) + _gaps(trial, len(lines)) <= room or len(kept) < 2:
            kept = trial
    shown: list[Line] = []
    before = -1
    for number in [*kept, len(lines)]:
        if left_out := number - before - 1:
            shown.append((say("demo.more", lines=left_out), False))
        if number < len(lines):
            shown.append(lines[number])
        before = number
    return shown


def _gaps(kept: Sequence[int], total: int) -> int:
    """Return at how many places lines are left out."""
    bounds = [-1, *kept, total]
    return sum(1 for one, other in pairwise(bounds) if other - one > 1)
