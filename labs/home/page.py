"""The road map as a page: what there is, where the student is, what comes next."""

import os
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text

from checks.model import axes
from labs import machine, texts
from labs.demo.screen import Screen
from labs.demo.wrap import bar, wrap
from labs.home.route import Next, Stage, State
from labs.texts import say

Blocks = list[RenderableType]

NARROW = 72
"""Columns below which a stage takes two lines."""
SIGNS = {
    # state: sign, and a colour that a light terminal shows, too
    State.TO_COME: ("○", "dim"),
    State.NEW: ("○", ""),
    State.BEGUN: ("◐", "cyan"),
    State.SEEN: ("◐", "cyan"),
    State.PASSED: ("●", "green"),
    State.OWN: ("●", "green"),
}
HERE = "›"


def head(screen: Screen) -> Blocks:
    """Return the name, the machine, and what this is about."""
    left, right = Text("labrun", style="bold"), _machine()
    gap = screen.width - left.cell_len - cell_len(right)
    if gap > 1:
        left.append(" " * gap + right, "dim")
    rule = Rule(style="dim", characters="─" if screen.spells else "-")
    return [left, rule, screen.prose(say("home.about")), Text()]


def _machine() -> str:
    host = machine.host()
    kernel = ".".join(str(host["kernel"]).split("-")[0].split(".")[:2])
    who = say("home.root" if os.geteuid() == 0 else "home.user")
    words = (f"Linux {kernel}", f"cgroup {host['cgroup']}", who, say("home.language"))
    return " · ".join(words)


def stages(screen: Screen, road: Sequence[Stage], here: Stage, *, brief: bool = False) -> Blocks:
    """Return a line for each stage, or two on a narrow page; `here` is the one pointed at.

    `brief`: on a narrow page, too, it is one line, without what the stage adds.
    """
    narrow = screen.width < NARROW
    titles = [say(f"home.stage{stage.number}") for stage in road]
    states = [state(screen, stage) for stage in road]
    counts = [say("home.axes", count=stage.axes, all=len(axes())) for stage in road]
    title_width, state_width = max(map(cell_len, titles)), max(each.cell_len for each in states)
    margin = 4 if narrow else title_width + state_width + 8
    room = screen.width - margin
    if not narrow:
        widest = max(cell_len(say(f"home.adds{stage.number}")) for stage in road)
        room = min(room - max(map(cell_len, counts)) - 2, widest + 2)
    blocks: Blocks = []
    for stage, title, said, count in zip(road, titles, states, counts, strict=True):
        dim = "" if stage.built else "dim"
        line = Text(f"{HERE if stage is here else ' '} {stage.number} ", no_wrap=True)
        line.append(set_cell_size(title, title_width) + "  ", dim or "bold").append_text(said)
        adds = say(f"home.adds{stage.number}")
        rows = wrap(f"{adds} · {count.strip()}" if narrow else adds, room)
        if not narrow:
            line.append(" " * (margin - line.cell_len))
            line.append(set_cell_size(rows.pop(0), room) + "  ", dim).append(count, "dim")
        for row in [] if brief else rows:
            line.append("\n" + " " * margin).append(row, dim)
        blocks.append(line)
    return [*blocks, Text()]


def state(screen: Screen, stage: Stage) -> Text:
    """Return how far the student has come: a sign and a word, the word alone in plain letters."""
    sign, style = SIGNS[stage.state]
    number = len(stage.steps) - len(stage.unseen)
    if stage.unseen:
        number = list(stage.steps).index(stage.unseen[0]) + 1
    word = say(f"home.state_{stage.state}", number=number, all=len(stage.steps))
    return Text(f"{sign} {word}" if screen.spells else word, style=style, no_wrap=True)


def following(screen: Screen, then: Next) -> Blocks:
    """Return what comes next, and the command that does it."""
    places = {"stage": then.stage.number, "number": 0, "title": "", "all": len(then.stage.steps)}
    if then.step:
        places["number"] = list(then.stage.steps).index(then.step) + 1
        places["title"] = str(then.step.title)
    said = screen.prose(say(f"home.next_{then.what}", **places), say("home.next"))
    command = f"labrun {' '.join(then.arguments)}"
    margin = " " * (cell_len(say("home.next")) + 2)
    return [said, Text(f"{margin}{command}", style="dim"), Text()]


def keys(screen: Screen, names: Sequence[str], **places: object) -> Blocks:
    """Return the line that says which keys there are."""
    words = [say(f"home.key_{name}", **places) for name in names]
    return [Text(line, style="dim") for line in bar(words, screen.width)]


def helped(screen: Screen, names: Sequence[str], file: str) -> Blocks:
    """Return what each key does, and what the signs mean."""
    return [
        *(screen.prose(say(f"home.help_{name}")) for name in names),
        Text(),
        screen.prose(say("home.help_signs")),
        screen.prose(say("home.help_axes", all=len(axes()))),
        screen.prose(say("home.help_file")),
        # On a line of its own, as it is: a path that was folded can't be copied.
        Text(file, no_wrap=True, overflow="ignore"),
        Text(),
    ]


def other_language() -> str:
    """Return the language that isn't in use."""
    return next(each for each in texts.LANGUAGES if each != texts.language())
