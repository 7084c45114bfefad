"""What was measured differs from run to run: a recording is fresh where only its figures differ.

The verdict is not a figure: where a limit was not kept, it says so, and the recording is stale.
"""

import os
import re
from html import unescape
from itertools import product
from pathlib import Path

from labs import gauge, texts

MEASURED = "played measured"
"""The class of a figure with measured figures in it."""
TERMINAL = "terminal"
"""The class of a terminal's picture."""
TREE = "cgroup.txt"
"""The file of a stage that says on which version of cgroups it was recorded."""
DRIVERS = "drivers.txt"
"""The file of a stage that says which storage drivers ran on the machine where it was recorded."""
PEER = "docker.txt"
"""The file of a stage that says which Docker it was recorded beside."""
COMPARED = {"driver.html": DRIVERS, "docker.html": PEER}
"""The files about those."""
PLOT = re.compile(r'<svg class="picture plot".*?</svg>', re.DOTALL)
EVIDENCE = re.compile(r"<ul>.*?</ul>", re.DOTALL)
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*( ?(B|KiB|MiB|GiB|bit|kbit|Mbit|Gbit)\b)?")
FIGURES = re.compile(
    r"""
      [+-]?\d+(\.\d+)?\ ?(CPU|s|B|KiB|MiB|GiB|bit|kbit|Mbit|Gbit|%)(/s)?(?![\w])
    | \d+m\d+\.\d+s                     # what `times` says
    | (?<=:\ )\d+ | (?<=：)\d+           # forks: 1
    | (?<=most\ )\d+ | (?<=up\ to\ )\d+ | (?<=最多\ )\d+ | (?<=到了\ )\d+
    | (?<=\n)\d+(?=\ +\.[\n<])        # what `du` says
    | \d+\ of\ \d+\ periods | \d+\ 个周期里有\ \d+
    """,
    re.VERBOSE,
)
UNSAID = re.compile(r"[^\w≤✓✗?]")
"""What is neither a word nor a verdict's sign."""
DRAWN = re.compile(r"[▁▂▃▄▅▆▇█╌\s]+|\d+(\.\d+)?[kMG]?┤?")
"""What a plot on a terminal is made of."""


def version() -> str:
    """Return the version of cgroups that a container's limits are written to on this machine."""
    return gauge.names(gauge.groups_of(os.getpid())).version


def alike(one: Path, other: Path) -> bool:
    """Say whether two recordings say the same, but for the figures that were measured."""
    old, new = one.read_bytes(), other.read_bytes()
    return old == new or masked(old.decode()) == masked(new.decode())


def comparable(name: str, fresh: Path, docs: Path) -> bool:
    """Say whether a file was recorded on a machine like this: its cgroups, its storage drivers."""
    parts = Path(name).parts
    own = parts[-1] if parts[-1] in COMPARED.values() else COMPARED.get(parts[-1], TREE)
    told = dict.fromkeys((TREE, own))
    for stage, file in product((part for part in parts if part.startswith("stage")), told):
        files = [folder / "generated" / stage / file for folder in (fresh, docs)]
        if all(path.is_file() for path in files):
            old, new = (path.read_text(encoding="ascii") for path in files)
            if old != new:
                return False
    return True


def masked(text: str) -> str:
    """Return a recording without its measured figures; one that has none as it is."""
    if f'class="{TERMINAL}"' in text and "┤" in text:
        words = unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", text, flags=re.DOTALL))
        return UNSAID.sub("", DRAWN.sub("", FIGURES.sub("", words)))
    if MEASURED not in text:
        return text
    # That others had the CPU meanwhile is this run's, and the machine's.
    for language in texts.LANGUAGES:
        text = text.replace(f"<li>{texts.room('demo')['busy'][language]}</li>", "")
    # The evidence of what was counted beside has figures of its own, without end.
    text = EVIDENCE.sub(lambda facts: NUMBER.sub("0", facts[0]), text)
    return FIGURES.sub("0", PLOT.sub("<svg/>", text))
