"""One real set-up, as students have it: a path with spaces, and, where we are root, as by sudo."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs.starters import SHEBANG_LIMIT, commands, shebang
from tests.launcher.clones import copy
from tests.launcher.test_launcher import STRANGER, give, snapshot

ROOT = os.geteuid() == 0
SYSTEM_PYTHON = Path("/usr/bin/python3")

pytestmark = pytest.mark.xdist_group("real set-up")


def clean_environment() -> dict[str, str]:
    """Return our environment without what decides where labrun puts things."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LABRUN_")}


@pytest.fixture(scope="session")
def python() -> str:
    """Return this Python, or where its owner-to-be can't run it, one that it can."""
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if not ROOT:
        return real
    runs = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c ""', real],
        user=STRANGER,
        group=STRANGER,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    return real if runs.returncode == 0 else str(SYSTEM_PYTHON)


@pytest.fixture(scope="session")
def installed(python: str) -> Iterator[Path]:
    """Return a copy that was set up for real, by `labrun --help`."""
    with tempfile.TemporaryDirectory(prefix="labrun-commons-") as name:
        Path(name).chmod(0o755)
        checkout = copy(Path(name) / "a path with spaces")
        if ROOT:
            give(checkout, STRANGER)
        done = subprocess.run(
            [checkout / "labrun", "--help"],
            env=clean_environment() | {"LABRUN_PYTHON": python},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Usage: labrun" in done.stdout
        yield checkout


def test_the_environment_is_whole(installed: Path) -> None:
    done = subprocess.run(
        [installed / ".venv" / "bin" / "python", "-m", "pip", "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("No broken requirements found.\n", 0)


def test_every_stage_has_its_command_and_it_starts(installed: Path) -> None:
    stages = [name for name in commands(installed) if name != "labrun"]
    assert "stage1" in stages
    for name in stages:
        done = subprocess.run(
            [installed / ".venv" / "bin" / name, "--help"],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert name in done.stdout


@pytest.mark.skipif(not ROOT, reason="cannot: only root can set up for somebody else")
def test_root_leaves_nothing_of_its_own_in_the_owner_s_checkout(installed: Path) -> None:
    source = installed / "labs" / "cli.py"
    os.utime(source, (source.stat().st_atime, source.stat().st_mtime + 60))
    for name in ("labrun", *commands(installed)):
        program = installed / name if name == "labrun" else installed / ".venv" / "bin" / name
        subprocess.run(
            [program, "--help"], env=clean_environment(), stdout=subprocess.DEVNULL, check=True
        )
    assert [path for path in installed.rglob("*") if path.lstat().st_uid != STRANGER] == []


def test_a_second_real_start_changes_nothing(installed: Path) -> None:
    files = snapshot(installed)
    done = subprocess.run(
        [installed / "labrun", "--help"], env=clean_environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert snapshot(installed) == files


@pytest.mark.parametrize("place", ["plain", "with space", "long" * 40])
def test_arguments_reach_a_command_byte_for_byte(tmp_path: Path, place: str) -> None:
    binaries = tmp_path / place
    binaries.mkdir()
    (binaries / "python").symlink_to(os.path.realpath(sys.executable))
    program = binaries / "program"
    program.write_text(
        shebang(binaries / "python") + "\nimport os, sys\nos.write(1, os.fsencode(sys.argv[1]))\n"
    )
    program.chmod(0o755)
    for argument in (b"\xff\xfe \n'\"$x", "路径".encode(), b""):
        done = subprocess.run(
            [os.fsencode(program), argument], env={}, capture_output=True, check=False
        )
        assert (done.stdout, done.stderr) == (argument, b"")


def test_a_short_path_needs_no_shell() -> None:
    assert shebang(Path("/x/bin/python")) == "#!/x/bin/python -ISXutf8"
    assert shebang(Path("/x" * SHEBANG_LIMIT + "/python")).startswith("#!/bin/sh\n")


HIDE_ENSUREPIP = """\
mount --bind "$1/empty" "$2"
umount_script=$1/tools/apt-get
printf '#!/bin/sh\\necho "$*" >>"%s/asked"\\numount "%s"\\n' "$1" "$2" >"$umount_script"
chmod +x "$umount_script"
PATH=$1/tools:$PATH exec "$1/checkout/labrun"
"""


@pytest.mark.skipif(not ROOT, reason="cannot: only root can hide ensurepip in a mount namespace")
def test_what_venv_lacks_is_fetched_with_apt(tmp_path: Path) -> None:
    """Where ensurepip is missing, its package is asked for; then the set-up goes on.

    The stand-in for apt-get uncovers what the test had covered in a mount namespace of its own.
    The lock is empty, so that the set-up ends in its third step, with the error told there.
    """
    real = SYSTEM_PYTHON.resolve()
    found = subprocess.run(
        [
            real,
            "-I",
            "-c",
            "import ensurepip, sys; sys.version_info >= (3, 11) or sys.exit(1)\n"
            "print(ensurepip.__path__[0])",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        pytest.skip("cannot: the distribution's python3 is older than 3.11, or lacks ensurepip")
    checkout = copy(tmp_path / "checkout")
    (checkout / "requirements.lock").write_text("")
    for name in ("empty", "tools"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDE_ENSUREPIP, "sh", tmp_path, found.stdout.strip()],
        env=clean_environment() | {"LABRUN_PYTHON": str(real)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    package = f"{real.name}-venv"
    assert (tmp_path / "asked").read_text().rstrip().endswith(f"--no-install-recommends {package}")
    lines = done.stderr.splitlines()
    assert lines[0] == f"labrun: fetching {package} from the distribution"
    assert lines[-1].startswith("labrun: the set-up failed: writing the commands: ")
    assert done.returncode == 3
