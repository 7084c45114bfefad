"""The machine as a test uses it: as a student who is logged in."""

import json
import subprocess
from typing import Any

from checks.model import axes
from labs.vm.machine import Machine

PATIENCE = 900
"""Seconds: under emulation everything takes ten times as long as elsewhere, with other rooms of
`labrun test --all` beside it twenty."""
IN_THE_MATRIX = [axis.id for axis in axes().values() if axis.stage <= 2]
"""What test_there has every stage judged on, the last one too, and so test_lessons not again."""


class Guest(Machine):
    """The machine, and what a command in it says."""

    def says(self, *words: str, patience: float = PATIENCE) -> tuple[int, str, str]:
        """Run a command as the student; return its exit status, stdout and stderr."""
        done = subprocess.run(
            self.ssh(words),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=patience,
        )
        return done.returncode, done.stdout, done.stderr

    def shell(self, script: str) -> str:
        """Run a script that must end with 0; return what it says."""
        status, said, complaint = self.says("sh", "-euc", script)
        assert status == 0, said + complaint
        return said

    def json(self, *words: str, patience: float = PATIENCE) -> tuple[int, Any]:
        """Run a command that writes JSON; return its exit status, and what it says."""
        status, said, complaint = self.says(*words, patience=patience)
        assert said, complaint
        return status, json.loads(said)
