"""Boxes side by side: the same command outside and inside."""

import re
import shlex
import textwrap
from collections.abc import Sequence
from itertools import pairwise, repeat, zip_longest

from rich import box, console
from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from checks.runtimes import NAMESPACES
from checks.trial import Ended
from labs.demo import plots
from labs.demo.played import Played, Side
from labs.demo.quantity import seconds
from labs.demo.screen import Screen
from labs.demo.script import Places
from labs.demo.wrap import wrap
from labs.texts import say

NARROW = 76
"""Columns below which the boxes stand on each other."""
LEAST = 38
"""Columns that a box needs beside others."""
FRAME = 4
"""Columns that a box's frame and padding take."""
MARK = "> "
FLAGS = ("--explain",)
"""Options without a value, which set no limit: they are in no title."""
NAMED = ("root", "outside", "group", "upper", "other", "lower", "store")
"""The places that a command shows by their names, those inside others first."""
STEADY = 3.0
"""Seconds that a plot has room for from its beginning."""

Group = list[Side]
"""Sides with the same answer."""
Line = tuple[str, bool]
"""A line of output, and whether it is one that matters."""


def sides(screen: Screen, done: Played, room: int) -> RenderableType:
    """Return a box for each side, with at most `room` lines inside where the output is longer.

    What answered as the host did shares its box. Where not all boxes fit beside each other, the
    host's and the container's are shown, and a line for each of the others.
    """
    stacked = screen.width < NARROW
    boxed, titles, lines = _arranged(screen, done)
    width = _width(screen, boxed)
    drawn = screen.plots
    contents = [_content(done, group[0], width - FRAME, room, drawn=drawn) for group in boxed]
    if stacked:
        both = [_box(*each, width) for each in zip(titles, contents, strict=True)]
        return console.Group(*both, *lines)
    height = max(len(content.plain.splitlines()) for content in contents) + 2
    grid = Table.grid(padding=0)
    grid.add_row(*map(_box, titles, contents, repeat(width), repeat(height)))
    return console.Group(grid, *lines)


def written(done: Played, width: int, room: int) -> list[tuple[Side, str, Text]]:
    """Return each side, its name, and what a terminal of that width would show of it.

    What answered as the host did is named with it. At most `room` lines each, where that leaves
    three of the output.
    """
    return [
        (group[0], _title(done, group), _content(done, group[0], width, room))
        for group in grouped(done.sides)
    ]


def below(screen: Screen, done: Played) -> int:
    """Return how many lines there are below the boxes."""
    return len(_arranged(screen, done)[2])


def _width(screen: Screen, boxed: Sequence[Group]) -> int:
    """Return how wide each box is."""
    return screen.width if screen.width < NARROW else screen.width // len(boxed)


