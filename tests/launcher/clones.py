"""Copies of the checkout to start, and a stand-in for Python, so that most set-ups take no time."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.paths import CHECKOUT

NEEDED = ("labrun", "requirements.lock", "pyproject.toml", "LICENSE")
PACKAGES = ("labs", "stages", "checks")

STAND_IN = """\
#!/bin/sh
# A stand-in for Python: answers what the launcher asks, and writes down that it was asked.
echo "$*" >>'{folder}/calls'
case "$*" in
*'import venv'*) ;;
*' -c '*) echo '{folder}/python' ;;
*'-m venv '*) for last; do :; done; mkdir -p "$last/bin"; cp '{folder}/python' "$last/bin/python" ;;
*'--require-hashes'*) . '{folder}/hook' ;;
*'labs.starters') printf '#!/bin/sh\\necho started "$@"\\n' >"${{0%/*}}/labrun"
    chmod +x "${{0%/*}}/labrun" ;;
esac
"""


def copy(target: Path) -> Path:
    """Copy what the launcher needs of the checkout."""
    target.mkdir(parents=True)
    for name in NEEDED:
        shutil.copy2(CHECKOUT / name, target / name)
    (target / "README.md").touch()
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, target / name, ignore=ignore)
    return target


@dataclass
class Copy:
    """A copy of the checkout, and the stand-in with which it is set up."""

    checkout: Path
    folder: Path

    @property
    def venv(self) -> Path:
        """Where the environment goes unless it is told otherwise."""
        return self.checkout / ".venv"

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of a start with the stand-in."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LABRUN_")}
        return {**kept, "LABRUN_PYTHON": str(self.folder / "python"), **more}

    def start(
        self, *arguments: str, launcher: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Start the launcher and wait for it."""
        options = {"env": self.env(), "cwd": "/"} | options
        return subprocess.run(
            self.command(*arguments, launcher=launcher),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    def begin(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the launcher in a process group of its own, and go on."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.env(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            **options,
        )

    def command(self, *arguments: str, launcher: str = "") -> Sequence[str]:
        """Return the command line of a start."""
        return [launcher or str(self.checkout / "labrun"), *arguments]

    def hook(self, script: str) -> None:
        """Say what installing packages does."""
        (self.folder / "hook").write_text(script)

    def calls(self) -> list[str]:
        """Return what was asked of the stand-in so far."""
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def made(self) -> int:
        """Return how often an environment was made."""
        return sum("-m venv" in call for call in self.calls())


TOOLS = (
    *("sh", "id", "ls", "cut", "cat", "mkdir", "rm", "mv", "cp", "chmod", "tail", "sed", "sleep"),
    *("flock", "env", "find", "grep", "cmp"),
)


def tools(folder: Path, without: str = "") -> Path:
    """Make a folder with the programs that the launcher needs, and no Python, to be a PATH."""
    folder.mkdir()
    for name in TOOLS:
        if name != without and (found := shutil.which(name)):
            (folder / name).symlink_to(found)
    return folder
