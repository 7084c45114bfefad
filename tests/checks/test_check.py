"""`labrun check`: its report, its exit statuses, and what it leaves: nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from checks import ledger
from checks.bench import Bench
from checks.model import axes
from checks.probes import probes
from checks.probes.cgroup import JOINS
from tests.running import (
    BIN,
    LABRUN,
    assert_unchanged,
    cannot,
    check,
    machine,
    ordinary_user,
    results,
    run,
)

STAGE1 = {axis.id for axis in axes().values() if axis.stage == 1}
STAGE2 = {axis.id for axis in axes().values() if axis.stage == 2}
STAGE3 = {axis.id for axis in axes().values() if axis.stage == 3}


@pytest.mark.usefixtures("as_root")
def test_stage_1_passes_and_its_report_has_the_contracts_shape(rootfs: Path, stage1: str) -> None:
    before = machine()
    status, report = check(stage1, "stage1", "--root", str(rootfs))
    assert status == 0
    assert_unchanged(before)
    assert results(report, "pass") == STAGE1
    assert list(report) == ["schema", "stages", "runtime", "host", "summary", "checks"]
    assert (report["schema"], report["stages"], report["runtime"]) == (1, ["stage1"], stage1)
    assert set(report["host"]) == {"kernel", "arch", "cgroup", "root"}
    assert report["summary"] | {"seconds": 0} == {
        "passed": len(STAGE1),
        "failed": 0,
        "cannot": 0,
        "seconds": 0,
    }
    for row in report["checks"]:
        assert list(row) == [
            *("id", "stage", "title", "result", "points", "verdict", "evidence", "hint"),
            *("see", "seconds"),
        ]
        assert row["evidence"]
        assert row["verdict"] == axes()[row["id"]].required


@pytest.mark.usefixtures("as_root", "rootfs")
def test_stage_2_passes_and_the_rows_with_an_option_are_asked_with_it() -> None:
    before = machine()
    status, report = check(str(BIN / "stage2"), "stage2")
    assert [row for row in report["checks"] if row["result"] != "pass"] == []
    assert (status, results(report, "pass")) == (0, STAGE1 | STAGE2)
    assert_unchanged(before)


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_before_stage_2_every_one_of_its_rows_leaks(stage1: str) -> None:
    _, report = check(stage1, "--only", ",".join(sorted(STAGE2)))
    assert {row["id"] for row in report["checks"] if row["verdict"] == "leaks"} == STAGE2


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_stage_3_passes() -> None:
    before = machine()
    status, report = check(str(BIN / "stage3"), "stage3")
    assert [row for row in report["checks"] if row["result"] != "pass"] == []
    assert (status, results(report, "pass")) == (0, STAGE1 | STAGE2 | STAGE3)
    assert_unchanged(before)


@pytest.mark.usefixtures("as_root", "rootfs")
def test_before_stage_3_nothing_is_limited() -> None:
    _, report = check(str(BIN / "stage2"), "--only", ",".join(sorted(STAGE3)))
    assert {row["id"] for row in report["checks"] if row["verdict"] == "unlimited"} == STAGE3


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_a_command_is_in_its_groups_from_the_first_instruction_200_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(JOINS, "200")
    status, report = check(str(BIN / "stage3"), "--only", "cgroup.join")
    assert status == 0, report["checks"]


@pytest.mark.usefixtures("as_root", "rootfs")
def test_what_stage_1_leaves_open_fails_when_it_is_asked_for(stage1: str) -> None:
    status, report = check(stage1, "--only", "net.routes,fs.root")
    assert status == 1
    assert (results(report, "fail"), results(report, "pass")) == ({"net.routes"}, {"fs.root"})
    leak = report["checks"][0]
    assert leak["verdict"] == "leaks"
    assert "198.51.100." in leak["evidence"][0]
    assert leak["hint"]


def test_every_axis_has_a_probe() -> None:
    assert set(probes()) == set(axes())


@pytest.mark.usefixtures("as_root", "rootfs")
def test_what_cannot_be_told_is_no_pass() -> None:
    status, report = check("@host", "--only", "host.failclosed,run.streams")
    assert status == 3
    assert results(report, "cannot") == {"host.failclosed"}
    assert results(report, "pass") == {"run.streams"}
    (row,) = [row for row in report["checks"] if row["result"] == "cannot"]
    assert row["verdict"] == "unknown"


@pytest.mark.usefixtures("as_root", "rootfs")
def test_an_axis_that_is_asked_for_twice_is_checked_once(stage1: str) -> None:
    status, report = check(stage1, "--only", "fs.cwd, fs.cwd")
    assert (status, [row["id"] for row in report["checks"]]) == (0, ["fs.cwd"])


DECOY = """#!/bin/sh
# Runs the command on the host, and beside it a twin with the same arguments, well contained.
shift
root=$1
shift
chroot "$root" "$@" <&0 >/dev/null 2>&1 &
exec "$@"
"""


@pytest.mark.usefixtures("as_root", "rootfs")
def test_a_decoy_beside_the_command_is_no_pass(tmp_path: Path) -> None:
    runtime = tmp_path / "decoy"
    runtime.write_text(DECOY, encoding="utf-8")
    runtime.chmod(0o755)
    status, report = check(str(runtime), "--only", "fs.root,fs.cwd")
    assert status == 1
    assert results(report, "fail") == {"fs.root", "fs.cwd"}


@pytest.mark.usefixtures("as_root", "rootfs")
def test_junit_has_one_case_a_check(stage1: str, tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    ended = run(
        [LABRUN, "check", "--runtime", stage1, "--only", "fs.cwd,net.routes", "--junit", str(file)]
    )
    assert ended.returncode == 1
    cases = ElementTree.parse(file).getroot().iter("testcase")
    assert {case.get("name"): len(case.findall("failure")) for case in cases} == {
        "test_axis[fs.cwd]": 0,
        "test_axis[net.routes]": 1,
    }


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_one_junit_file_holds_a_suite_for_each_stage(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    run([LABRUN, "check", "stage1", "stage2", "--runtime", "@host", "--junit", str(file)])
    suites = ElementTree.parse(file).getroot().findall("testsuite")
    assert {suite.get("name"): len(suite.findall("testcase")) for suite in suites} == {
        "stage1": len(STAGE1),
        "stage2": len(STAGE1 | STAGE2),
    }


def test_an_ordinary_user_gets_cannot_and_never_a_pass(rootfs: Path) -> None:
    user = ordinary_user()
    line = [LABRUN, "check", "stage1", "--no-input", "--json", "-", "--root", str(rootfs)]
    ended = run(line, user=user)
    assert ended.returncode == 3
    report = json.loads(ended.stdout)
    assert results(report, "cannot") == STAGE1
    assert report["summary"]["passed"] == 0
    assert report["host"]["root"] is False


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (["stage9"], 2, "stage9"),
        (["stage1", "--only", "no.such"], 2, "no.such"),
        (["stage1", "--runtime", "./no-such-program"], 2, "./no-such-program"),
        (["stage1", "--runtime", "@nobody"], 2, "@nobody"),
        (["stage1", "--runtime", '"'], 2, "--runtime"),
        (["stage1", "--runtime", ""], 2, "--runtime"),
        (["stage1", "--root", "/proc"], 1, "/bin/sh"),
        (["stage1", "--json", "/no/such/folder/x"], 2, "/no/such/folder/x"),
        (["stage1", "--bogus"], 2, "--bogus"),
    ],
)
def test_bad_input_is_one_clear_answer(arguments: list[str], status: int, what: str) -> None:
    ended = run([LABRUN, "check", "--no-input", *arguments])
    assert (ended.returncode, ended.stdout) == (status, b"")
    assert what in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_and_leaves_nothing(name: str, stage1: str) -> None:
    before = machine()
    process = subprocess.Popen([LABRUN, "check", "stage1"], stdout=subprocess.DEVNULL)
    _wait_for_a_bench_of(process.pid)
    process.send_signal(getattr(signal, name))
    assert process.wait(20) == 128 + getattr(signal, name)
    assert_unchanged(before)


@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.xdist_group("machine")
def test_what_sigkill_leaves_is_in_the_ledger_and_clean_removes_it() -> None:
    before = machine()
    process = subprocess.Popen([LABRUN, "check", "stage1"], stdout=subprocess.DEVNULL)
    _wait_for_a_bench_of(process.pid)
    process.kill()
    process.wait()
    left = _groups_of(process.pid)
    assert left
    dry = run([LABRUN, "clean", "--dry-run"])
    assert all(str(path).encode() in dry.stdout for path in left)
    assert all(path.exists() for path in left)
    _clean_up_after(process.pid)
    assert not any(path.exists() for path in left)
    assert_unchanged(before)


def _wait_for_a_bench_of(pid: int) -> None:
    """Wait until a run is in the middle of its work: it has made a cgroup."""
    for _ in range(600):
        if _groups_of(pid):
            return
        time.sleep(0.05)  # a cgroup tells nobody that it was made
    raise AssertionError("labrun check has made no bench in half a minute")


def _groups_of(pid: int) -> list[Path]:
    """Return the cgroups that a run has in its ledger, and that are there."""
    for file in ledger.FOLDER.glob(f"{pid}-*.json"):
        entries = json.loads(file.read_text(encoding="utf-8") or "[]")
        return [Path(p) for kind, p in entries if kind == "cgroup" and os.path.exists(p)]
    return []


def _clean_up_after(pid: int) -> None:
    """Run `labrun clean` until a killed run's last process is gone and its page with it."""
    for _ in range(100):
        run([LABRUN, "clean", "--yes"])
        if not list(ledger.FOLDER.glob(f"{pid}-*.json")):
            return
        time.sleep(0.1)
    raise AssertionError("labrun clean does not remove what the killed run left")


