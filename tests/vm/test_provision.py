"""The script that makes a student's machine: what it refuses, before it touches anything.

That it does its work is tested where a machine can be spared for it: when the image of the virtual
machine is built.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs.paths import CHECKOUT

SCRIPT = CHECKOUT / "labs/vm/provision.sh"
STRANGER = 65533


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that everybody may read, with a copy of the script and a small checkout."""
    with tempfile.TemporaryDirectory(prefix="labrun-provision-") as name:
        place = Path(name)
        place.chmod(0o755)
        shutil.copy(SCRIPT, place)
        (place / "checkout").mkdir()
        for file in ("labrun", "requirements.lock"):
            (place / "checkout" / file).touch()
        yield place


def run(*words: str | Path, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", *words], capture_output=True, text=True, check=False, timeout=60, user=user
    )


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_any_posix_shell_can_read_it(shell: str) -> None:
    done = subprocess.run([shell, "-n", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_can_be_executed_as_it_is() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_text(encoding="utf-8").startswith("#!/bin/sh\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "0 were given"),
        (["one", "two"], "2 were given"),
        (["--nonsense", "."], "no such option: --nonsense"),
        (["--user"], "--user wants a name"),
        (["/nowhere/at/all"], "/nowhere/at/all is not a folder that opens"),
        (["/"], "/ is no checkout of labrun"),
    ],
)
def test_wrong_arguments_are_named_with_the_usage(words: list[str], says: str) -> None:
    done = run(SCRIPT, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *usage = done.stderr.splitlines()
    assert says in first
    assert usage[0] == "Usage: provision.sh [--peers] [--user NAME] CHECKOUT"


def test_help_is_no_mistake() -> None:
    done = run(SCRIPT, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


def test_an_ordinary_user_is_told_in_one_line_to_take_sudo(folder: Path) -> None:
    who = STRANGER if os.geteuid() == 0 else None
    done = run(folder / "provision.sh", folder / "checkout", user=who)
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "needs root" in line
    assert f"sudo {folder}/provision.sh" in line


def test_a_user_whom_nobody_knows_is_refused(as_root: None, folder: Path) -> None:
    done = run(SCRIPT, "--user", "no-such-student", folder / "checkout")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no-such-student" in line
