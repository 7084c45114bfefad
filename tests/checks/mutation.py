"""Mutants: copies of stages/ with one plausible mistake each.

A mutant is a small file, `mutants/NAME.toml`: what it gets wrong, the checks that must catch it,
and the change to the reference, as text that must stand there exactly once. So a mutant can't rot:
when the reference changes, it says so. A mistake that only control groups of one kind can bring to
light names the kind, `only`: hybrid (v1 beside v2) or v2.
"""

import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from labs.paths import CHECKOUT

FOLDER = Path(__file__).with_name("mutants")
STARTER = """#!/bin/sh
exec {python} -ISXutf8 -c '
import sys
sys.path.insert(0, "{folder}")
sys.argv[0] = "{name}"
from stages.{package}.cli import main
main()' "$@"
"""


@dataclass(frozen=True)
class Mutant:
    """One broken runtime."""

    name: str
    title: str
    stage: str
    caught_by: frozenset[str]
    changes: tuple[dict[str, str], ...]
    only: str = ""

    def build(self, folder: Path, python: str) -> str:
        """Make the mutant in `folder`; return its command."""
        shutil.copytree(
            CHECKOUT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__")
        )
        for change in self.changes:
            file = folder / change["file"]
            text = file.read_text(encoding="utf-8")
            found = text.count(change["old"])
            if found != 1:
                raise ValueError(
                    f"{self.name}: {change['file']} has the text to change {found} times, not once"
                )
            file.write_text(text.replace(change["old"], change["new"]), encoding="utf-8")
        package = next((folder / "stages").glob(f"{self.stage}_*")).name
        starter = folder / self.name
        starter.write_text(
            STARTER.format(python=python, folder=folder, name=self.name, package=package),
            encoding="utf-8",
        )
        starter.chmod(0o755)
        return str(starter)


def mutants() -> list[Mutant]:
    """Return all mutants, in the order of their names."""
    found = []
    for file in sorted(FOLDER.glob("*.toml")):
        facts = tomllib.loads(file.read_text(encoding="utf-8"))
        found.append(
            Mutant(
                file.stem,
                facts["title"],
                facts["stage"],
                frozenset(facts["caught_by"]),
                tuple(facts["change"]),
                facts.get("only", ""),
            )
        )
    return found
