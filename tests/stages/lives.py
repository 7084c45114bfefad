"""Containers that live on: what the tests of stage 5 say to them, and see of them."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.running import processes, run

QUIET = ("--net", "none")
T = TypeVar("T")
PATIENCE = 30.0


class Engine:
    """`stage5`, with a store of its own that has the image `box`."""

    def __init__(self, command: str, store: Path) -> None:
        self.command, self.store = command, store

    def says(self, *words: str, status: int = 0, **more: Any) -> str:
        """Return what a command prints, which ends as it should and complains of nothing."""
        ended = run([self.command, *words], **more)
        assert (ended.returncode, ended.stderr) == (status, b""), (words, ended)
        text: str = ended.stdout.decode().strip()
        return text

    def refuses(self, *words: str, status: int = 125) -> str:
        """Return the one line of a command that fails."""
        ended = run([self.command, *words])
        lines = ended.stderr.decode().splitlines()
        assert (ended.returncode, len(lines)) == (status, 1), (words, ended)
        return lines[0]

    def begin(self, name: str, *options: str, script: str = "sleep 1000") -> str:
        """Run a script in the background; return the container's ID."""
        line = ["run", "-d", *QUIET, "--name", name, *options, "box", "/bin/sh", "-c", script]
        return self.says(*line)

    def inside(self, script: str, *options: str) -> str:
        """Return what a script prints in a container that is removed afterwards."""
        return self.says("run", "--rm", *QUIET, *options, "box", "/bin/sh", "-c", script)

    def within(self, name: str, script: str, *options: str) -> str:
        """Return what a script prints that is run in a container that runs."""
        return self.says("exec", *options, name, "/bin/sh", "-c", script)

    def known(self, name: str) -> Any:
        """Return what `inspect` tells."""
        return json.loads(self.says("inspect", name))[0]

    def pid(self, name: str) -> int:
        """Return the host's number of a container's first process."""
        pid: int = self.known(name)["State"]["Pid"]
        assert pid
        return pid

    def status(self, name: str) -> str:
        """Return a container's state, in a word."""
        status: str = self.known(name)["State"]["Status"]
        return status

    def names(self, *options: str) -> set[str]:
        """Return the names that `ps` lists."""
        return {*self.says("ps", "--format", "{{.Names}}", *options).split()}

    def folder(self, name: str) -> Path:
        """Return a container's folder in the store."""
        identity: str = self.known(name)["Id"]
        return self.store / "containers" / identity

    def until_it_says(self, name: str, text: str) -> str:
        """Return a container's logs, once there is a text in them."""
        return eventually(
            lambda: self.says("logs", name), lambda logs: re.search(text, logs) is not None
        )

    def until(self, name: str, status: str) -> None:
        """Wait until a container has that state."""
        eventually(lambda: self.status(name), lambda now: now == status)

    def residue(self) -> list[str]:
        """Return what is left of containers: folders, unfinished files, mounts, processes."""
        left = [str(path) for path in (self.store / "containers").iterdir()]
        left += [str(path) for path in (self.store / "tmp").iterdir()]
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        left += [row for row in table if str(self.store) in row]
        return left + processes(f"{self.store}/containers")


def eventually(look: Callable[[], T], good: Callable[[T], bool]) -> T:
    """Return what is seen as soon as it is good; fail where that takes too long."""
    until = time.monotonic() + PATIENCE
    while not good(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.02)
    return seen


def is_there(pid: int) -> bool:
    """Return whether a process is alive: a dead one that nobody has waited for isn't."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def links_of(pid: int | str) -> dict[str, str]:
    """Return the namespaces of a process."""
    folder = Path(f"/proc/{pid}/ns")
    return {link.name: str(link.readlink()) for link in folder.iterdir()}


def start_all(lines: list[list[str]]) -> list[subprocess.CompletedProcess[bytes]]:
    """Run commands at the same time, and return how they ended."""
    begun = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for line in lines
    ]
    ended = []
    for process in begun:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended
