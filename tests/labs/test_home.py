"""`labrun` alone: the road map, with where the student is, at a terminal and in a pipe."""

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from labs import progress, texts
from labs.demo import script
from labs.home import route
from labs.home.route import State, following, here
from labs.stages import BUILT
from tests.running import LABRUN, NOBODY, ordinary_user, run
from tests.terminal import Terminal

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root")
MACHINE = pytest.mark.xdist_group("machine")

STEPS = [step.id for step in script.load("stage1").steps]
SIZES = [(24, 80), (40, 120)]
KEYS = {"en": "q quit", "zh": "q 退出"}
WHEN = "2001-01-01T00:00:00Z"
ESCAPE_CODES = re.compile(rb"\x1b")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state folder in which nothing is known."""
    return tmp_path


def know(state: Path, *steps: str, passed: str = "", stage: str = "stage1") -> Path:
    """Write down what a student has done, and return the file."""
    file = state / "labrun/progress.json"
    file.parent.mkdir(exist_ok=True)
    table: dict[str, Any] = {"schema": 1, "stages": {}}
    if file.exists():
        table = json.loads(file.read_text())
    table["stages"][stage] = {
        "steps": dict.fromkeys(steps, WHEN),
        "passed": dict.fromkeys(passed.split(), WHEN),
    }
    file.write_text(json.dumps(table))
    return file


def plain(state: Path, *arguments: str, user: int | None = None, **environment: str) -> str:
    """Return what `labrun` says in a pipe, where it asks nothing and has no trouble."""
    ended = run(
        [LABRUN, *arguments],
        user=user,
        environment={"XDG_STATE_HOME": str(state), "COLUMNS": "80", **environment},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert not ESCAPE_CODES.search(ended.stdout)
    return ended.stdout.decode()


def rows(text: str) -> dict[int, str]:
    """Return the line of each stage on the map."""
    found = [re.match(r"[› >] (\d) ", line) for line in text.splitlines()]
    return {int(line[1]): line.string for line in found if line}


# ---- what comes next ----------------------------------------------------------------------------


def student(*stages: tuple[str, str]) -> list[route.Stage]:
    """Return a road whose first stages have two steps each, of which some were played.

    A pair is what was played (with when, after a colon), and whose runtime passed.
    """
    steps = script.load("stage1").steps[:2]
    road = []
    for number in route.STAGES:
        played, passed = stages[number - 1] if number <= len(stages) else ("", "")
        known = progress.Stage(
            steps=dict(each.split(":") for each in played.split()),
            passed=dict.fromkeys(passed.split(), "0"),
        )
        road.append(route.Stage(number, number <= len(stages), steps, known))
    return road


FIRST, SECOND = STEPS[:2]
HALF, BOTH = f"{FIRST}:1", f"{FIRST}:1 {SECOND}:2"
MINE = "--runtime ./mine.py"


@pytest.mark.parametrize(
    ("stages", "states", "what", "arguments"),
    [
        ([("", ""), ("", "")], "new new", "begin", "stage1"),
        ([(HALF, ""), ("", "")], "begun new", "step", f"stage1 --from {SECOND}"),
        ([(f"{SECOND}:1", ""), ("", "")], "begun new", "begin", "stage1"),
        ([(BOTH, ""), ("", "")], "seen new", "check", "check stage1"),
        ([(BOTH, "reference"), ("", "")], "passed new", "begin", "stage2"),
        ([(BOTH, "own"), ("", "")], "own new", "begin", "stage2"),
        # Whoever has gone on to another stage goes on there.
        ([(BOTH, ""), (f"{FIRST}:3", "")], "seen begun", "step", f"stage2 --from {SECOND}"),
        (
            [(f"{FIRST}:4", ""), (f"{FIRST}:3", "")],
            "begun begun",
            "step",
            f"stage1 --from {SECOND}",
        ),
        # That our own runtime passes is no reason to skip the demo; that theirs does, is.
        ([("", "reference"), ("", "")], "passed new", "begin", "stage1"),
        ([("", "own"), ("", "")], "own new", "begin", "stage2"),
        (
            [(BOTH, "own"), (BOTH, "reference")],
            "own passed",
            "own",
            "check stage2 --runtime ./mine.py",
        ),
    ],
)
def test_where_the_student_is_and_what_comes_next(
    stages: list[tuple[str, str]], states: str, what: str, arguments: str
) -> None:
    road = student(*stages)
    assert [str(stage.state) for stage in road] == [*states.split(), *["to_come"] * 3]
    then = following(here(road))
    assert (then.what, " ".join(then.arguments)) == (what, arguments)


def test_a_stage_that_was_chosen_is_played_again_when_it_is_done() -> None:
    (stage, *_) = student((BOTH, "own"))
    assert following(stage).what == "own"
    assert following(stage, chosen=True).what == "again"
    (stage, *_) = student(("", "own"))
    assert following(stage, chosen=True).what == "begin"


def test_the_road_is_what_is_built() -> None:
    road = route.road(progress.Progress())
    assert [stage.name for stage in road if stage.state is not State.TO_COME] == BUILT
    assert [stage.axes for stage in road] == [8, 29, 39, 51, 69]


# ---- in a pipe ----------------------------------------------------------------------------------


def test_in_a_pipe_it_is_the_map_as_text_and_asks_nothing(state: Path) -> None:
    page = plain(state, "--lang", "en")
    assert re.match(r"labrun +Linux \d+\.\d+ · cgroup \w+ · (not )?root · English\n", page)
    shown = rows(page)
    assert list(shown) == [1, 2, 3, 4, 5]
    assert re.match(r"› 1 chroot +○ not begun +a root directory of its own +8 of 69 axes", shown[1])
    for number in route.STAGES:
        assert ("to come" in shown[number]) == (f"stage{number}" not in BUILT)
    assert "Next  stage 1, from the beginning: “a root file system”\n      labrun stage1\n" in page
    assert not (state / "labrun").exists()


def test_it_says_the_same_whoever_asks_for_no_input(state: Path) -> None:
    assert plain(state, "--lang", "en") == plain(state, "--no-input", "--lang", "en")


def test_it_says_where_the_student_is(state: Path) -> None:
    know(state, *STEPS[:4])
    page = plain(state, "--lang", "en")
    assert f"◐ step 5/{len(STEPS)}" in rows(page)[1]
    assert f"labrun stage1 --from {STEPS[4]}\n" in page
    know(state, *STEPS)
    assert f"◐ {len(STEPS)} steps seen" in rows(plain(state, "--lang", "en"))[1]
    know(state, *STEPS, passed="reference")
    assert "● passed" in rows(plain(state, "--lang", "en"))[1]
    know(state, *STEPS, passed="reference own")
    assert "● yours passed" in rows(plain(state, "--lang", "en"))[1]


def test_it_is_chinese_in_chinese(state: Path) -> None:
    know(state, STEPS[0])
    page = plain(state, "--lang", "zh")
    assert f"◐ 第 2/{len(STEPS)} 步" in rows(page)[1]
    assert "还没开始" in rows(page)[5]
    # Control: nothing of it was left in English.
    assert not re.search(r"\b(step|stage|axes|Next|come)\b", page.replace("stage1", ""))
    assert page == plain(state, LC_ALL="zh_CN.UTF-8")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_page(state: Path, language: str, columns: int) -> None:
    know(state, *STEPS, passed="own")
    know(state, stage="stage2", passed="own")
    page = plain(state, "--lang", language, COLUMNS=str(columns))
    commands = [line for line in page.splitlines() if line.lstrip().startswith("labrun check")]
    others = [line for line in page.splitlines() if line not in commands]
    assert max(map(cell_len, others)) <= min(columns, 120)
    assert len(rows(page)) == 5


def test_an_output_that_knows_only_ascii_gets_words(state: Path) -> None:
    know(state, *STEPS, passed="reference")
    ended = run(
        [sys.executable, "-c", "from labs.cli import main; main()", "--lang", "zh"],
        environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "XDG_STATE_HOME": str(state)},
    )
    assert ended.returncode == 0, ended.stderr
    page = ended.stdout.decode("ascii")
    assert re.search(r"  1 chroot +passed +a root", page)
    assert "?" not in page


def test_a_damaged_file_is_a_line_and_the_map_is_there(state: Path) -> None:
    file = know(state, STEPS[0])
    file.write_text("{")
    ended = run([LABRUN, "--lang", "en"], environment={"XDG_STATE_HOME": str(state)})
    assert ended.returncode == 0
    assert ended.stderr.decode().count("\n") == 1
    assert f"labrun: your progress in {file} is damaged" in ended.stderr.decode()
    assert len(rows(ended.stdout.decode())) == 5
    assert file.read_text() == "{"


def test_an_ordinary_user_sees_it_too(state: Path) -> None:
    nowhere = Path("/tmp") / f"labrun-test-nothing-{os.getpid()}"
    page = plain(nowhere, "--lang", "en", user=ordinary_user())
    assert not nowhere.exists()
    assert "· not root ·" in page


def test_help_is_the_help_and_options_stand_behind_their_command(state: Path) -> None:
    assert "stage1" in plain(state, "--help")
    assert "Next" not in plain(state, "--help")
    for arguments in (["--lang", "en", "doctor"], ["--nonsense"], ["nonsense"]):
        assert run([LABRUN, *arguments]).returncode == 2


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    ended = run(["bash", "-c", f"set -o pipefail; {LABRUN} | head -1"])
    assert (ended.returncode, ended.stderr) == (0, b"")


# ---- at a terminal ------------------------------------------------------------------------------


def at(
    state: Path, rows: int = 24, columns: int = 80, language: str = "en", no_color: str = ""
) -> Terminal:
    """Return a terminal with the map in it."""
    more = {"XDG_STATE_HOME": str(state), "NO_COLOR": no_color}
    home = Terminal("--lang", language, rows=rows, columns=columns, environment=more)
    home.see(KEYS[language])
    return home


@pytest.mark.parametrize(("rows_", "columns"), SIZES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_map_is_one_page(state: Path, rows_: int, columns: int, language: str) -> None:
    know(state, *STEPS[:4])
    home = at(state, rows_, columns, language)
    shown = home.text()
    assert shown.startswith("labrun ")
    assert list(rows(shown)) == [1, 2, 3, 4, 5]
    assert {"en": "Enter go on", "zh": "Enter 继续"}[language] in shown
    assert {"en": "l 中文", "zh": "l 英文 English"}[language].replace(" ", "") in shown.replace(
        " ", ""
    )
    shown = home.press("?", {"en": "back to the map", "zh": "回到路线图"}[language])
    # The whole help is on the screen: its first line and the file.
    assert shown.startswith("`Enter`")
    assert "progress.json" in shown.replace("\n", "")
    home.press("\r", KEYS[language])
    home.child.send("q")
    assert home.end() == 0


def test_a_low_and_narrow_terminal_has_every_stage_and_every_key(state: Path) -> None:
    shown = at(state, rows=20, columns=40).text()
    assert list(rows(shown)) == [1, 2, 3, 4, 5]
    assert "Next" in shown
    assert "q quit" in shown


def test_a_number_chooses_a_stage_that_is_built_and_no_other(state: Path) -> None:
    home = at(state)
    last = int(BUILT[-1].removeprefix("stage"))
    shown = home.press(str(last), rf"› {last} ")
    assert "to come." not in shown
    if last < 5:
        shown = home.press(str(last + 1), rf"Stage {last + 1} is still to come\.")
        assert f"› {last} " in shown
    home.press("1", r"› 1 ")
    home.press("x", r"› 1 (.|\n)*q quit")
    home.child.send("q")
    assert home.end() == 0


def test_a_key_is_there_where_its_command_is(state: Path) -> None:
    home = at(state)
    listed = plain(state, "--help")
    for name in ("matrix", "exercise"):
        there = re.search(rf"^\W*{name}\b", listed, re.M) is not None
        assert there == (f"{name[0]} {name}" in home.text())
    # Control: a key that is there.
    assert "d doctor" in home.text()
    assert re.search(r"^\W*doctor\b", listed, re.M)
    home.child.send("q")
    assert home.end() == 0


def test_the_language_changes_and_what_is_started_speaks_it(state: Path) -> None:
    home = at(state)
    home.press("l", "q 退出")
    home.press("d", r"回到路线图")
    home.press("\r", "q 退出")
    home.press("l", "q quit")
    home.child.send("\x04")
    assert home.end() == 0


def test_without_colours_it_has_all_its_words(state: Path) -> None:
    know(state, STEPS[0])
    home = at(state, no_color="1")
    assert f"◐ step 2/{len(STEPS)}" in home.text()
    colours = {cell.fg for line in home.screen.buffer.values() for cell in line.values()}
    assert colours == {"default"}
    # Control: otherwise there are some.
    home = at(state)
    colours = {cell.fg for line in home.screen.buffer.values() for cell in line.values()}
    assert colours > {"default"}


def test_a_terminal_that_can_t_be_wiped_gets_the_text(state: Path) -> None:
    home = Terminal("--lang", "en", environment={"XDG_STATE_HOME": str(state), "TERM": "dumb"})
    assert home.end() == 0
    assert "labrun --help" in home.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(state: Path, number: int) -> None:
    home = at(state)
    home.child.kill(number)
    assert home.end() == 128 + number
    assert "Traceback" not in home.text()


@ROOT_ONLY
@MACHINE
def test_enter_goes_on_and_what_was_played_is_kept(state: Path) -> None:
    home = at(state)
    home.press("\r", "Enter begin")
    home.press("\r", r"1/\d+(.|\n)*look without one")
    # Asked, and not answered: that is no step played.
    home.press("q", r"1 chroot +○ not begun(.|\n)*q quit")
    home.press("\r", "Enter begin")
    home.press("\r", r"1/\d+(.|\n)*look without one")
    home.press("a", r"You said a(.|\n)*\? help")
    home.press("\r", r" 2/\d+(.|\n)*look without one")
    home.press("q", rf"◐ step 2/{len(STEPS)}(.|\n)*q quit")
    home.press("\r", r" 2/\d+(.|\n)*look without one")
    # What lies before is a key away.
    home.press("\x1b[D", r" 1/\d+(.|\n)*look without one")
    home.press("q", rf"--from {STEPS[1]}(.|\n)*q quit")
    home.child.send("q")
    assert home.end() == 0
    assert f"◐ step 2/{len(STEPS)}" in plain(state, "--lang", "en")


@pytest.mark.once
@ROOT_ONLY
@MACHINE
def test_whoever_begins_in_the_middle_gets_the_whole_table(state: Path) -> None:
    know(state, *STEPS[:-1])
    home = at(state, rows=40, columns=120)
    home.press("\r", "look without one")
    home.press("\r", r"\? help")
    shown = home.press("\r", r"where you stand(.|\n)*Enter end")
    assert re.search(r"net\.routes", shown)
    home.press("\r", rf"{len(STEPS)} steps seen(.|\n)*check stage1(.|\n)*q quit")
    home.child.send("q")
    assert home.end() == 0


@ROOT_ONLY
@MACHINE
def test_two_labruns_at_once_lose_nothing(state: Path) -> None:
    demos = [
        Terminal("stage1", step, "--lang", "en", environment={"XDG_STATE_HOME": str(state)})
        for step in ("pwd", "ip-route")
    ]
    for demo in demos:
        demo.see("look without one")
    for demo in demos:
        demo.press("a", r"You said a(.|\n)*\? help")
        demo.child.send("q")
    assert [demo.end() for demo in demos] == [0, 0]
    file = state / "labrun/progress.json"
    assert set(json.loads(file.read_text())["stages"]["stage1"]["steps"]) == {"pwd", "ip-route"}


@ROOT_ONLY
@MACHINE
@pytest.mark.parametrize(("sudo", "owner"), [({"SUDO_UID": str(NOBODY)}, NOBODY), ({}, 0)])
def test_what_is_played_behind_sudo_is_the_student_s(sudo: dict[str, str], owner: int) -> None:
    # Pytest's own temporary folders are closed to others.
    with tempfile.TemporaryDirectory(prefix="labrun-test-") as name:
        folder = Path(name)
        os.chown(folder, owner, owner)
        demo = Terminal(
            "stage1", "pwd", "--lang", "en", environment=sudo | {"XDG_STATE_HOME": name}
        )
        demo.see("look without one")
        demo.press("b", r"You said b(.|\n)*\? help")
        demo.child.send("q")
        assert demo.end() == 0
        made = [path.stat().st_uid for path in (folder / "labrun", *folder.glob("labrun/*"))]
        assert set(made) == {owner}
        assert len(made) > 1


@ROOT_ONLY
@MACHINE
def test_a_demo_goes_on_where_nothing_can_be_kept_and_says_so_at_its_end(state: Path) -> None:
    (state / "labrun").write_text("no folder")
    demo = Terminal("stage1", "pwd", "--lang", "en", environment={"XDG_STATE_HOME": str(state)})
    demo.see("look without one")
    demo.press("b", r"You said b(.|\n)*\? help")
    demo.child.send("q")
    assert demo.end() == 0
    assert "can't be kept" in demo.text()


@ROOT_ONLY
@MACHINE
def test_what_nobody_watches_is_no_step_of_a_student_s(state: Path) -> None:
    ended = run(
        [LABRUN, "stage1", "--from", STEPS[-1], "--no-input", "--json", "-"],
        environment={"XDG_STATE_HOME": str(state)},
    )
    assert ended.returncode == 0
    assert [row["id"] for row in json.loads(ended.stdout)["steps"]] == STEPS[-1:]
    assert not (state / "labrun").exists()


@pytest.mark.parametrize("arguments", [["--from", "nonsense"], ["pwd", "--from", "pwd"]])
def test_where_to_begin_is_one_step_that_there_is(arguments: list[str]) -> None:
    ended = run([LABRUN, "stage1", *arguments, "--no-input"])
    assert ended.returncode == 2
    assert ended.stderr.count(b"\n") == 1


@ROOT_ONLY
@MACHINE
@pytest.mark.parametrize(("sent", "status"), [("\x03", 130), (signal.SIGTERM, 143)])
def test_what_ends_the_demo_at_once_ends_the_map_and_leaves_nothing(
    state: Path, sent: str | signal.Signals, status: int
) -> None:
    home = at(state)
    home.press("\r", "Enter begin")
    home.press("\r", r"1/\d+(.|\n)*look without one")
    if isinstance(sent, str):
        home.child.send(sent)
    else:
        home.child.kill(sent)
    assert home.end() == status
    assert home.deserted()


@pytest.mark.once
@ROOT_ONLY
@MACHINE
def test_a_check_that_passes_is_seen_on_the_map(state: Path) -> None:
    know(state, *STEPS)
    home = at(state)
    home.press("\r", "Enter back to the map")
    home.press("\r", r"1 chroot +● passed(.|\n)*q quit")
    home.child.send("q")
    assert home.end() == 0


@pytest.fixture(autouse=True)
def _language() -> Iterator[None]:
    before = texts.language()
    yield
    texts.speak(before)
