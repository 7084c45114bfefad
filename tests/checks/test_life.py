"""The checks of a container's own life: the reference keeps them, and a make-believe doesn't."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.model import axes
from tests.running import BIN, assert_unchanged, check, machine, results

pytestmark = pytest.mark.usefixtures("as_root", "rootfs")

STAGE5 = {axis.id for axis in axes().values() if axis.stage == 5}
LIFE = {axis for axis in STAGE5 if axis.startswith("run.")}

Cheater = Callable[[str], str]


@pytest.fixture
def cheater(tmp_path: Path) -> Cheater:
    """Return what makes a runtime of a shell script; stage 5 is at hand in it."""

    def make(script: str) -> str:
        file = tmp_path / "cheater"
        stage5 = shlex.quote(str(BIN / "stage5"))
        file.write_text(f"#!/bin/sh\nstage5={stage5}\n{script}", encoding="utf-8")
        file.chmod(0o755)
        return str(file)

    return make


def evidence(command: str, axis: str) -> tuple[str, str]:
    """Return the verdict on one axis, and all that was seen."""
    _, report = check(command, "--only", axis)
    (row,) = report["checks"]
    return row["verdict"], "\n".join(row["evidence"])


@pytest.mark.xdist_group("machine")
def test_stage_5_keeps_all_that_is_its_own() -> None:
    before = machine()
    status, report = check(str(BIN / "stage5"), "--only", ",".join(sorted(STAGE5)))
    assert [row for row in report["checks"] if row["result"] != "pass"] == []
    assert (status, results(report, "pass")) == (0, STAGE5)
    assert_unchanged(before)


@pytest.mark.once
def test_stage_5_keeps_what_the_stages_before_it_promise() -> None:
    earlier = [axis.id for axis in axes().values() if axis.stage < 5]
    _, report = check(str(BIN / "stage5"), "--only", ",".join(earlier))
    assert [row for row in report["checks"] if row["result"] != "pass"] == []


@pytest.mark.parametrize("stage", ["stage1", "stage4"])
def test_before_stage_5_no_container_lives_by_itself(stage: str) -> None:
    status, report = check(str(BIN / stage), "--only", ",".join(sorted(LIFE)))
    assert {row["id"]: row["verdict"] for row in report["checks"]} == dict.fromkeys(LIFE, "broken")
    assert all("status 2" in row["evidence"][0] for row in report["checks"])
    assert status == 1


@pytest.mark.once
def test_who_nods_to_every_command_keeps_nothing(cheater: Cheater) -> None:
    """It begins a container as it should, and exits with 0 whatever is asked of it then."""
    command = cheater('[ "$1" = run ] || exit 0\nexec "$stage5" "$@"\n')
    before = machine()
    _, report = check(command, "--only", ",".join(sorted(LIFE)))
    # What it didn't remove went all the same.
    assert_unchanged(before)
    assert {row["id"]: row["verdict"] for row in report["checks"]} == dict.fromkeys(LIFE, "broken")


NOTHING = "echo 0123456789ab\n"
STAYS = (
    'verb=$1\nshift\n[ "$verb" = run ] || exec "$stage5" "$verb" "$@"\n'
    '[ "$1" != --detach ] || shift\nexec "$stage5" run "$@"\n'
)
WRITES_MORE = '"$stage5" "$@" || exit\n[ "$1" != logs ] || echo "and so on"\n'


@pytest.mark.once
@pytest.mark.parametrize(
    ("script", "axis", "seen"),
    [
        (NOTHING, "run.detach", "no process"),
        (STAYS, "run.detach", "does not come back"),
        (WRITES_MORE, "run.logs", "and so on"),
    ],
    ids=["an ID of nothing", "stays in the foreground", "logs what nobody wrote"],
)
def test_make_believe_is_found_out(cheater: Cheater, script: str, axis: str, seen: str) -> None:
    verdict, said = evidence(cheater(script), axis)
    assert verdict == "broken"
    assert seen in said


def test_a_second_command_on_the_host_is_seen_to_be_there(cheater: Cheater) -> None:
    command = cheater(
        '[ "$1" = exec ] || exec "$stage5" "$@"\nshift\n[ "$1" != --interactive ] || shift\n'
        'shift\nexec "$@"\n'
    )
    verdict, said = evidence(command, "run.exec")
    assert verdict == "broken"
    for what in ("pid:[", "net:[", "another root", "control group", "CapBnd", "NoNewPrivs"):
        assert what in said


def test_what_is_made_up_is_untrue(cheater: Cheater) -> None:
    """It tells of another process, and of an address that nobody has."""
    command = cheater(
        '[ "$1" = inspect ] || exec "$stage5" "$@"\n'
        '"$stage5" "$@" | sed \'s/"Pid": [1-9][0-9]*/"Pid": 1/;'
        's/"IPAddress": "[0-9]*[.]/"IPAddress": "11./\'\n'
    )
    verdict, said = evidence(command, "run.inspect")
    assert verdict == "broken"
    assert "State.Pid" in said
    assert "IPAddress" in said
