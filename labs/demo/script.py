"""A demo as data: `labs/demos/stageN.toml`, read into steps that can be played.

Each sentence is there in English and in Chinese. `{places}` in sentences and commands are filled
in when a step is played: `{root}`, and what the bench has planted outside of it (`engine.py`).
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checks.model import Verdict
from labs import texts
from labs.errors import USAGE, Refused
from labs.texts import say

FOLDER = Path(__file__).parent.parent / "demos"
PLACE = re.compile(r"\{([a-z]+)\}")
"""A place to fill in; `${name}` and other braces of a shell's are left alone."""

Places = Mapping[str, str]


@dataclass(frozen=True)
class Words:
    """One sentence in every language."""

    en: str
    zh: str

    def __str__(self) -> str:
        """Return the sentence in the language in use, on one line."""
        if texts.language() == "zh":
            return "".join(line.strip() for line in self.zh.splitlines())
        return " ".join(self.en.split())

    def filled(self, places: Places) -> str:
        """Return the sentence in the language in use, with its places filled in."""
        return fill(str(self), places)


@dataclass(frozen=True)
class Choice:
    """One answer to a step's question, and what is said to the student who chose it."""

    text: Words
    reply: Words


@dataclass(frozen=True)
class Beside:
    """What a step's command is run in, too, for comparison: a stage ("": this one), and options."""

    stage: str = ""
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """What is drawn while a step's command runs, once without its options and once with them."""

    series: str
    """What is counted: cpu, memory, swap, pids, read, written, received or sent."""
    limit: float
    """What the options ask for, in the series' unit: CPUs, bytes, processes, bytes a second."""
    seconds: float = 4.0
    """When the command is stopped, where it hasn't ended."""
    ends: bool = False
    """Whether it ends by itself: then it may take longer where the processor is emulated."""
    linger: float = 0.0
    """Seconds that it is watched for after its end, while what it has started goes on."""
    against: Sequence[str] = ()
    """The options that it has without the limit."""
    ground: str = ""
    """What it needs around it: a `disk`, or somebody in the `network` who listens."""


@dataclass(frozen=True)
class Turn:
    """One of several runs of a script on the host: what it is called, and what differs."""

    title: Words | None = None
    command: Sequence[str] = ()
    """What runs, where that isn't the step's command."""
    inside: str = ""
    """The container that it runs in, by `exec`; the host is its place otherwise."""
    anew: bool = False
    """Whether it begins with the images as they were at first, and no container."""
    places: Places = field(default_factory=dict)
    """What its `{places}` are, beside those of every step."""


@dataclass(frozen=True)
class Step:
    """One step: what is asked, what is run, what is measured, and why it came out so."""

    id: str
    title: Words
    intro: Words
    question: Words
    choices: Mapping[str, Choice]
    right: str
    command: Sequence[str]
    """What runs in the container; a relative name is looked for along PATH."""
    expected: Verdict
    why: Words
    host: Sequence[str] = ()
    """What runs on the host beside it, where that isn't the same command."""
    axis: str = ""
    """The axis that decides the verdict; without one, `status` does."""
    also: Sequence[str] = ()
    """More axes, whose evidence is shown too."""
    status: int = 0
    """The exit status that a step without an axis must have."""
    same: bool = False
    """Whether it must end with the same line outside and inside."""
    environment: Mapping[str, str] = field(default_factory=dict)
    mark: str = ""
    """A pattern: the lines of the output that matter."""
    fold: bool = True
    """Whether long lines are folded; a table's are cut off."""
    columns: bool = False
    """Whether lines are set in columns, as `ls` does on a terminal."""
    missing: str = ""
    """The system call that would have closed this axis."""
    options: Sequence[str] = ()
    """What the runtime is asked for, in the contract's spelling."""
    beside: Sequence[Beside] | None = None
    """What to compare with; None: with the stage that the demo compares with."""
    calls: Sequence[str] = ()
    """The system calls that matter here, where they aren't the demo's."""
    picture: bool = False
    """Whether there is a network, or a stack of layers, to draw."""
    plot: Plot | None = None
    """What there is to plot."""
    looks: str = ""
    """What is read beside its output: of the container's groups, `trees` or `accounts`; of an
    image's layers, one of the proofs (proof.py): then it runs on an image of the demo's own."""
    turns: Sequence[Turn] = ()
    """The runs of a script that calls the runtime itself, on the host, one after the other."""
    ready: str = ""
    """A script of the host's that runs before them, and isn't shown."""
    peer: str = ""
    """A program to compare with. Where it isn't, nothing can be told, and that is no mistake."""


@dataclass(frozen=True)
class Demo:
    """One stage's demo."""

    stage: str
    title: Words
    opening: Words
    calls: Sequence[str]
    """The system calls that make this stage's container."""
    closing: Words
    build: Words
    steps: Sequence[Step]
    compare: str = ""
    """The stage in which each command is run, too."""
    apart: bool = False
    """Whether it is played on a throw-away host, and not on the machine itself."""

    @property
    def number(self) -> int:
        """Return the stage's number."""
        return int(self.stage.removeprefix("stage"))

    def beside(self, step: Step) -> Sequence[Beside]:
        """Return what a step is compared with."""
        if step.beside is not None:
            return step.beside
        return [Beside(self.compare)] if self.compare else []

    def calls_of(self, step: Step) -> Sequence[str]:
        """Return the system calls that make the step's container."""
        return step.calls or self.calls

    def choose(self, names: Sequence[str]) -> Sequence[Step]:
        """Return the steps of these names, or all. Raises Refused for a name that is none."""
        known = {step.id: step for step in self.steps}
        for name in names:
            if name not in known:
                there = say("demo.steps", steps=" ".join(known))
                raise Refused(f"{self.stage} {name}", say("demo.no_step"), there, status=USAGE)
        return [known[name] for name in names] or self.steps


def fill(text: str, places: Places) -> str:
    """Return a text with its `{places}` filled in; one that nobody knows stays as it is."""
    return PLACE.sub(lambda found: places.get(found[1], found[0]), text)


def load(stage: str) -> Demo:
    """Return a stage's demo. Raises FileNotFoundError where it has none."""
    return read((FOLDER / f"{stage}.toml").read_text(encoding="utf-8"), stage)


def exists(stage: str) -> bool:
    """Say whether a stage has a demo yet."""
    return (FOLDER / f"{stage}.toml").exists()


def read(text: str, stage: str) -> Demo:
    """Return the demo that a TOML text describes. Raises TypeError for a key missing or unknown."""
    table = tomllib.loads(text)
    steps = [_step(row) for row in table.pop("step")]
    return Demo(stage=stage, steps=steps, **_worded(table))


def _step(row: dict[str, Any]) -> Step:
    choices = {key: Choice(**_worded(choice)) for key, choice in row.pop("choices").items()}
    row["expected"] = Verdict(row["expected"])
    if "beside" in row:
        row["beside"] = [Beside(**each) for each in row["beside"]]
    if "plot" in row:
        row["plot"] = Plot(**row["plot"])
    if "turns" in row:
        row["turns"] = [Turn(**_worded(each)) for each in row["turns"]]
    return Step(choices=choices, **_worded(row))


def _worded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a table with each sentence of it as Words."""
    return {
        key: Words(**value) if isinstance(value, dict) and "en" in value else value
        for key, value in row.items()
    }