A_BENCH = """
import os, sys
from pathlib import Path
from checks.bench import Bench
with Bench(Path(sys.argv[1])) as bench:
    folder = bench.scratch
    assert os.path.isdir(bench.path(folder))
assert not os.path.lexists(folder), folder
"""


@pytest.mark.usefixtures("as_root")
def test_a_tmp_in_which_something_is_mounted_gets_no_folder_of_the_bench(
    tmp_path: Path, rootfs: Path
) -> None:
    script = 'mount -t tmpfs below "$1" && shift && exec "$@"'
    bench = [sys.executable, "-c", A_BENCH, str(rootfs)]
    ended = run(["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), *bench])
    assert ended.returncode == 0, ended.stderr.decode()


@pytest.mark.usefixtures("as_root")
@pytest.mark.xdist_group("machine")
def test_clean_leaves_a_group_that_a_judge_is_to_find(rootfs: Path) -> None:
    name = "labrun-run-0a1b2c3d"
    with Bench(rootfs) as bench:
        (top, *_) = [Path(p) for p in _groups_of(os.getpid())]
        ours, elsewhere = top / name, top.parent / name
        ours.mkdir()
        elsewhere.mkdir()
        try:
            assert name in "".join(bench.groups())
            said = run([LABRUN, "clean", "--dry-run"]).stdout.decode().splitlines()
        finally:
            ours.rmdir()
            # The control: beside the bench it is a killed runtime's.
            elsewhere.rmdir()
    assert [line.rpartition(" ")[2] for line in said if name in line] == [str(elsewhere)]


@pytest.mark.usefixtures("as_root")
def test_on_a_busy_machine_a_bench_has_the_cpu_time_to_reach_a_limit(rootfs: Path) -> None:
    """With a dozen loops beside it that each had as much, a quota of 0.25 was never used up."""
    usual = {"cpu.shares": 1024, "cpu.weight": 100}
    with Bench(rootfs):
        given = {
            file: int((group / file).read_text(encoding="ascii"))
            for group in _groups_of(os.getpid())
            for file in usual
            if (group / file).exists()
        }
    if not given:
        cannot("no control of the CPU is handed down to a bench here")
    assert given == {file: 10 * usual[file] for file in given}


@pytest.mark.usefixtures("as_root")
def test_a_group_that_went_by_itself_is_no_failure_of_clean_and_one_in_use_is(rootfs: Path) -> None:
    with Bench(rootfs):
        procs = [group / "cgroup.procs" for group in _groups_of(os.getpid())]
        used = next(file.parent for file in procs if file.read_bytes())
        with pytest.raises(OSError, match="busy"):
            ledger.remove_group(used)
    # Now it is gone.
    ledger.remove_group(used)
