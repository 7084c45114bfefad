"""A step that was played: each side, what was found, and what there is to show of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from checks.model import Finding, Verdict
from checks.trial import Ended
from labs.demo import picture, stack
from labs.demo.measure import Measured
from labs.demo.script import Places, Step, fill
from labs.demo.trace import Call

NOT_FOUND = 127
"""The status of what could not be run, as a shell has it."""


@dataclass(frozen=True)
class Side:
    """One place where the step's command ran: the host, a stage, a stage with options."""

    stage: str
    """`""` for the host."""
    options: Sequence[str]
    command: Sequence[str]
    ended: Ended
    measured: Measured | None = None
    """What was counted meanwhile, where that is plotted."""
    title: str = ""
    """What it is called, where that isn't said by the stage and its options."""


@dataclass(frozen=True)
class Links:
    """One kind of namespace: which the host is in, and which the container."""

    host: str
    container: str

    @property
    def new(self) -> bool:
        """Say whether the container has one of its own."""
        return self.host != self.container


@dataclass(frozen=True)
class Played:
    """A step, and what happened."""

    step: Step
    places: Places
    sides: Sequence[Side]
    """The host first, the container last; between them what the step compares with."""
    findings: Mapping[str, Finding]
    """What was found on the step's axis (`""` where it has none), then on its further axes."""
    calls: Sequence[Call] = ()
    links: Mapping[str, Links] = field(default_factory=dict)
    """The namespaces by their kind, where the demo shows them."""
    networks: picture.Networks | None = None
    """What there is to draw, where the step has a picture of networks."""
    layers: stack.Stack | None = None
    """The container's stack, where the picture is of that."""
    before: Verdict | None = None
    """The verdict without the limit, where the step has measured that itself."""

    @property
    def host(self) -> Side:
        """Return the host's side."""
        return self.sides[0]

    @property
    def container(self) -> Side:
        """Return the container's side."""
        return self.sides[-1]

    @property
    def finding(self) -> Finding:
        """Return what was found in all; where one verdict isn't the expected one, that one."""
        found = list(self.findings.values())
        surprising = [each for each in found if each.verdict is not self.step.expected]
        evidence = tuple(fact for each in found for fact in each.evidence)
        return Finding((surprising or found)[0].verdict, evidence)

    @property
    def as_expected(self) -> bool:
        """Say whether each verdict is the one that the stage is known for."""
        verdict = self.finding.verdict
        return verdict is self.step.expected or (self.peerless and verdict is Verdict.UNKNOWN)

    @property
    def peerless(self) -> bool:
        """Say whether the program that the step compares with isn't here."""
        return bool(self.step.peer) and self.container.ended.status == NOT_FOUND

    @property
    def marked(self) -> re.Pattern[str] | None:
        """Return the pattern of the output's lines that matter, if the step has one."""
        return re.compile(fill(self.step.mark, self.places)) if self.step.mark else None
