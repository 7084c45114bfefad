"""Every command on every page is typed, in a copy of this checkout, and ends as the page says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labs import paths, starters
from labs.paths import copy_checkout
from labs.privilege import environment
from tests.docs.pages import names, page

ANY_STATUS = ("./labrun doctor",)
"""What the machine lacks decides."""
BUILDS = "docs --build"
"""Needs the site's tools, as the tests in a browser do."""

PAGES = [
    pytest.param(name, marks=[pytest.mark.browser] if builds else [])
    for name in names("en")
    for commands in [page("en", name).commands]
    for builds in [any(BUILDS in command for command, _ in commands)]
    if commands
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout with an environment of its own, made of this one's parts."""
    copy = tmp_path / "labrun"
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


@pytest.mark.once
@pytest.mark.usefixtures("as_root")
@pytest.mark.xdist_group("machine")
@pytest.mark.parametrize("name", PAGES)
# One of the pages has everything recorded afresh: minutes, and more beside the virtual machine.
@pytest.mark.timeout(1800)
def test_every_command_of_a_page_ends_as_it_says(checkout: Path, name: str) -> None:
    assert type_all(checkout, page("en", name).commands) == []


@pytest.mark.usefixtures("as_root")
@pytest.mark.xdist_group("machine")
def test_a_command_that_ends_otherwise_is_found(checkout: Path) -> None:
    commands = [("sudo .venv/bin/stage1 run /no/such/root /bin/true", 0), ("./labrun no-such", 2)]
    assert [line.partition(":")[0] for line in type_all(checkout, commands)] == [commands[0][0]]


def test_there_are_commands_to_type() -> None:
    assert {"index.md", "stage1.md", "lesson-template.md"} <= {param.values[0] for param in PAGES}
