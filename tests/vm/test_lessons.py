"""What a student types over ssh in that machine: every demo and every check there is."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from checks.model import axes
from checks.probes.cgroup import JOINS
from labs.stages import BUILT, DEMOS
from tests.terminal import Terminal
from tests.vm.guest import IN_THE_MATRIX, PATIENCE, Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]
A_CHECK = 1500
"""Seconds for all those checks."""


class Login(Terminal):
    """A terminal with a login over ssh in it."""

    patience = PATIENCE

    def __init__(self, guest: Guest) -> None:
        command, *arguments = guest.ssh(terminal=True)
        super().__init__(*arguments, command=command, folder=guest.folder)


@pytest.fixture
def login(guest: Guest) -> Iterator[Login]:
    terminal = Login(guest)
    yield terminal
    terminal.child.close(force=True)


def test_a_login_says_what_to_type(login: Login) -> None:
    shown = login.see(r"student@labrun:~\$")
    assert "labrun stage1" in shown
    assert "从 chroot 到容器" in shown


@pytest.mark.parametrize("stage", DEMOS)
def test_a_student_goes_through_it_and_sees_each_verdict_that_is_expected(
    login: Login, guest: Guest, stage: str
) -> None:
    login.see(r"student@labrun:~\$")
    login.press(f"labrun {stage} --lang en --json {stage}.json\r", "Enter begin")
    shown = login.press("\r", r" 1/(\d+)(.|\n)*look without one")
    steps = int(re.findall(r" 1/(\d+)", shown)[0])
    login.press("c", rf" 1/{steps}(.|\n)*You said c(.|\n)*\? help")
    for number in range(2, steps + 1):
        login.press("\r", rf" {number}/{steps}(.|\n)*look without one")
        login.press("c", rf" {number}/{steps}(.|\n)*You said c(.|\n)*\? help")
    login.press("\r", r"where you stand(.|\n)*q quit")
    login.press("q", r"student@labrun:~\$")
    _, told = guest.json("cat", f"{stage}.json")
    assert len(told["steps"]) == steps
    assert {step["axis"] for step in told["steps"] if step["verdict"] != step["expected"]} == set()


# The earlier stages are in test_there, and test_vm has each of them judged on the oldest kernel.
def test_the_last_stage_passes_every_check_that_is_not_in_the_matrix(guest: Guest) -> None:
    others = ",".join(id_ for id_ in axes() if id_ not in IN_THE_MATRIX)
    words = ["labrun", "check", BUILT[-1], "--only", others, "--no-input", "--json", "-"]
    status, report = guest.json("sudo", "env", f"{JOINS}=10", *words, patience=A_CHECK)
    assert report["host"]["cgroup"] == "v2"
    assert [row for row in report["checks"] if row["result"] != "pass"] == []
    assert ",".join(row["id"] for row in report["checks"]) == others
    assert status == 0


def test_what_an_ordinary_user_may_do_is_done_there(guest: Guest) -> None:
    """The project's own tests of it, by the student and, where that takes a judge, by root."""
    files = "tests/stages/test_stage1_unprivileged.py tests/stages/test_stage2_unprivileged.py"
    said = guest.shell(f"cd labrun && labrun test -- -q -n 0 -p no:cacheprovider {files}")
    assert re.search(r"(?m)^(?:=+ )?\d+ passed", said), said
    assert " skipped" not in said
    judged = "labrun test -- -q -n 0 tests/checks/test_rootless.py"
    said = guest.shell(f"cd labrun && sudo {judged}")
    assert re.search(r"(?m)^(?:=+ )?\d+ passed", said), said
    assert " skipped" not in said


def test_the_json_of_a_demo_has_both_sides(guest: Guest) -> None:
    _, told = guest.json("labrun", "stage1", "ip-route", "--no-input", "--json", "-")
    (step,) = told["steps"]
    sides: list[Any] = [step["host"]["stdout"], step["container"]["stdout"]]
    assert sides[0] == sides[1], json.dumps(step)
    assert "default via" in sides[0]
