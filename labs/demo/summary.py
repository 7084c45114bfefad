"""The end of a demo: what this stage closed, what is open, and the stage that closes it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from checks.model import Verdict, axes
from labs import texts
from labs.demo import pages
from labs.demo.engine import Played
from labs.demo.screen import Screen
from labs.demo.script import Demo, exists
from labs.texts import say

TITLED = 110
"""Columns from which the table says what each axis is."""


def measured(played: Sequence[Played]) -> dict[str, Verdict]:
    """Return the verdict on each axis that the steps were about, in their order."""
    found: dict[str, Verdict] = {}
    for done in played:
        if done.step.axis:
            found[done.step.axis] = done.finding.verdict
        found.update(done.others)
    return found


def table(
    screen: Screen, demo: Demo, played: Sequence[Played], before: Mapping[str, Verdict]
) -> pages.Blocks:
    """Return what was measured; `before` are the verdicts without any runtime."""
    after = measured(played)
    closed = [axis for axis, verdict in after.items() if verdict is Verdict.ISOLATED]
    count = say("demo.count", closed=len(closed), measured=len(after), all=len(axes()))
    return [
        *pages.head(screen, demo, say("demo.sum"), played[0].places["root"]),
        _table(screen, after, before),
        screen.prose(count),
        Text(),
    ]


def outlook(screen: Screen, demo: Demo, played: Sequence[Played]) -> pages.Blocks:
    """Return what that means, and what to do next."""
    return [
        screen.prose(demo.closing.filled(played[0].places)),
        Text(),
        *_next(screen, demo),
    ]


def _table(screen: Screen, after: Mapping[str, Verdict], before: Mapping[str, Verdict]) -> Table:
    """Return the axes: before and after this stage, and who closes what is open."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim", pad_edge=False)
    titled = screen.width >= TITLED
    for name in ("axis", *(["title"] if titled else []), "before", "after", "closes"):
        table.add_column(say(f"demo.column_{name}"))
    for axis, verdict in after.items():
        row = axes()[axis]
        closes = "" if verdict is Verdict.ISOLATED else _stage(row.stage, row.option)
        titles = [Text(row.title[texts.language()])] if titled else []
        table.add_row(
            Text(axis, style="bold"),
            *titles,
            screen.sign(before[axis]),
            screen.sign(verdict),
            Text(closes),
        )
    return table


def _stage(number: int, option: str) -> str:
    """Return the name of a stage, with the namespace that has to be asked for there."""
    name = say(f"demo.stage{number}")
    return say("demo.with_option", stage=name, option=option) if option else name


def _next(screen: Screen, demo: Demo) -> pages.Blocks:
    """Return what to do next: only what there is."""
    program = Path(sys.executable).with_name(demo.stage)
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    following = f"stage{demo.number + 1}"
    key = "demo.next_stage" if exists(following) else "demo.no_next_stage"
    return [
        screen.prose(say("demo.by_hand", command=f"{program} run ROOT /bin/sh"), say("demo.try")),
        screen.prose(str(demo.build), say("demo.build")),
        screen.prose(say(key, stage=following), say("demo.next")),
    ]
