"""`labrun diff N M`: what stage M's runtime and rooms add to stage N's, and what that closes."""

import ast
import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from rich.text import Text

from labs.demo.screen import Screen
from labs.errors import USAGE, Refused
from labs.paths import CHECKOUT
from labs.stages import BUILT
from labs.texts import say

STAGES = CHECKOUT / "stages"
STYLES = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}
"""How a line of a unified diff looks, by how it begins; the first that fits."""


@cache
def rooms() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the rooms of each stage, each with the axes that it closes, in reading order."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, Sequence[str]]] = tomllib.loads(text)
    return found


def command(older: str, newer: str) -> int:
    """Show the difference between two stages. Raises Refused for stages that aren't such."""
    first, last = _stage(older), _stage(newer)
    if BUILT.index(first) >= BUILT.index(last):
        raise Refused("diff", say("diff.order"), say("diff.remedy"), status=USAGE)
    screen = Screen()
    for line in unified(first, last):
        style = next((look for mark, look in STYLES.items() if line.startswith(mark)), "")
        # Never folded: what looks like a new line would be one to whoever reads the diff.
        screen.out.print(Text(line, style=style), soft_wrap=True)
    added = BUILT[BUILT.index(first) + 1 : BUILT.index(last) + 1]
    for stage in added:
        screen.show([Text(), Text(say("diff.rooms", stage=stage), style="bold")])
        for room, closes in rooms()[stage].items():
            screen.show(_room(screen, room, closes))
    return 0


def _stage(name: str) -> str:
    """Return a stage by its number or name. Raises Refused where it isn't built."""
    stage = f"stage{name.removeprefix('stage')}"
    if stage not in BUILT:
        built = ", ".join(each.removeprefix("stage") for each in BUILT)
        raise Refused(
            "diff", say("diff.unknown", stage=name), say("diff.built", stages=built), status=USAGE
        )
    return stage


def unified(first: str, last: str) -> Iterator[str]:
    """Yield the lines of the difference between two runtime.py."""
    files = [next(STAGES.glob(f"{stage}_*/runtime.py")) for stage in (first, last)]
    old, new = (file.read_text(encoding="utf-8").splitlines() for file in files)
    old_name, new_name = (str(file.relative_to(CHECKOUT)) for file in files)
    return difflib.unified_diff(old, new, old_name, new_name, lineterm="")


def summary(room: str) -> str:
    """Return the first line of a room's docstring."""
    said = ast.get_docstring(ast.parse((STAGES / room).read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]


def _room(screen: Screen, room: str, closes: Sequence[str]) -> list[Text]:
    """Return a room: its file, what it says of itself, and what it closes."""
    shown = [Text(f"stages/{room}", style="bold"), screen.prose(summary(room), " ")]
    if closes:
        axes = screen.prose(" ".join(closes), f" {say('diff.closes')}")
        # Behind the label, in green; the label stays as dim as labels are.
        axes.highlight_regex(r"\b[a-z]+\.[a-z-]+", "green")
        shown.append(axes)
    return shown
