"""The five stages, how far this student has come in each, and what comes next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from checks.model import axes
from labs import progress
from labs.demo import script
from labs.stages import BUILT

STAGES = range(1, 6)


class State(StrEnum):
    """How far a student has come in a stage."""

    TO_COME = "to_come"
    NEW = "new"
    BEGUN = "begun"
    SEEN = "seen"
    """Every step was played; nobody has checked the runtime yet."""
    PASSED = "passed"
    """The stage's own runtime passed every check."""
    OWN = "own"
    """The student's own runtime did."""


@dataclass(frozen=True)
class Stage:
    """One stage of the road."""

    number: int
    built: bool
    steps: Sequence[script.Step] = ()
    """The steps of its demo; none where it has no demo yet."""
    known: progress.Stage = field(default_factory=progress.Stage)

    @property
    def name(self) -> str:
        """Return the name that commands take: `stage1`."""
        return f"stage{self.number}"

    @property
    def axes(self) -> int:
        """Return how many axes a runtime of this stage is held to."""
        return sum(axis.stage <= self.number for axis in axes().values())

    @property
    def unseen(self) -> Sequence[script.Step]:
        """Return the steps that were not played yet, in order."""
        return [step for step in self.steps if step.id not in self.known.steps]

    @property
    def state(self) -> State:
        """Return how far the student has come."""
        if not self.built:
            return State.TO_COME
        for whose, state in (("own", State.OWN), ("reference", State.PASSED)):
            if whose in self.known.passed:
                return state
        if len(self.unseen) == len(self.steps):
            return State.NEW
        return State.BEGUN if self.unseen else State.SEEN

    @property
    def last(self) -> str:
        """Return when something was last done for the first time here, "" for never."""
        return max([*self.known.steps.values(), *self.known.passed.values()], default="")

    @property
    def open(self) -> bool:
        """Say whether there is something left to do.

        That the stage's own runtime passed says little of a student who hasn't seen the demo.
        """
        return self.built and self.state is not State.OWN and bool(self.unseen or self.unchecked)

    @property
    def unchecked(self) -> bool:
        """Say whether no runtime has passed the checks yet."""
        return not self.known.passed


@dataclass(frozen=True)
class Next:
    """What to do next in a stage: `step` (go on there), `begin`, `check`, `again` or `own`."""

    what: str
    stage: Stage
    arguments: Sequence[str] = ()
    """What to type behind `labrun`."""
    step: script.Step | None = None


def road(known: progress.Progress) -> list[Stage]:
    """Return the stages with what is known of the student."""
    return [
        Stage(
            number,
            built=(name := f"stage{number}") in BUILT,
            steps=_steps(name) if name in BUILT else (),
            known=known.of(name),
        )
        for number in STAGES
    ]


@cache
def _steps(stage: str) -> Sequence[script.Step]:
    return script.load(stage).steps if script.exists(stage) else ()


def here(stages: Sequence[Stage]) -> Stage:
    """Return the stage that the student is in: the last one left in the middle, or the first open.

    Whoever has done all there is stands at the end of what is built.
    """
    begun = [stage for stage in stages if stage.state is State.BEGUN]
    if begun:
        return max(begun, key=lambda stage: (stage.last, stage.number))
    built = [stage for stage in stages if stage.built]
    return next((stage for stage in built if stage.open), built[-1])


def following(stage: Stage, *, chosen: bool = False) -> Next:
    """Return what comes next in a stage; one that was `chosen` is played again when it is done."""
    if stage.unseen and (stage.open or chosen):
        step = stage.unseen[0]
        if step is stage.steps[0]:
            return Next("begin", stage, [stage.name], step)
        return Next("step", stage, [stage.name, "--from", step.id], step)
    if stage.unchecked:
        return Next("check", stage, ["check", stage.name])
    if chosen and stage.steps:
        return Next("again", stage, [stage.name])
    return Next("own", stage, ["check", stage.name, "--runtime", "./mine.py"])
