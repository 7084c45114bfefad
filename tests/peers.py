"""What checks/peers.toml says of the programs that nobody here wrote."""

import fnmatch
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checks

FACTS: dict[str, Any] = tomllib.loads(
    Path(checks.__file__).with_name("peers.toml").read_text(encoding="utf-8")
)


def verdicts(peer: str) -> dict[str, str]:
    """Return what is written down of a peer, by axis."""
    return {axis: verdict for verdict, listed in FACTS[peer]["verdicts"].items() for axis in listed}


def known(peer: str, found: Mapping[str, str]) -> dict[str, str]:
    """Return what is written down of the version of a peer that `found` is about.

    Only what is found may choose which version this is.
    """
    others = FACTS[peer].get("elsewhere", {})
    return verdicts(peer) | {
        axis: other for axis, other in others.items() if found.get(axis) == other
    }


def meant(peer: str, reason: str) -> list[str]:
    """Return the axes that a reason is for: one, or with `cow.*` all that begin so."""
    return [axis for axis in verdicts(peer) if fnmatch.fnmatchcase(axis, reason)]