def _arranged(screen: Screen, done: Played) -> tuple[list[Group], list[str], list[Text]]:
    """Return what gets a box, the titles of these boxes, and the lines for all others."""
    groups = grouped(done.sides)
    fitting = 2 if screen.width < NARROW else max(screen.width // LEAST, 2)
    boxed = groups if len(groups) <= fitting else [groups[0], groups[-1]]
    width = _width(screen, boxed)
    titles = []
    lines = []
    for group in boxed:
        fits = next(n for n in range(len(group), 0, -1) if n == 1 or _fits(done, group[:n], width))
        titles.append(_title(done, group[:fits]))
        if more := group[fits:]:
            lines.append(_line(screen, _title(done, more), say("demo.as_there", side=titles[-1])))
    lines += [
        _line(screen, _title(done, group), _said(done, group[0]))
        for group in groups
        if group not in boxed
    ]
    return boxed, titles, lines


def grouped(played: Sequence[Side]) -> list[Group]:
    """Return the sides, those with the same answer together; the container's is always alone."""
    groups: list[Group] = []
    for side in played[:-1]:
        for group in groups:
            if (group[0].command, group[0].ended) == (side.command, side.ended):
                group.append(side)
                break
        else:
            groups.append([side])
    return [*groups, [played[-1]]]


def name(done: Played, side: Side) -> str:
    """Return what a side is called: the host, a stage, and what was asked of it."""
    if side.title:
        return side.title
    if side.measured:
        return asked_for([word for word in side.options if word not in FLAGS])
    if not side.stage:
        return say("demo.host")
    if len(done.sides) == 2 and not side.options:
        return say("demo.container")
    stage = say("demo.stage_n", number=side.stage.removeprefix("stage"))
    asked = asked_for(side.options)
    return f"{stage} · {asked}" if asked else stage


def asked_for(options: Sequence[str]) -> str:
    """Return options in short: of the namespaces, what is asked for besides the usual ones."""
    words = []
    for before, word in pairwise(["", *options]):
        kinds = word.split(",")
        if before == "--namespaces":
            more = [kind for kind in kinds if kind not in NAMESPACES]
            usual = len(kinds) - len(more) == len(NAMESPACES)
            words += [f"+{','.join(more)}"] if usual and more else [] if usual else [word]
        elif word != "--namespaces":
            words.append(word)
    return " ".join(words)


def _title(done: Played, group: Sequence[Side]) -> str:
    return " = ".join(name(done, side) for side in group)


def _fits(done: Played, group: Sequence[Side], width: int) -> bool:
    """Say whether a group's title fits a box's frame."""
    return cell_len(_title(done, group)) <= width - FRAME - 1


def _said(done: Played, side: Side) -> str:
    """Return in one line what a side answered: the lines that matter, or else all."""
    rows = _output(done, side.ended, 10**6)
    telling = [text for text, matters in rows if matters] or [text for text, _ in rows]
    said = " · ".join(" ".join(text.removeprefix(MARK).split()) for text in telling)
    return said or say("demo.nothing")


def _line(screen: Screen, title: str, said: str) -> Text:
    """Return in one line what a side without a box answered."""
    line = Text.assemble((f"{title}  ", "dim"), said, no_wrap=True)
    line.truncate(screen.width, overflow="ellipsis")
    return line


def _box(title: str, content: Text, width: int, height: int | None = None) -> Panel:
    return Panel(
        content,
        title=Text(title, style="bold"),
        title_align="left",
        box=box.SQUARE,
        border_style="dim",
        width=width,
        height=height,
    )


def _content(done: Played, side: Side, inner: int, room: int, *, drawn: bool = False) -> Text:
    """Return what a terminal would show: the command behind a prompt, then what it printed.

    A plot stands between the two: `drawn`, or told in words.
    """
    prompt = "/ # " if side.stage else "# "
    ended = side.ended
    written = Text(no_wrap=True, overflow="crop")
    # What begins with a space goes on from the line before, as it would in a shell.
    typed = [
        piece
        for line in _typed(side.command, done.places)
        for piece in wrap(line if line.startswith(" ") else f"{prompt}{line}", inner)
    ]
    written.append("\n".join(typed), "bold")
    if side.measured:
        return _plotted(written, done, side, inner, room - len(typed) if drawn else 0)
    lines = _output(done, ended, inner)
    for text, matters in crop(lines, max(room - len(typed), 3)):
        written.append("\n")
        written.append(text, "bold" if matters else "")
    if ended.status:
        written.append("\n" + say("demo.status", status=ended.status), "dim")
    elif not lines:
        written.append("\n" + say("demo.nothing"), "dim")
    return written


def _plotted(written: Text, done: Played, side: Side, inner: int, room: int) -> Text:
    """Add a plot to what a side has written, and what the command said and how it ended.

    Without any `room` it is told in words.
    """
    lines = _output(done, side.ended, inner)
    if side.measured and side.measured.stopped:
        ending = say("demo.stopped_after", time=seconds(side.measured.seconds))
    elif side.ended.status:
        ending = say("demo.status", status=side.ended.status)
    else:
        ending = ""
    said = crop(lines, 3)
    rows = max(room - len(said) - bool(ending), 1) if room else 0
    for line in _plot(done, side, inner, rows):
        written.append("\n")
        written.append(line, "cyan" if plots.DASH in line else "")
    for text, matters in said:
        written.append("\n")
        written.append(text, "bold" if matters else "")
    if ending:
        written.append(f"\n{ending}", "dim")
    return written


def _plot(done: Played, side: Side, width: int, rows: int) -> list[str]:
    """Return the plot of a side, on the scale that it shares with the other where it does."""
    if not rows and side.measured:
        return wrap(plots.words(side.measured.series, side.measured.average), width)
    loads = [each.measured for each in done.sides if each.measured]
    tops = plots.scales([load.series for load in loads])
    top = tops[[each.measured for each in done.sides].index(side.measured)]
    assert side.measured
    span = max(load.seconds for load in loads)
    if not done.findings:
        # It still grows: an axis that shrinks all the time is hard to read.
        span = max(span, min(side.measured.plot.seconds, STEADY))
    return plots.draw(side.measured.series, top, span, width, rows)


def _typed(command: Sequence[str], places: Places) -> list[str]:
    """Return a command as one would type it; who types is in a shell already."""
    if list(command[:2]) == ["/bin/sh", "-c"]:
        lines = command[2].strip().splitlines()
    else:
        lines = [" ".join(w if w == "…" else shlex.quote(w) for w in command)]
    for name in NAMED:
        lines = [line.replace(places.get(name) or "\0", name.upper()) for line in lines]
    return lines


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
