"""Becoming root by sudo: with what environment, and what is said where that can't be done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labs import privilege
from labs.errors import CANNOT, Refused
from labs.paths import CHECKOUT

BECOME = "import sys; from labs.privilege import become_root; become_root(sys.argv[1:])"


def sudo(folder: Path, script: str) -> Path:
    """Write a stand-in for sudo, and return the folder to have on PATH."""
    program = folder / "sudo"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make us think that we are an ordinary user, with nobody at a terminal."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.stdin", None)


def test_root_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    privilege.become_root(["stage1"])


@pytest.mark.usefixtures("ordinary")
def test_without_sudo_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused) as refused:
        privilege.become_root(["stage1"])
    assert refused.value.status == CANNOT
    assert str(refused.value) == (
        "labrun stage1: this needs root, and sudo is not installed: run it as root"
    )


@pytest.mark.usefixtures("ordinary")
def test_nobody_is_asked_for_a_password_where_nobody_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{sudo(tmp_path, 'exit 1')}:/usr/bin:/bin")
    with pytest.raises(Refused) as refused:
        privilege.become_root(["stage1"])
    assert refused.value.status == CANNOT
    assert "sudo ./labrun stage1" in str(refused.value)


@pytest.mark.usefixtures("ordinary")
def test_sudo_starts_the_launcher_with_our_environment_and_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{sudo(tmp_path, 'exit 0')}:/usr/bin:/bin")
    monkeypatch.setenv("NO_COLOR", "1")
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execvp", lambda file, argv: started.append((file, argv)))
    privilege.become_root(["rootfs", "a b"])
    file, argv = started[0]
    assert (file, argv[:3]) == ("sudo", ["sudo", "--", "env"])
    assert f"LABRUN_VENV={privilege.environment()}" in argv
    assert "NO_COLOR=1" in argv
    assert argv[-3:] == [str(CHECKOUT / "labrun"), "rootfs", "a b"]


def test_sudo_s_exit_status_is_ours(tmp_path: Path) -> None:
    """For real: a process that is no root's becomes sudo, and says what sudo says."""
    code = f"import os; os.geteuid = lambda: 1000\n{BECOME}"
    script = '[ "$1" = -n ] || { echo "$@"; exit 42; }'
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"],
        env=os.environ | {"PATH": f"{sudo(tmp_path, script)}:/usr/bin:/bin"},
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (42, "")
    assert done.stdout.endswith(f"{CHECKOUT}/labrun doctor\n")
