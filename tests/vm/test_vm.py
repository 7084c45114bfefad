"""`labrun vm`: a machine that is started, used, reset and shut down; the oldest kernel."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks.model import axes
from labs.errors import CANNOT, USAGE
from labs.stages import BUILT
from labs.vm.machine import Machine
from tests.running import LABRUN, run

Vm = Callable[..., subprocess.CompletedProcess[bytes]]

pytestmark = [pytest.mark.timeout(1800)]


@pytest.fixture
def nowhere(tmp_path: Path) -> Vm:
    """Return `labrun vm` where there is no machine."""
    place = {"LABRUN_VM": str(tmp_path / "machine"), "LANG": "C.UTF-8"}
    return lambda *words: run([LABRUN, "vm", *words], environment=place)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sideways"], "sideways"),
        (["run"], "run what?"),
        (["up", "--", "ls"], "only run takes a command"),
        (["down", "--kernel", "oldest"], "with up or reset"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(nowhere: Vm, words: list[str], says: str) -> None:
    ended = nowhere(*words)
    assert (ended.returncode, ended.stdout) == (USAGE, b"")
    assert says in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


@pytest.mark.vm
@pytest.mark.parametrize("words", [["run", "--", "true"], ["ssh"]])
def test_a_machine_that_is_not_running_is_not_started_unasked(
    nowhere: Vm, words: list[str]
) -> None:
    ended = nowhere(*words)
    assert (ended.returncode, ended.stdout) == (CANNOT, b"")
    assert b"labrun vm up" in ended.stderr


@pytest.mark.vm
def test_what_is_off_already_is_off(nowhere: Vm) -> None:
    assert nowhere("down").returncode == 0


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """Return `labrun vm` with a machine that was started with the oldest kernel."""
    folder = tmp_path_factory.mktemp("vm")
    place = {"LABRUN_VM": str(folder), "LANG": "C.UTF-8"}

    def vm(*words: str) -> subprocess.CompletedProcess[bytes]:
        return run([LABRUN, "vm", *words], environment=place)

    try:
        ended = vm("up", "--kernel", "oldest")
        assert ended.returncode == 0, ended.stderr.decode()
        yield vm
    finally:
        Machine(folder).unplug()


@pytest.mark.vm
def test_its_kernel_is_the_oldest_that_is_promised(vm: Vm) -> None:
    assert vm("run", "--", "uname", "-r").stdout.startswith(b"6.1.")


@pytest.mark.vm
@pytest.mark.parametrize("stage", BUILT)
def test_each_stage_passes_its_checks_on_the_oldest_kernel(vm: Vm, stage: str) -> None:
    # Those that it is the first to pass; that the last one passes all is asked on a newer kernel.
    own = ",".join(axis.id for axis in axes().values() if f"stage{axis.stage}" == stage)
    words = ("sudo", "labrun", "check", stage, "--only", own, "--no-input", "--json", "-")
    ended = vm("run", "--", *words)
    report = json.loads(ended.stdout)
    assert ",".join(row["id"] for row in report["checks"]) == own
    assert [row for row in report["checks"] if row["result"] != "pass"] == []
    assert re.match(r"6\.1\.", report["host"]["kernel"])
    assert ended.returncode == 0


@pytest.mark.vm
@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -KILL $$", 137), ("exit 255", 255)]
)
def test_the_exit_status_is_the_command_s(vm: Vm, script: str, status: int) -> None:
    assert vm("run", "--", "sh", "-c", script).returncode == status


@pytest.mark.vm
def test_arguments_and_output_pass_through_as_they_are(vm: Vm) -> None:
    ended = vm("run", "--", "printf", "%s|", "two words", "$HOME", 'a"b', "*", "--", "容器")
    assert ended.stdout == 'two words|$HOME|a"b|*|--|容器|'.encode()
    assert ended.returncode == 0


@pytest.mark.vm
def test_reset_brings_the_first_moment_back(vm: Vm) -> None:
    assert vm("run", "--", "sh", "-c", "echo mine >mine; sudo rm -r /opt/labrun").returncode == 0
    assert vm("run", "--", "labrun", "--help").returncode != 0
    assert vm("reset").returncode == 0
    assert vm("run", "--", "labrun", "--help").returncode == 0
    assert vm("run", "--", "test", "-e", "mine").returncode == 1
    told = vm("run", "--", "date", "+%s").stdout
    now = subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout
    assert abs(int(told) - int(now)) < 120


@pytest.mark.vm
def test_shutting_down_keeps_what_was_changed(vm: Vm) -> None:
    assert vm("run", "--", "sh", "-c", "echo kept >kept").returncode == 0
    assert vm("down").returncode == 0
    assert vm("run", "--", "true").returncode == CANNOT
    assert vm("up").returncode == 0
    assert vm("run", "--", "cat", "kept").stdout == b"kept\n"
