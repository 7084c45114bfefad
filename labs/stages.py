"""The stages that are built, and how their runtimes are called."""

import sys
from pathlib import Path

from labs.paths import CHECKOUT

BUILT = [
    folder.parent.name.partition("_")[0]
    for folder in sorted((CHECKOUT / "stages").glob("stage?_*/cli.py"))
]
"""`stage1`, …: those that have a command."""

DEMOS = [stage for stage in BUILT if (CHECKOUT / f"labs/demos/{stage}.toml").exists()]
"""Those that can be played."""


def reference(stage: str) -> str:
    """Return the command of a stage's own runtime, in this environment."""
    return str(Path(sys.executable).with_name(stage))
