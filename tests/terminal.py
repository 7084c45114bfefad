"""A terminal for the tests: labrun runs in it, keys are pressed, and the screen is read."""

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pexpect
import pyte

from tests.running import LABRUN

PATIENCE = 60.0


class Terminal:
    """A terminal with labrun in it, or another command that leads there."""

    patience = PATIENCE

    def __init__(
        self,
        *arguments: str,
        command: str = LABRUN,
        folder: Path | None = None,
        rows: int = 24,
        columns: int = 80,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        # Who runs the tests may have said how wide its own output is.
        ours = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.child = pexpect.spawn(
            command,
            list(arguments),
            cwd=folder,
            dimensions=(rows, columns),
            env={**ours, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(environment or {})},
            timeout=self.patience,
        )

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def see(self, pattern: str) -> str:
        """Wait until the screen shows the pattern, and return what it shows."""
        until = time.monotonic() + self.patience
        while not re.search(pattern, self.text()):
            assert time.monotonic() < until, f"no {pattern!r} in\n{self.text()}"
            with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
                self.stream.feed(self.child.read_nonblocking(4096, timeout=0.1))
        return self.text()

    def press(self, keys: str, pattern: str) -> str:
        self.child.send(keys)
        return self.see(pattern)

    def end(self) -> int:
        """Wait for the end, and return the exit status as a shell has it."""
        with contextlib.suppress(pexpect.EOF):
            while True:
                self.stream.feed(self.child.read_nonblocking(4096, timeout=self.patience))
        self.child.close()
        status: int = self.child.exitstatus
        return status if self.child.signalstatus is None else 128 + int(self.child.signalstatus)

    def deserted(self) -> bool:
        """Say whether all processes of this terminal are gone, or on their way out, soon."""
        until = time.monotonic() + 5
        while self.processes() and time.monotonic() < until:
            time.sleep(0.02)
        return not self.processes()

    def processes(self) -> list[str]:
        """Return the command lines of the processes of this terminal."""
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if process.name.isdigit():
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.child.pid:
                        found.append((process / "cmdline").read_text().replace("\0", " "))
        return found
