"""A student's progress is kept: whole, theirs, and never in the way of a command."""

import fcntl
import json
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labs import paths, privilege, progress, texts
from labs.progress import Progress, Stage
from tests.running import LABRUN, NOBODY, ordinary_user, run

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root")


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    texts.speak("en")
    yield
    texts.speak(None)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the progress of this test is kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/labrun/progress.json"


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of an ordinary user's, with us as root behind that user's sudo."""
    # Pytest's own temporary folders are closed to others.
    home = Path("/tmp") / f"labrun-test-home-{os.getpid()}"
    home.mkdir(mode=0o755)
    os.chown(home, NOBODY, NOBODY)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/root")
    entry = pwd.getpwuid(NOBODY)
    fields = [*entry]
    fields[5] = str(home)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(fields))
    yield home
    subprocess.run(["rm", "-rf", home], check=True)


def contents(file: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(file.read_bytes())
    return table


def owners(folder: Path) -> set[int]:
    """Return who owns what is in a folder."""
    return {path.lstat().st_uid for path in folder.rglob("*")}


# ---- what is kept -------------------------------------------------------------------------------


def test_where_nothing_was_played_nothing_is_known_and_nothing_is_written(file: Path) -> None:
    assert progress.read() == Progress({}, "")
    assert not file.parent.exists()


def test_what_was_played_and_passed_is_there_afterwards(file: Path) -> None:
    assert progress.played("stage1", "pwd") == ""
    assert progress.played("stage2", "uts") == ""
    assert progress.passed("stage1", "own") == ""
    known = progress.read()
    assert known.trouble == ""
    assert set(known.of("stage1").steps) == {"pwd"}
    assert set(known.of("stage1").passed) == {"own"}
    assert set(known.of("stage2").steps) == {"uts"}
    assert known.of("stage3") == Stage()
    assert contents(file)["schema"] == 1


def test_the_first_time_is_what_counts_and_a_second_one_writes_nothing(file: Path) -> None:
    progress.played("stage1", "pwd")
    table = contents(file)
    table["stages"]["stage1"]["steps"]["pwd"] = "2001-01-01T00:00:00Z"
    file.write_text(json.dumps(table))
    before = file.stat().st_ino
    progress.played("stage1", "pwd")
    assert (contents(file), file.stat().st_ino) == (table, before)
    # Control: something new is written, to a file that takes the place of the old one.
    progress.played("stage1", "ls")
    assert file.stat().st_ino != before


def test_what_others_wrote_into_the_file_stays(file: Path) -> None:
    progress.played("stage1", "pwd")
    table = contents(file)
    table["note"] = "mine"
    table["stages"]["stage9"] = {"steps": {"gone": "2001-01-01T00:00:00Z"}, "passed": {}, "x": 1}
    file.write_text(json.dumps(table))
    progress.played("stage1", "ls")
    after = contents(file)
    assert after["note"] == "mine"
    assert after["stages"]["stage9"] == table["stages"]["stage9"]


def test_a_file_that_is_linked_to_stays_where_it_is(file: Path, tmp_path: Path) -> None:
    file.parent.mkdir(parents=True)
    elsewhere = tmp_path / "dotfiles.json"
    file.symlink_to(elsewhere)
    assert progress.played("stage1", "pwd") == ""
    assert file.is_symlink()
    assert "pwd" in contents(elsewhere)["stages"]["stage1"]["steps"]


def test_many_at_once_lose_nothing(file: Path) -> None:
    code = "import sys; from labs import progress\nfor n in range(10):\n"
    code += " assert progress.played(sys.argv[1], f'step{n}') == ''"
    each = [
        subprocess.Popen([sys.executable, "-c", code, f"stage{number % 2}x{number}"], cwd="/")
        for number in range(8)
    ]
    assert [process.wait() for process in each] == [0] * 8
    stages = contents(file)["stages"]
    assert {name: len(stage["steps"]) for name, stage in stages.items()} == {
        f"stage{number % 2}x{number}": 10 for number in range(8)
    }


def test_without_the_lock_something_would_be_lost(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: another labrun writes between our reading and our writing."""
    load = progress._load

    def slow(path: Path) -> dict[str, Any]:
        table = load(path)
        monkeypatch.setattr(progress, "_load", load)
        other = [sys.executable, "-c", "from labs import progress; progress.played('a', 'b')"]
        done = subprocess.Popen(other, cwd="/")
        waiting.append(done)
        if unlocked:
            done.wait()
        return table

    for unlocked in (False, True):
        waiting: list[subprocess.Popen[bytes]] = []
        file.unlink(missing_ok=True)
        monkeypatch.setattr(progress, "_load", slow)
        if unlocked:
            monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        progress.played("c", "d")
        waiting[0].wait()
        assert set(contents(file)["stages"]) == ({"c"} if unlocked else {"a", "c"})


