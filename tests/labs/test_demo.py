"""`labrun stageN`, played for real: what it measures, what it says, what it leaves.

What is true of every demo is tried with stage 1's, and what a stage adds with its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from labs.demo.script import load
from labs.errors import CANNOT, FAILED, USAGE
from labs.stages import DEMOS, reference
from tests.running import LABRUN, groups, ordinary_user, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root"),
    pytest.mark.xdist_group("machine"),
]

ESCAPE_CODES = re.compile(r"\x1b")


def demo(
    *arguments: str, stage: str = "stage1", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return run([LABRUN, stage, *arguments], environment=environment)


def measured(
    *arguments: str, inside: tuple[str, ...] = (), stage: str = "stage1"
) -> tuple[int, dict[str, Any]]:
    """Return exit status and report of a run; `inside` is a command that starts it."""
    ended = run([*inside, LABRUN, stage, *arguments, "--json", "-"])
    assert ended.stdout, ended.stderr.decode()
    report: dict[str, Any] = json.loads(ended.stdout)
    return ended.returncode, report


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    status, report = measured("--no-input")
    assert status == 0
    return report


@pytest.fixture(scope="module")
def second() -> dict[str, Any]:
    """Return the report of stage 2."""
    status, report = measured("--no-input", stage="stage2")
    assert status == 0
    return report


@pytest.fixture(scope="module")
def third() -> dict[str, Any]:
    """Return the report of stage 3."""
    status, report = measured("--no-input", stage="stage3")
    assert status == 0, [row["evidence"] for row in report["steps"]]
    return report


@pytest.fixture(scope="module")
def page() -> str:
    ended = demo("--no-input", "--lang", "en", COLUMNS="80")
    assert ended.returncode == 0
    assert ended.stderr == b""
    return ended.stdout.decode()


def step(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in report["steps"] if row["id"] == name)


@pytest.mark.once
@pytest.mark.parametrize("stage", ["whole", "second", "third"])
def test_the_report_is_the_contracts(stage: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(stage)
    assert report["schema"] == 1
    assert report["stage"] == {"whole": "stage1", "second": "stage2", "third": "stage3"}[stage]
    assert [row["id"] for row in report["steps"]] == [
        step.id for step in load(report["stage"]).steps
    ]
    for row in report["steps"]:
        keys = "id axis command host container verdict expected evidence"
        assert list(row)[:8] == keys.split()
        # Only what the contract's form has no place for comes behind it.
        assert set(list(row)[8:]) <= {"options", "beside", "namespaces"}
        assert row["verdict"] == row["expected"]
        assert row["evidence"]
        for side in ("host", "container"):
            assert list(row[side])[:3] == ["stdout", "stderr", "status"]
            assert set(list(row[side])[3:]) <= {"series"}


def test_inside_the_root_is_another(whole: dict[str, Any], rootfs: Path) -> None:
    pwd = step(whole, "pwd")
    assert pwd["host"]["stdout"] == f"{rootfs}\n"
    assert pwd["container"]["stdout"] == "/\n"
    assert pwd["verdict"] == "isolated"
    assert (step(whole, "ls")["container"]["status"], step(whole, "ls")["axis"]) == (127, None)
    listed = step(whole, "bin-ls")["container"]["stdout"].split()
    assert {"bin", "dev", "etc", "proc", "usr"} <= set(listed)
    assert listed == step(whole, "bin-ls")["host"]["stdout"].split()


def test_inside_the_rest_is_the_hosts(whole: dict[str, Any]) -> None:
    assert (
        step(whole, "hostname")["container"]["stdout"] == step(whole, "hostname")["host"]["stdout"]
    )
    canaries = re.findall(r"canary-[0-9a-f]{12}", step(whole, "ps")["host"]["stdout"])
    assert set(canaries) & set(step(whole, "ps")["container"]["stdout"].split())
    assert "could be killed" in step(whole, "id")["container"]["stdout"]
    secret = step(whole, "escape")["host"]["stdout"].strip()
    assert secret.startswith("secret-")
    assert secret in step(whole, "escape")["container"]["stdout"]


def test_the_hosts_default_route_is_inside() -> None:
    rows = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    if not any(row.split()[1] == "00000000" for row in rows):
        pytest.skip("cannot: this machine has no default route")
    assert_default_route(measured("ip-route"))


def test_the_default_route_of_a_network_made_just_now_is_inside(rootfs: Path) -> None:
    ip = f"{rootfs}/bin/busybox ip"
    script = f'{ip} link set lo up && {ip} route add default dev lo && exec "$@"'
    result = measured("ip-route", inside=("unshare", "--net", "sh", "-c", script, "sh"))
    assert_default_route(result)
    assert "default dev lo" in step(result[1], "ip-route")["container"]["stdout"]


def assert_default_route(result: tuple[int, dict[str, Any]]) -> None:
    status, report = result
    assert status == 0
    (row,) = report["steps"]
    assert row["command"] == ["/bin/ip", "route"]
    assert (row["axis"], row["verdict"], row["expected"]) == ("net.routes", "leaks", "leaks")
    default = [line for line in row["host"]["stdout"].splitlines() if line.startswith("default")]
    assert default
    assert default[0] in row["container"]["stdout"].splitlines()
    assert "default" in row["evidence"][0]


def test_each_step_of_stage2_adds_the_namespaces_that_it_says(second: dict[str, Any]) -> None:
    usual = "pid,net,mnt,ipc,uts"
    for row in second["steps"]:
        words = [*row.get("options", []), "--namespaces", usual]
        asked = words[words.index("--namespaces") + 1].split(",")
        new = {
            kind for kind, link in row["namespaces"].items() if link["host"] != link["container"]
        }
        assert new == set(asked), row["id"]
    assert len(step(second, "shared")["namespaces"]) == 8


def test_stage2_closes_what_stage1_leaves_open(second: dict[str, Any]) -> None:
    for name in ("uts", "net", "ipc"):
        row = step(second, name)
        (before, *_) = row["beside"]
        assert before["stage"] == "stage1"
        assert before["stdout"] == row["host"]["stdout"]
        assert before["stdout"] != row["container"]["stdout"]
    assert "default via" in step(second, "net")["container"]["stdout"]
    assert step(second, "net")["beside"][1]["stdout"] == ""
    assert step(second, "uts")["container"]["stdout"].startswith("lab\n")
    assert step(second, "ports")["host"]["status"] != 0
    assert step(second, "ports")["container"]["stdout"] == "it listens\n"
    secret = step(second, "mnt")["host"]["stdout"].strip()
    assert secret in step(second, "mnt")["beside"][0]["stdout"]
    assert secret not in json.dumps(step(second, "mnt")["container"])
    for side in step(second, "pid")["beside"]:
        assert "canary-" in side["stdout"]
    assert "canary-" not in step(second, "pid")["container"]["stdout"]
    assert step(second, "user")["container"]["stdout"].endswith("of user 65534\n")


def test_one_step_of_stage2_is_played_alone_and_draws_its_network() -> None:
    ended = demo("net", "--no-input", "--lang", "en", stage="stage2", COLUMNS="80")
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = ended.stdout.decode()
    assert "4/9" in text
    assert "3/9" not in text
    # One straight line: from the bridge's port through both frames to eth0.
    assert re.search(r"│ +lab\d+ ─●─+┼─*veth─*┼─● eth0  [\d.]+/24", text)
    assert re.search(r"labrun0 · bridge", text)


@pytest.mark.parametrize("runtime", ["stage1", "@chroot"])
def test_a_runtime_without_namespaces_is_failed_by_stage2(runtime: str) -> None:
    command = reference(runtime) if runtime.startswith("stage") else runtime
    status, report = measured("net", "--runtime", command, stage="stage2")
    assert status == FAILED
    assert report["steps"][0]["verdict"] != "isolated"


def test_stage2_leaves_no_link_but_the_bridge_and_no_process() -> None:
    before = {path.name for path in Path("/sys/class/net").iterdir()}
    assert demo("net", "ports", "--no-input", stage="stage2").returncode == 0
    after = {path.name for path in Path("/sys/class/net").iterdir()}
    # The bridge is shared, and stays; cables of others may come and go.
    assert not {name for name in after - before if not re.fullmatch(r"labrun0|lab\d+", name)}
    servers = subprocess.run(["pgrep", "-f", "^httpd -p 127"], capture_output=True, check=False)
    assert servers.stdout == b""


@pytest.mark.once
def test_stage3_plots_each_load_without_its_limit_and_with_it(third: dict[str, Any]) -> None:
    plotted = [row for row in third["steps"] if "series" in row["host"]]
    names = {"cpu": "cpu", "memory": "memory", "swap": "swap", "pids": "pids"}
    names |= {"disk": "written", "network": "sent"}
    assert [row["id"] for row in plotted] == list(names)
    for row in plotted:
        (free,), (bound,) = row["host"]["series"], row["container"]["series"]
        assert free["name"] == bound["name"] == names[row["id"]]
        assert free["limit"] is None
        assert len(bound["points"]) > 5
        times = [at for at, _ in bound["points"]]
        assert times == sorted(times)
        assert times[-1] < 6
        most = max(value for _, value in bound["points"])
        if bound["unit"] in ("bytes", "processes"):
            assert most <= bound["limit"]
    assert step(third, "memory")["container"]["stdout"].startswith("tail: status 137\n")
    assert step(third, "memory")["host"]["stdout"] == "tail: status 0\n"
    assert "oom_kill 1" in step(third, "memory")["container"]["stderr"]
    assert "can't fork" in step(third, "pids")["container"]["stderr"]
    assert step(third, "race")["host"]["stdout"] == "in\nout\n"
    assert step(third, "race")["container"]["stdout"] == "in\nin\n"
    assert "cpu.max 25000 100000\n" in "".join(
        step(third, "trees")[side]["stdout"] for side in ("host", "container")
    )


def test_a_runtime_without_limits_is_failed_by_stage3() -> None:
    status, report = measured("cpu", "--runtime", reference("stage2"), stage="stage3")
    assert status == FAILED
    assert report["steps"][0]["verdict"] == "broken"
    assert "--cpus" in json.dumps(report["steps"][0])


@pytest.mark.once
def test_stage3_leaves_no_group_no_disk_and_no_listener(rootfs: Path) -> None:
    before = groups("labrun-")
    process = subprocess.Popen(
        [LABRUN, "stage3", "disk", "network", "--no-input"], stdout=subprocess.PIPE
    )
    process.communicate(timeout=120)
    assert process.returncode == 0
    page = f"/run/labrun/{process.pid}-"
    assert not [path for path in Path("/run/labrun").iterdir() if str(path).startswith(page)]
    # Others may run just now, and end in their time: what nobody will remove stays.
    left = groups("labrun-run-") | groups("labrun-bench-")
    until = time.monotonic() + 120
    while still := [path for path in left - before if path.exists()]:
        assert time.monotonic() < until, still
        time.sleep(0.5)
    assert not list((rootfs / "tmp").iterdir())
    sinks = subprocess.run(["pgrep", "-f", "labs/demo/sink.py"], capture_output=True, check=False)
    assert sinks.stdout == b""


def test_a_report_goes_to_a_file_beside_the_page(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    ended = demo("pwd", "ip-route", "--no-input", "--json", str(file))
    assert ended.returncode == 0
    assert [row["id"] for row in json.loads(file.read_bytes())["steps"]] == ["pwd", "ip-route"]
    assert b"LEAKS" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nix"], USAGE, "the steps are rootfs pwd"),
        (["pwd", "--json", "/no/such/folder/x"], FAILED, "can't be written"),
        (["pwd", "--runtime", "no-such-program"], FAILED, "no such program"),
        (["pwd", "--runtime", "@nix"], USAGE, "@bwrap"),
        (["pwd", "--runtime", "'"], USAGE, "--runtime"),
        (["pwd", "--runtime", ""], USAGE, "--runtime"),
        (["pwd", "--root", "/no/such/root"], FAILED, "labrun rootfs"),
        (["pwd", "--root", "/proc"], FAILED, "no /bin/sh"),
    ],
)
def test_bad_input_is_one_line_and_a_status(arguments: list[str], status: int, said: str) -> None:
    ended = demo(*arguments, "--no-input", "--lang", "en")
    assert (ended.returncode, ended.stdout) == (status, b"")
    assert said in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("runtime", ["/bin/true", "/bin/false", "@host"])
def test_a_runtime_that_does_otherwise_is_failed(runtime: str) -> None:
    status, report = measured("pwd", "--runtime", runtime)
    assert status == FAILED
    assert report["steps"][0]["verdict"] in ("leaks", "broken")
    shown = demo("pwd", "--no-input", "--lang", "en", "--runtime", runtime).stdout.decode()
    assert "Not what the stage's own runtime does: there it is ISOLATED." in shown
    assert "You said" not in shown


def test_a_peer_that_isolates_more_is_told_so() -> None:
    status, report = measured("ip-route", "--runtime", "@unshare")
    assert status == FAILED
    assert report["steps"][0]["verdict"] == "isolated"
    assert "default" not in report["steps"][0]["container"]["stdout"]


@pytest.mark.parametrize("stage", DEMOS)
def test_a_user_who_cannot_become_root_is_told(stage: str, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    ended = run([LABRUN, stage], user=ordinary_user(), environment=environment)
    assert (ended.returncode, ended.stdout) == (CANNOT, b"")
    assert b"root" in ended.stderr


def test_a_page_in_a_pipe_has_no_codes_and_no_line_wider_than_80(page: str) -> None:
    assert not ESCAPE_CODES.search(page)
    assert max(map(cell_len, page.splitlines())) == 80


def test_a_page_says_what_did_it_as_it_was_seen(page: str) -> None:
    assert 'chroot("ROOT") · chdir("/") · execve("/bin/ip")' in page
    assert "unshare(CLONE_NEWNET) among them" in page
    assert 'execve("/usr/bin/ls") ENOENT' in page


def test_the_last_page_has_what_was_measured_before_and_after(page: str) -> None:
    rows = {line.split()[0]: line for line in page.splitlines() if re.match(r" [a-z]+\.", line)}
    assert re.search(r"LEAKS +✓ ISOLATED", rows["fs.root"])
    assert re.search(r"LEAKS +✗ LEAKS +2 namespaces", rows["net.routes"])
    assert "2 of 9 closed" in page
    assert "stage1 run ROOT /bin/sh" in page


@pytest.mark.once
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("columns", ["40", "60", "80", "120", "200"])
@pytest.mark.parametrize(
    ("stage", "steps"), [("stage1", ["pwd", "ps", "escape"]), ("stage2", ["pid", "net"])]
)
def test_no_line_is_wider_than_the_page(
    stage: str, steps: list[str], language: str, columns: str
) -> None:
    ended = demo("--no-input", *steps, "--lang", language, stage=stage, COLUMNS=columns)
    assert ended.returncode == 0
    assert max(map(cell_len, ended.stdout.decode().splitlines())) <= min(int(columns), 120)


def test_narrow_pages_have_the_boxes_on_each_other() -> None:
    wide = demo("ip-route", "--no-input", "--lang", "en", COLUMNS="76").stdout.decode()
    narrow = demo("ip-route", "--no-input", "--lang", "en", COLUMNS="75").stdout.decode()
    assert re.search("host.*container", wide)
    assert not re.search("host ─.*container ─", narrow)


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_without_colours_the_words_are_all_there(variable: str) -> None:
    ended = demo("ip-route", "--no-input", "--lang", "en", **{variable: "dumb"})
    assert b"\x1b" not in ended.stdout
    assert "✗ LEAKS" in ended.stdout.decode()


# That each page of it can be played is asked elsewhere; its loads take five seconds each.
SHORT = {"stage3": ["race", "pids"], "stage5": ["web", "stop"]}


@pytest.mark.once
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("stage", DEMOS)
def test_an_output_that_knows_only_ascii_gets_ascii(stage: str, language: str) -> None:
    ended = run(
        [
            *(sys.executable, "-c", "from labs.cli import main; main()"),
            *(stage, *SHORT.get(stage, []), "--no-input", "--lang", language),
        ],
        environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert ended.returncode == 0, ended.stderr.decode()
    text = ended.stdout.decode("ascii")
    verdicts = ("\nLEAKS", "\nISOLATED", "\nLIMITED", "\nAS EXPECTED", "\nAS EXPECTED")
    assert verdicts[int(stage.removeprefix("stage")) - 1] in text
    assert "+- host ---" in text
    assert "??" not in text


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    script = f"set -o pipefail; {LABRUN} stage1 --no-input | head -1"
    ended = run(["bash", "-c", script])
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_the_step_files_are_left_as_they_were(rootfs: Path) -> None:
    before = sorted(path.name for path in rootfs.iterdir())
    demo("--no-input", "pwd", "escape")
    assert sorted(path.name for path in rootfs.iterdir()) == before
    assert not list((rootfs / "proc").iterdir())


def test_what_a_hung_runtime_started_ends_with_the_demo(tmp_path: Path) -> None:
    runtime = tmp_path / "hangs.sh"
    # In a group of its own, so that nothing but the bench's end reaches it.
    runtime.write_text("#!/bin/sh\nsetsid sleep 4321 &\nwait\n")
    runtime.chmod(0o755)
    argv = [LABRUN, "stage1", "pwd", "--no-input", "--runtime", str(runtime)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not sleepers("4321"):
        time.sleep(0.05)
    process.terminate()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr.count(b"\n") == 1
    assert not sleepers("4321")


def sleepers(seconds: str) -> list[str]:
    """Return the processes that sleep for so long."""
    found = subprocess.run(["pgrep", "-fx", f"sleep {seconds}"], capture_output=True, check=False)
    return found.stdout.decode().split()
