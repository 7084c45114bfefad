"""The end of a demo: what this stage closed, what is open, and the stage that closes it."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from checks.model import Verdict, axes
from labs import texts
from labs.demo import pages
from labs.demo.played import Played
from labs.demo.screen import Screen
from labs.demo.script import Demo, exists
from labs.texts import say

CLOSED = (Verdict.ISOLATED, Verdict.LIMITED, Verdict.KEPT)
"""The verdicts on an axis that a stage has closed."""
TITLED = 110
"""Columns from which the table says what each axis is."""


def measured(played: Sequence[Played]) -> dict[str, Verdict]:
    """Return the verdict on each axis that the steps were about, in their order."""
    found: dict[str, Verdict] = {}
    for done in played:
        found |= {axis: each.verdict for axis, each in done.findings.items() if axis}
    return found


Row = tuple[tuple[str, ...], Verdict, Verdict]
"""Axes, the verdict on them without any runtime, and the one with it."""


def table(
    screen: Screen,
    demo: Demo,
    played: Sequence[Played],
    before: Mapping[str, Verdict],
    *,
    rows: int = 0,
) -> pages.Blocks:
    """Return what was measured; `before` are the verdicts without any runtime.

    Where that is more than `rows` lines (0: without end), what came out alike for the axes of one
    family takes one row.
    """
    after = measured(played)
    closed = [axis for axis, verdict in after.items() if verdict in CLOSED]
    count = say("demo.count", closed=len(closed), measured=len(after), all=len(axes()))
    each: list[Row] = [((axis,), before[axis], verdict) for axis, verdict in after.items()]
    page: pages.Blocks = []
    for lines in (each, _families(each)):
        page = [
            *pages.head(screen, demo, say("demo.sum"), played[0].places["root"]),
            _table(screen, lines),
            screen.prose(count),
            *_open(screen, demo),
            Text(),
        ]
        if not rows or sum(map(screen.lines, page)) <= rows:
            break
    return page


def outlook(screen: Screen, demo: Demo, played: Sequence[Played]) -> pages.Blocks:
    """Return what that means, and what to do next."""
    return [
        screen.prose(demo.closing.filled(played[0].places)),
        Text(),
        *_next(screen, demo),
    ]


def _families(rows: Sequence[Row]) -> list[Row]:
    """Return a row for all axes of one family, such as net, that came out alike."""
    found: dict[tuple[str, int, Verdict, Verdict], tuple[str, ...]] = {}
    for names, before, after in rows:
        row = axes()[names[0]]
        alike = (names[0].partition(".")[0], row.stage, before, after)
        found[alike] = found.get(alike, ()) + names
    return [(names, before, after) for (_, _, before, after), names in found.items()]


def _open(screen: Screen, demo: Demo) -> pages.Blocks:
    """Return how many axes each of the later stages is about."""
    later = Counter(axis.stage for axis in axes().values() if axis.stage > demo.number)
    if demo.number == 1 or not later:
        return []
    counts = [
        say("demo.open_stage", count=count, stage=say(f"demo.stage{number}"))
        for number, count in sorted(later.items())
    ]
    return [screen.prose(" · ".join(counts), say("demo.open"))]


def _table(screen: Screen, rows: Sequence[Row]) -> Table:
    """Return the axes: before and after this stage, and who closes what is open."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim", pad_edge=False)
    titled = screen.width >= TITLED and all(len(names) == 1 for names, _, _ in rows)
    leaks = any(after not in CLOSED for _, _, after in rows)
    columns = ["axis", *(["title"] if titled else []), "before", "after"]
    for name in (*columns, *(["closes"] if leaks else [])):
        table.add_column(say(f"demo.column_{name}"))
    for names, before, after in rows:
        row = axes()[names[0]]
        closes = "" if after in CLOSED else _stage(row.stage, row.option)
        family, _, first = names[0].partition(".")
        more = [name.partition(".")[2] for name in names[1:]]
        cells = [
            Text(f"{family}." + ", ".join([first, *more]), style="bold"),
            *([Text(row.title[texts.language()])] if titled else []),
            screen.sign(before, axis=True),
            screen.sign(after, axis=True),
        ]
        table.add_row(*cells, *([Text(closes)] if leaks else []))
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
