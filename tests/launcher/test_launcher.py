"""The launcher: what it makes, when it makes it again, and what it refuses to touch."""

import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.launcher.clones import Copy, tools

STRANGER = 65533

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="cannot: only root can be somebody else than the checkout's owner"
)


def wait_for(path: Path) -> None:
    """Wait until a file is there, with a bound that only a hang reaches."""
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} never appeared")


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of change of all that is in a folder."""
    return {
        str(path): (status.st_ino, status.st_size, status.st_ctime_ns)
        for path in sorted(folder.rglob("*"))
        if (status := path.lstat())
    }


def give(folder: Path, uid: int) -> None:
    """Make everything in a folder, and the folder, somebody's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def test_the_first_start_sets_up_and_becomes_the_command(clone: Copy) -> None:
    done = clone.start("one", "two words", "")
    assert (done.stdout, done.returncode) == ("started one two words \n", 0)
    assert [line.split(" ")[4] for line in done.stderr.splitlines()] == ["1/3", "2/3", "3/3"]


def test_a_second_start_asks_python_nothing_and_changes_nothing(clone: Copy) -> None:
    clone.start()
    calls, files = clone.calls(), snapshot(clone.checkout)
    done = clone.start("again")
    assert (done.stdout, done.stderr) == ("started again\n", "")
    assert clone.calls() == calls
    assert snapshot(clone.checkout) == files


def test_without_cmp_a_second_start_is_a_second_start(clone: Copy, tmp_path: Path) -> None:
    clone.start()
    calls = clone.calls()
    path = tools(tmp_path / "tools", without="cmp")
    done = clone.start(env=clone.env(PATH=str(path)))
    assert (done.stdout, done.stderr, clone.calls()) == ("started\n", "", calls)


def test_another_lock_makes_the_environment_again(clone: Copy) -> None:
    clone.start()
    stray = clone.venv / "lib-of-an-older-lock"
    stray.touch()
    with (clone.checkout / "requirements.lock").open("a") as lock:
        lock.write("# newer\n")
    assert clone.start().returncode == 0
    assert clone.made() == 2
    assert not stray.exists()


@pytest.mark.parametrize("name", ["pyproject.toml", "labs/starters.py"])
def test_another_project_file_only_writes_the_commands_again(clone: Copy, name: str) -> None:
    clone.start()
    with (clone.checkout / name).open("a") as file:
        file.write("# newer\n")
    done = clone.start()
    assert [line.split(" ")[4] for line in done.stderr.splitlines()] == ["1/1"]
    assert clone.made() == 1
    assert clone.start().stderr == ""


def test_a_new_stage_gets_its_command(clone: Copy) -> None:
    clone.start()
    stage = clone.checkout / "stages" / "stage9_new"
    stage.mkdir()
    (stage / "cli.py").touch()
    assert "1/1" in clone.start().stderr


def test_a_checkout_that_moved_is_set_up_where_it_is_now(clone: Copy, tmp_path: Path) -> None:
    clone.start()
    clone.checkout = clone.checkout.rename(tmp_path / "elsewhere")
    assert clone.start().returncode == 0
    assert clone.made() == 2


def test_the_launcher_can_be_started_by_a_link_and_in_a_path_with_spaces(
    clone: Copy, tmp_path: Path
) -> None:
    clone.checkout = clone.checkout.rename(tmp_path / "a path with  spaces, 路径 and 'quotes'")
    link = tmp_path / "link"
    link.symlink_to(clone.checkout / "labrun")
    assert clone.start("x", launcher=str(link)).stdout == "started x\n"
    assert clone.venv.is_dir()
    assert clone.start("y", cwd=clone.checkout, launcher="./labrun").stderr == ""


def test_labrun_venv_puts_the_environment_elsewhere(clone: Copy, tmp_path: Path) -> None:
    files = snapshot(clone.checkout)
    env = clone.env(LABRUN_VENV="some//where/")
    assert clone.start(env=env, cwd=tmp_path).returncode == 0
    assert (tmp_path / "some" / "where" / "bin" / "labrun").exists()
    assert clone.start(env=env, cwd=tmp_path).stderr == ""
    assert snapshot(clone.checkout) == files


@pytest.mark.parametrize("place", ["default", "LABRUN_VENV"])
def test_a_folder_that_is_not_ours_is_refused_untouched(
    clone: Copy, tmp_path: Path, place: str
) -> None:
    theirs = clone.venv if place == "default" else tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("three years")
    files = snapshot(theirs)
    env = clone.env() if place == "default" else clone.env(LABRUN_VENV=str(theirs))
    done = clone.start(env=env)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"labrun: {theirs} was not made by labrun: move it away, or set LABRUN_VENV=DIR\n"
    )
    assert snapshot(theirs) == files
    assert clone.made() == 0


def test_a_file_in_the_environment_s_place_is_refused(clone: Copy) -> None:
    clone.venv.write_text("a file")
    done = clone.start()
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert clone.venv.read_text() == "a file"


def test_an_empty_folder_is_taken(clone: Copy) -> None:
    clone.venv.mkdir()
    assert clone.start().returncode == 0


def test_a_failed_step_shows_the_log_and_the_next_start_begins_again(clone: Copy) -> None:
    clone.hook("echo the index is on fire\nexit 7\n")
    done = clone.start()
    assert (done.returncode, done.stdout) == (3, "")
    assert "  the index is on fire" in done.stderr.splitlines()
    assert done.stderr.splitlines()[-1].startswith(
        f"labrun: the set-up failed: installing packages: see above and {clone.venv}/.labrun/log"
    )
    (clone.venv / "half-installed").touch()
    clone.hook(":\n")
    assert clone.start().stdout == "started\n"
    assert not (clone.venv / "half-installed").exists()


