"""`labrun stage1`, played for real: what it measures, what it says, what it leaves."""

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
from tests.running import LABRUN, ordinary_user, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root"),
    pytest.mark.xdist_group("machine"),
]

STEPS = [step.id for step in load("stage1").steps]
ESCAPE_CODES = re.compile(r"\x1b")


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return run([LABRUN, "stage1", *arguments], environment=environment)


def measured(*arguments: str, inside: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
    """Return exit status and report of a run; `inside` is a command that starts it."""
    ended = run([*inside, LABRUN, "stage1", *arguments, "--json", "-"])
    assert ended.stdout, ended.stderr.decode()
    report: dict[str, Any] = json.loads(ended.stdout)
    return ended.returncode, report


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    status, report = measured("--no-input")
    assert status == 0
    return report


@pytest.fixture(scope="module")
def page() -> str:
    ended = demo("--no-input", "--lang", "en", COLUMNS="80")
    assert ended.returncode == 0
    assert ended.stderr == b""
    return ended.stdout.decode()


def step(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in report["steps"] if row["id"] == name)


def test_the_report_is_the_contracts(whole: dict[str, Any]) -> None:
    assert whole["schema"] == 1
    assert whole["stage"] == "stage1"
    assert [row["id"] for row in whole["steps"]] == STEPS
    for row in whole["steps"]:
        keys = "id axis command host container verdict expected evidence"
        assert list(row) == keys.split()
        assert row["verdict"] == row["expected"]
        assert row["evidence"]
        for side in ("host", "container"):
            assert list(row[side]) == ["stdout", "stderr", "status"]


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


def test_a_user_who_cannot_become_root_is_told(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    ended = run([LABRUN, "stage1", "pwd"], user=ordinary_user(), environment=environment)
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


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("columns", ["40", "60", "80", "120", "200"])
def test_no_line_is_wider_than_the_page(language: str, columns: str) -> None:
    ended = demo("--no-input", "pwd", "ps", "escape", "--lang", language, COLUMNS=columns)
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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_output_that_knows_only_ascii_gets_ascii(language: str) -> None:
    ended = run(
        [
            *(sys.executable, "-c", "from labs.cli import main; main()"),
            *("stage1", "--no-input", "--lang", language),
        ],
        environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert ended.returncode == 0, ended.stderr.decode()
    text = ended.stdout.decode("ascii")
    assert "\nLEAKS" in text
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