# ---- whose it is --------------------------------------------------------------------------------


@ROOT_ONLY
def test_behind_sudo_it_is_the_student_s_in_their_home(theirs: Path) -> None:
    assert progress.played("stage1", "pwd") == ""
    assert set(progress.read().of("stage1").steps) == {"pwd"}
    file = theirs / ".local/state/labrun/progress.json"
    assert progress.place() == str(file)
    assert "pwd" in contents(file)["stages"]["stage1"]["steps"]
    assert owners(theirs) == {NOBODY}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@ROOT_ONLY
def test_root_itself_would_leave_files_of_root_s(theirs: Path) -> None:
    """The control: whoever writes as root leaves a file that the student can't remove."""
    file = theirs / ".local/state/labrun/progress.json"
    progress._write(file, "stage1", "steps", "pwd", "now")
    assert owners(theirs) == {0}


@ROOT_ONLY
def test_root_that_uses_somebody_s_folder_leaves_nothing_of_root_s(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_UID")
    monkeypatch.setenv("HOME", str(theirs))  # as `su -m` does
    assert progress.played("stage1", "pwd") == ""
    assert owners(theirs) == {NOBODY}


@ROOT_ONLY
def test_a_link_of_the_student_s_doesn_t_lead_root_astray(theirs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "root-s.json"
    secret.write_text('{"schema": 1, "stages": {}}')
    folder = theirs / ".local/state/labrun"
    folder.mkdir(parents=True)
    (folder / "progress.json").symlink_to(secret)
    for path in (folder, folder.parent, folder.parent.parent):
        os.chown(path, NOBODY, NOBODY)
    assert "can't be kept" in progress.played("stage1", "pwd")
    assert contents(secret) == {"schema": 1, "stages": {}}


@pytest.mark.parametrize("uid", ["", "0", "x", "²", "-1", "4294967294", "99999999999999999999"])
def test_behind_a_sudo_of_nobody_s_we_are_who_we_are(
    monkeypatch: pytest.MonkeyPatch, uid: str
) -> None:
    monkeypatch.setenv("SUDO_UID", uid)
    assert privilege.student().uid == os.geteuid()


def test_an_ordinary_user_is_the_student_whatever_sudo_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("SUDO_UID", "1")
    assert privilege.student().uid == 1234


def test_sudo_is_told_where_the_progress_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/some/where")
    assert "XDG_STATE_HOME=/some/where" in privilege.sudo_command(["stage1"])


def test_a_relative_folder_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, folder in (("here", "/h/.local/state"), ("", "/h/.local/state"), ("/x", "/x")):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert paths.state(Path("/h")) == Path(folder, "labrun")


def test_who_has_no_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(privilege, "student", lambda: privilege.Student(1, 1, None))
    assert "no home folder" in progress.read().trouble
    assert "no home folder" in progress.played("stage1", "pwd")
    assert progress.place() == ""


# ---- what may be wrong with it ------------------------------------------------------------------

DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"{}",
    b'{"schema": "1", "stages": {}}',
    b'{"schema": 1}',
    b'{"schema": 1, "stages": []}',
    b'{"schema": 1, "stages": {"stage1": {"steps": {}}}}',
    b'{"schema": 1, "stages": {"stage1": {"steps": {"pwd": 3}, "passed": {}}}}',
    b"[" * 100_000,
    b'{"schema": 1, "stages": {}}' + b" " * progress.LARGEST,
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_said_to_be_and_kept_aside(file: Path, text: bytes) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    known = progress.read()
    assert "is damaged" in known.trouble
    assert known.stages == {}
    assert file.read_bytes() == text
    assert "damaged-1" in progress.played("stage1", "pwd")
    assert file.with_name("progress.json.damaged-1").read_bytes() == text
    assert progress.played("stage1", "ls") == ""
    assert set(progress.read().of("stage1").steps) == {"pwd", "ls"}


def test_a_second_damaged_file_doesn_t_replace_the_first(file: Path) -> None:
    file.parent.mkdir(parents=True)
    for number in (1, 2):
        file.write_text(f"damaged {number}")
        progress.played("stage1", "pwd")
    kept = sorted(file.parent.glob("*.damaged-*"))
    assert [path.read_text() for path in kept] == ["damaged 1", "damaged 2"]


def test_a_file_of_a_newer_labrun_is_left_alone(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text('{"schema": 2, "stages": "elsewhere"}')
    assert "newer labrun" in progress.read().trouble
    assert "newer labrun" in progress.played("stage1", "pwd")
    assert contents(file) == {"schema": 2, "stages": "elsewhere"}


def test_what_isn_t_a_file_is_no_reason_to_wait(file: Path) -> None:
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    assert "can't be read" in progress.read().trouble
    assert "can't be kept" in progress.played("stage1", "pwd")


def test_a_folder_that_is_none_is_said(file: Path) -> None:
    file.parent.parent.mkdir()
    file.parent.write_text("")
    assert "can't be read" in progress.read().trouble
    assert "can't be kept" in progress.played("stage1", "pwd")


def test_a_labrun_that_was_stopped_doesn_t_stop_another(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress.played("stage1", "pwd")
    monkeypatch.setattr(progress, "PAUSE", 0)
    with open(file.with_suffix(".lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another labrun" in progress.played("stage1", "ls")
        assert set(progress.read().of("stage1").steps) == {"pwd"}
    assert progress.played("stage1", "ls") == ""


def test_a_full_disk_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress.played("stage1", "pwd")
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert progress.played("stage1", "ls").endswith("No space left on device")
    assert file.read_bytes() == before
    assert not file.with_suffix(".new").exists()


@ROOT_ONLY
@pytest.mark.parametrize("closed", ["file", "folder", "home"])
def test_behind_sudo_what_is_read_only_to_the_student_is_so_to_us(
    theirs: Path, closed: str
) -> None:
    file = theirs / ".local/state/labrun/progress.json"
    if closed != "home":
        progress.played("stage1", "pwd")
    {"file": file, "folder": file.parent, "home": theirs}[closed].chmod(0o500)
    before = progress.read()
    assert "can't be kept" in before.trouble
    assert "can't be kept" in progress.played("stage1", "ls")
    assert set(before.of("stage1").steps) == (set() if closed == "home" else {"pwd"})
    assert progress.read() == before
    # Control: what was closed is all that was wrong.
    {"file": file, "folder": file.parent, "home": theirs}[closed].chmod(0o700)
    assert progress.played("stage1", "ls") == ""


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_what_is_read_only_is_said_and_read(closed: str, tmp_path: Path) -> None:
    """As an ordinary user, whom alone the kernel keeps out: the map is there, with a line."""
    user = ordinary_user()
    state = Path("/tmp") / f"labrun-test-state-{os.getpid()}-{closed}"
    folder = state / "labrun"
    folder.mkdir(parents=True)
    file = folder / "progress.json"
    steps = {"rootfs": "2001-01-01T00:00:00Z"}
    file.write_text(json.dumps({"schema": 1, "stages": {"stage1": {"steps": steps, "passed": {}}}}))
    for path in (state, folder, file):
        os.chown(path, NOBODY if user else -1, -1)
    try:
        environment = {"XDG_STATE_HOME": str(state)}
        for broken in (False, True):
            if broken:
                (file if closed == "file" else folder).chmod(0o444 if closed == "file" else 0o555)
            ended = run([LABRUN, "--lang", "en"], user=user, environment=environment)
            assert ended.returncode == 0
            assert "step 2/" in ended.stdout.decode()
            said = ended.stderr.decode().splitlines()
            assert len(said) == broken
            assert all("can't be kept" in line and "denied" in line for line in said)
    finally:
        folder.chmod(0o755)
        subprocess.run(["rm", "-rf", state], check=True)


# ---- who notes it -------------------------------------------------------------------------------


@pytest.mark.once
@ROOT_ONLY
@pytest.mark.xdist_group("machine")
def test_a_stage_has_passed_when_a_runtime_passed_every_check_of_it(
    file: Path, stage1: str, tmp_path: Path
) -> None:
    mine, cheat = tmp_path / "mine.sh", tmp_path / "cheat.sh"
    mine.write_text(f'#!/bin/sh\nexec {stage1} "$@"\n')
    cheat.write_text("#!/bin/sh\nexit 0\n")
    for script in (mine, cheat):
        script.chmod(0o755)
    tmp_path.chmod(0o755)
    seen = []
    for arguments, status in (
        (["stage1", "--only", "fs.root"], 0),
        (["stage1", "--runtime", "@chroot", "--only", "fs.root"], 0),
        (["stage1", "--runtime", str(cheat)], 1),
        (["stage1", "--runtime", "stage2".join(stage1.rsplit("stage1", 1))], None),
        (["stage1"], 0),
        (["stage1", "--runtime", f"sh {mine}"], 0),
    ):
        ended = run([LABRUN, "check", *arguments, "--no-input"])
        assert status is None or ended.returncode == status, ended.stdout.decode()
        seen.append(set(progress.read().of("stage1").passed))
    assert seen == [set(), set(), set(), set(), {"reference"}, {"reference", "own"}]
