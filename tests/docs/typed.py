"""A page's commands, typed as a reader types them, in a checkout of the test's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from labs import paths, starters
from labs.paths import copy_checkout
from labs.privilege import environment

ANY_STATUS = ("./labrun doctor",)
"""What the machine lacks decides."""


def own_checkout(copy: Path) -> Path:
    """Make a copy of the checkout with an environment of its own, made of this one's parts."""
    copy_checkout(copy)
    venv = copy / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    shutil.copy(environment() / "pyvenv.cfg", venv)
    (venv / "lib").symlink_to(environment() / "lib")
    if (environment() / ".labrun").is_dir():
        shutil.copytree(environment() / ".labrun", venv / ".labrun")
    starters.write(venv, copy)
    return copy


def typed(command: str) -> str:
    """Return a command as it is typed there: by root already, and past the launcher's set-up."""
    return command.removeprefix("sudo ").replace("./labrun ", ".venv/bin/labrun ")


def type_all(checkout: Path, commands: list[tuple[str, int]]) -> list[str]:
    """Type commands one after the other; return what ended otherwise than it should."""
    wrong = []
    for command, status in commands:
        done = subprocess.run(
            ["/bin/sh", "-c", typed(command)],
            cwd=checkout,
            env={
                **os.environ,
                "LABRUN_CACHE": str(paths.cache()),
                "LABRUN_STORE": str(checkout / ".venv" / "store"),
                "LANG": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != status and command not in ANY_STATUS:
            wrong.append(f"{command}: {done.returncode}, not {status}: {done.stdout[-600:]}")
    return wrong
