"""`labrun diff`: the difference is the two files', and each axis is closed by one room."""

import ast
import difflib
import re
import subprocess
from collections import Counter

import pytest

from checks.model import axes
from labs.diff import STAGES, rooms, summary
from labs.errors import USAGE
from labs.stages import BUILT
from tests.checks.mutation import mutants
from tests.running import LABRUN, run

STARTERS = {"__init__.py", "cli.py", "runtime.py"}
"""What every stage has: the story itself, its command, and the package."""


def diff(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return run([LABRUN, "diff", *arguments], environment={"COLUMNS": "80"})


def test_in_a_pipe_it_is_a_unified_diff_of_the_two_files() -> None:
    ended = diff("1", "2", "--lang", "en")
    assert (ended.returncode, ended.stderr) == (0, b"")
    shown = ended.stdout.decode()
    files = [next(STAGES.glob(f"stage{number}_*/runtime.py")) for number in (1, 2)]
    old, new = (file.read_text(encoding="utf-8").splitlines() for file in files)
    first, last = (f"stages/{file.relative_to(STAGES)}" for file in files)
    expected = "\n".join(difflib.unified_diff(old, new, first, last, lineterm=""))
    assert shown.startswith(f"{expected}\n\n")
    assert "\x1b" not in shown


@pytest.mark.parametrize("language", ["en", "zh"])
def test_below_it_stands_each_room_with_what_it_closes(language: str) -> None:
    shown = diff("stage1", "stage2", "--lang", language).stdout.decode()
    below = shown[shown.index("\n\n") :]
    for room, closes in rooms()["stage2"].items():
        assert f"stages/{room}" in below
        assert all(re.search(rf"(?<!\S){axis}(?!\S)", below) for axis in closes)
    assert "stages/stage1_chroot" not in below
    assert ("新增的模块" in shown) == (language == "zh")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("1", "9"), "there is no stage 9"),
        (("0", "1"), "there is no stage 0"),
        (("x", "2"), "there is no stage x"),
        (("2", "1"), "must come after"),
        (("1", "1"), "must come after"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    arguments: tuple[str, str], reason: str
) -> None:
    ended = diff(*arguments, "--lang", "en")
    assert (ended.returncode, ended.stdout) == (USAGE, b"")
    assert len(ended.stderr.decode().splitlines()) == 1
    assert reason in ended.stderr.decode()


@pytest.mark.parametrize("stage", BUILT[1:])
def test_every_axis_that_a_stage_is_first_to_hold_is_closed_by_one_room(stage: str) -> None:
    named = Counter(axis for closes in rooms()[stage].values() for axis in closes)
    first = [axis.id for axis in axes().values() if axis.stage == int(stage.removeprefix("stage"))]
    assert named == Counter(first)


def test_every_room_is_there_says_what_it_is_and_is_listed() -> None:
    listed = {room for each in rooms().values() for room in each}
    assert all(summary(room) for room in listed)
    there = {
        str(file.relative_to(STAGES))
        for stage in BUILT[1:]
        for folder in STAGES.glob(f"{stage}_*")
        for file in folder.rglob("*.py")
        if file.name not in STARTERS
    }
    assert {room for room in listed if room.startswith("stage")} == there


def imported(room: str) -> set[str]:
    """Return the modules of stages/ that a room imports."""
    tree = ast.parse((STAGES / room).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}" for node in nodes} | {
        f"{node.module}.{alias.name}" for node in nodes for alias in node.names
    }


def test_a_shared_room_is_new_with_the_stage_that_first_imports_it() -> None:
    for stage, listed in rooms().items():
        for room in (room for room in listed if not room.startswith("stage")):
            module = f"stages.{room.removesuffix('.py')}"
            users = [
                each
                for each in BUILT
                for file in STAGES.glob(f"{each}_*/**/*.py")
                if module in imported(str(file.relative_to(STAGES)))
            ]
            assert users[0] == stage


def test_a_room_without_its_piece_leaks_on_an_axis_that_it_is_said_to_close() -> None:
    """Mutants break one room each: what catches them is what the room closes, or needs it."""
    for mutant in mutants():
        changed = {change["file"].removeprefix("stages/") for change in mutant.changes}
        stage = rooms().get(mutant.stage, {})
        closes = {axis for room in changed for axis in stage.get(room, ())}
        if closes and len(changed) == 1:
            assert closes & mutant.caught_by, mutant.name
