"""The words of the judges: an axis, a verdict, and the evidence behind it."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path


class Verdict(StrEnum):
    """What a probe found on one axis."""

    ISOLATED = "isolated"
    LEAKS = "leaks"
    LIMITED = "limited"
    UNLIMITED = "unlimited"
    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    """It could not be tried here; the evidence says why. Never a pass."""


@dataclass(frozen=True)
class Finding:
    """A verdict, and the facts behind it, each with where it was read, in the language in use."""

    verdict: Verdict
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One row of the contract's table."""

    id: str
    stage: int
    title: Mapping[str, str]
    """What holds when the check passes, by language."""
    hint: Mapping[str, str]
    """What is wrong when it fails, by language."""
    required: Verdict
    see: str
    points: int = 1
    option: str = ""
    """The namespace that must be asked for by name: `user`, `cgroup` or `time`."""


@cache
def axes() -> Mapping[str, Axis]:
    """Return every axis of the contract by its id, in the contract's order."""
    rows = tomllib.loads(Path(__file__).with_name("axes.toml").read_text(encoding="utf-8"))
    return {
        id_: Axis(id=id_, **{**row, "required": Verdict(row["required"])})
        for id_, row in rows.items()
    }