@pytest.mark.parametrize("whom", ["the launcher", "the group"])
def test_ctrl_c_ends_the_set_up_with_130_and_one_line(clone: Copy, whom: str) -> None:
    here = clone.folder / "installing"
    clone.hook(f"echo $$ >'{here}.new'; mv '{here}.new' '{here}'\nexec sleep 1000\n")
    start = clone.begin()
    wait_for(here)
    (clone.venv / "half-installed").touch()
    (os.kill if whom == "the launcher" else os.killpg)(start.pid, signal.SIGINT)
    stdout, stderr = start.communicate()
    assert (start.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "labrun: interrupted: the next start sets up afresh"
    assert not Path("/proc", here.read_text().strip()).exists()
    clone.hook(":\n")
    assert clone.start().returncode == 0
    assert not (clone.venv / "half-installed").exists()


def test_a_killed_set_up_begins_again(clone: Copy) -> None:
    here = clone.folder / "installing"
    clone.hook(f"touch '{here}'\nexec sleep 1000\n")
    start = clone.begin()
    wait_for(here)
    (clone.venv / "half-installed").touch()
    os.killpg(start.pid, signal.SIGKILL)
    start.communicate()
    clone.hook(":\n")
    assert clone.start().stdout == "started\n"
    assert not (clone.venv / "half-installed").exists()


def test_two_first_starts_at_once_make_one_environment(clone: Copy) -> None:
    here, go = clone.folder / "installing", clone.folder / "go"
    clone.hook(f"touch '{here}'\nwhile [ ! -e '{go}' ]; do sleep 0.05; done\n")
    first = clone.begin("first")
    wait_for(here)
    second = clone.begin("second")
    assert second.stderr is not None
    assert second.stderr.readline() == "labrun: another start is setting up: waiting for it\n"
    go.touch()
    assert first.communicate()[0] == "started first\n"
    assert second.communicate()[0] == "started second\n"
    assert clone.made() == 1


def test_no_python_is_one_line_with_the_packages(clone: Copy, tmp_path: Path) -> None:
    env = clone.env(PATH=str(tools(tmp_path / "tools")))
    del env["LABRUN_PYTHON"]
    done = clone.start(env=env)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "labrun: no Python 3.11 or later on PATH: install python3 and python3-venv "
        "(apt-get install python3 python3-venv), or set LABRUN_PYTHON=PATH\n"
    )


def test_a_python_that_is_too_old_is_passed_over(clone: Copy, tmp_path: Path) -> None:
    path = tools(tmp_path / "tools")
    (path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (path / "python3").chmod(0o755)
    (path / "python3.11").symlink_to(clone.folder / "python")
    env = clone.env(PATH=str(path))
    del env["LABRUN_PYTHON"]
    assert clone.start(env=env).stdout == "started\n"
    shutil.rmtree(clone.venv)
    done = clone.start(env=clone.env(LABRUN_PYTHON=str(path / "python3")))
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "LABRUN_PYTHON" in done.stderr


def test_a_path_that_no_script_can_name_is_refused(clone: Copy, tmp_path: Path) -> None:
    clone.checkout = clone.checkout.rename(tmp_path / "a$b")
    done = clone.start()
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "LABRUN_VENV=DIR puts it elsewhere" in done.stderr
    assert not clone.venv.exists()


def test_on_a_terminal_a_live_line_says_what_is_being_done(clone: Copy) -> None:
    shown = clone.folder / "shown"
    clone.hook(f"echo Collecting a-package\nwhile [ ! -e '{shown}' ]; do sleep 0.05; done\n")
    ours, theirs = pty.openpty()
    start = subprocess.Popen(
        clone.command(), env=clone.env(TERM="xterm"), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
            if b"\r\x1b[K  Collecting a-package" in seen:
                shown.touch()
    except OSError:  # the other end is closed: Linux says EIO
        pass
    os.close(ours)
    assert start.wait() == 0
    assert seen.endswith(b"\r\x1b[Kstarted\r\n")


@needs_root
def test_under_sudo_everything_is_the_owner_s(clone: Copy) -> None:
    give(clone.checkout, STRANGER)
    give(clone.folder, STRANGER)
    clone.hook(f"id -u >'{clone.folder}/uid'; echo \"$HOME\" >'{clone.folder}/home'\n")
    assert clone.start().stdout == "started\n"
    assert (clone.folder / "uid").read_text() == f"{STRANGER}\n"
    assert (clone.folder / "home").read_text() == "/nonexistent\n"
    not_theirs = [path for path in clone.checkout.rglob("*") if path.lstat().st_uid != STRANGER]
    assert not_theirs == []


@needs_root
def test_under_sudo_labrun_venv_is_the_owner_s_too(clone: Copy, commons: Path) -> None:
    give(clone.checkout, STRANGER)
    give(clone.folder, STRANGER)
    venv = commons / "roots-folder" / "venv"
    assert clone.start(env=clone.env(LABRUN_VENV=str(venv))).stdout == "started\n"
    not_theirs = [path for path in (venv, *venv.rglob("*")) if path.lstat().st_uid != STRANGER]
    assert not_theirs == []


@needs_root
def test_in_somebody_else_s_checkout_the_way_out_is_named(clone: Copy) -> None:
    done = clone.start(user=STRANGER, group=STRANGER, extra_groups=[])
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"labrun: cannot make {clone.venv}: Permission denied: LABRUN_VENV=DIR puts it elsewhere\n"
    )
