"""The words of the doctor: a row asks the machine one question, a finding is its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from labs import texts

if TYPE_CHECKING:
    from labs.doctor.facts import Facts

STAGES = (1, 2, 3, 4, 5)


class State(StrEnum):
    """The answer, in one word."""

    YES = "yes"
    NO = "no"
    LIMITED = "limited"
    """It works, with less than it could do; the fact says what is missing."""
    UNKNOWN = "unknown"
    """It could not be tried; the fact says why. Never counted as a yes."""


@dataclass(frozen=True)
class Finding:
    """A state, the fact behind it, where that was read, and what to type about it."""

    state: State
    fact: str
    where: str
    remedy: str = ""


@dataclass(frozen=True)
class Row:
    """One question: the stages that can't run without a yes, and those that can do without."""

    id: str
    probe: Callable[["Facts"], Finding]
    required_by: tuple[int, ...] = ()
    optional_for: tuple[int, ...] = ()

    @property
    def group(self) -> str:
        """Return the heading that the row stands under: what is before the dot."""
        return self.id.partition(".")[0]

    @property
    def title(self) -> str:
        """Return the row's name in the language in use; most are the kernel's own word."""
        key = f"title.{self.id}"
        return words(key) if key in texts.room("doctor") else self.id.partition(".")[2]


Answers = Mapping[Row, Finding]


def words(key: str, **places: object) -> str:
    """Return a sentence of labs/texts/doctor.toml."""
    return texts.say(f"doctor.{key}", **places)


def lacks(answers: Answers, stage: int) -> list[Row]:
    """Return the rows for which a stage can't run here: required, and neither yes nor limited."""
    return [
        row
        for row, finding in answers.items()
        if stage in row.required_by and finding.state in (State.NO, State.UNKNOWN)
    ]
