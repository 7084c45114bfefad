"""The demo at a terminal: each key does what the last line says, and nothing is left behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests import terminal as terminals
from tests.running import LABRUN, run
from tests.terminal import PATIENCE

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root"),
    pytest.mark.xdist_group("machine"),
]

KEYS = "q quit"


class Terminal(terminals.Terminal):
    """A terminal with a demo in it."""

    def __init__(
        self, *arguments: str, stage: str = "stage1", rows: int = 24, columns: int = 80
    ) -> None:
        super().__init__(stage, *arguments, rows=rows, columns=columns)

    def made(self) -> list[Path]:
        """Return what the demo has made on the machine, by its page in the ledger."""
        (page,) = Path("/run/labrun").glob(f"{self.child.pid}-*.json")
        return [page, *(Path(path) for _, path in json.loads(page.read_bytes()))]


@pytest.fixture
def terminal() -> Iterator[type[Terminal]]:
    yield Terminal
    run([LABRUN, "clean", "--yes"])


@pytest.mark.once
def test_a_student_goes_through_it(terminal: type[Terminal]) -> None:
    demo = terminal("--lang", "en")
    demo.see("Enter begin")
    demo.press("\r", r"1/10(.|\n)*Before you look(.|\n)*q quit")
    shown = demo.press("b", r"You said b(.|\n)*\? help")
    assert "✓ AS EXPECTED" in shown
    assert "Before you look" not in shown
    for number in range(2, 11):
        demo.press("\r", rf" {number}/10(.|\n)*look without one")
        # At 24 lines, each step's result is one page: its head and its keys are there together.
        shown = demo.press("c", rf" {number}/10(.|\n)*You said c(.|\n)*\? help")
    assert "✗ LEAKS" in shown
    shown = demo.press("\r", r"where you stand(.|\n)*q quit")
    assert "2 of 9 closed" in shown
    shown = demo.press("\r", r"Build it(.|\n)*Enter end")
    demo.press("b", r"where you stand(.|\n)*q quit")
    demo.press("\r", "Enter end")
    demo.child.send("\r")
    assert demo.end() == 0


@pytest.mark.once
def test_a_student_goes_through_stage2(terminal: type[Terminal]) -> None:
    demo = terminal("--lang", "en", stage="stage2")
    demo.see("Enter begin")
    for number in range(1, 10):
        demo.press("\r", rf" {number}/9(.|\n)*look without one")
        shown = demo.press("a", rf" {number}/9(.|\n)*You said a(.|\n)*\? help")
        assert "✓" in shown
        assert "Namespaces  new:" in shown
        if number == 4:
            assert "p picture" in shown
            picture = demo.press("p", r"labrun0 · bridge(.|\n)*back to the step")
            assert re.search(r"lab\d+ ─●─+┼─veth─┼─● eth0", picture)
            demo.press("\r", r"You said a(.|\n)*\? help")
            facts = demo.press("e", r"net\.own-address ✓ ISOLATED(.|\n)*back to the step")
            assert re.search(r"net:\[\d+\] +≠ net:\[\d+\]", facts)
            demo.press("\r", r"You said a(.|\n)*\? help")
            # Only what is new in this step is the container's own.
            demo.press("s", r"\[inside\] / #")
            demo.press("/bin/ip route\n", r"default via .* dev eth0")
            demo.press("exit\n", r"You said a(.|\n)*\? help")
        else:
            assert "p picture" not in shown
    shown = demo.press("\r", r"where you stand(.|\n)*q quit")
    assert "18 of 18 closed" in shown
    assert re.search(r"net\.routes, own-address, devices, ports, abstract +✗ LEAKS", shown)
    demo.press("\r", r"Build it(.|\n)*Enter end")
    demo.child.send("\r")
    assert demo.end() == 0


@pytest.mark.once
def test_a_student_goes_through_stage3_and_sees_plots_grow(terminal: type[Terminal]) -> None:
    demo = terminal("--lang", "en", stage="stage3")
    demo.see("Enter begin")
    for number in range(1, 10):
        demo.press("\r", rf" {number}/9(.|\n)*look without one")
        if number == 1:
            # The load without a limit is drawn while it runs; the other has only its limit yet.
            grows = demo.press("b", r"0.25┤╌{20}(.|\n)*running it, and measuring")
            assert "LIMITED" not in grows
        else:
            demo.child.send("b")
        shown = demo.see(rf" {number}/9(.|\n)*You said b(.|\n)*\? help")
        assert "≤ LIMITED" in shown or "✓ AS EXPECTED" in shown
        assert ("0┤" in shown) is (number <= 6)
        if number == 1:
            facts = demo.press("e", r"cpu\.quota ≤ LIMITED(.|\n)*back to the step")
            assert "without the limit" in facts
            demo.press("\r", r"You said b(.|\n)*\? help")
            demo.press("s", r"\[inside\] / #")
            demo.press("cat /proc/self/cgroup\n", r"labrun-run-[0-9a-f]{8}")
            demo.press("exit\n", r"You said b(.|\n)*\? help")
    shown = demo.press("\r", r"where you stand(.|\n)*q quit")
    assert "9 of 9 closed" in shown
    demo.press("\r", r"Build it(.|\n)*Enter end")
    demo.child.send("\r")
    assert demo.end() == 0


def test_ctrl_c_ends_a_load_that_is_measured(terminal: type[Terminal]) -> None:
    demo = terminal("--lang", "en", stage="stage3")
    demo.see("Enter begin")
    demo.press("\r", r" 1/9(.|\n)*look without one")
    demo.press("\r", r"0.25┤╌{20}(.|\n)*running it, and measuring")
    made = demo.made()
    demo.child.send("\x03")
    assert demo.end() == 128 + signal.SIGINT
    assert not [path for path in made if path.exists()]
    assert demo.deserted()


def test_the_last_page_is_one_page_where_it_fits(terminal: type[Terminal]) -> None:
    demo = terminal("--lang", "en", rows=40, columns=120)
    demo.see("Enter begin")
    for number in range(1, 11):
        demo.press("\r", rf" {number}/10(.|\n)*look without one")
        demo.press("\r", rf" {number}/10(.|\n)*What did it(.|\n)*\? help")
    shown = demo.press("\r", r"where you stand(.|\n)*Enter end")
    assert "what it asks for" in shown
    assert "Build it" in shown
    demo.child.send("q")
    assert demo.end() == 0


def test_each_key_does_what_it_says(terminal: type[Terminal]) -> None:
    demo = terminal("pwd", "ip-route", "--lang", "en")
    demo.press("\r", r"2/10(.|\n)*\? help")
    demo.press("\r", r"5/10(.|\n)*Before you look(.|\n)*q quit")
    shown = demo.press("c", r"You said c(.|\n)*\? help")
    first = re.search(r"/proc/(\d+)/net", shown)
    assert first
    shown = demo.press("r", rf"/proc/(?!{first[1]}/)\d+/net(.|\n)*\? help")
    shown = demo.press("k", "back to the step")
    assert re.search(r"\[\d+\] chroot\(.*= 0", shown)
    assert re.search(r"fork\(\) = \d+", shown)
    demo.press("\r", r"You said c(.|\n)*\? help")
    assert "opens a shell" in demo.press("?", "back to the step")
    demo.press("\r", r"You said c(.|\n)*\? help")
    # What has been answered stays answered.
    demo.press("b", r"2/10(.|\n)*ISOLATED(.|\n)*\? help")
    demo.press("\x1b[C", r"5/10(.|\n)*You said c(.|\n)*\? help")
    # A key that means nothing changes nothing.
    demo.press("x", r"5/10(.|\n)*You said c(.|\n)*\? help")
    demo.child.send("q")
    assert demo.end() == 0


def test_back_from_a_question_is_the_arrow_as_b_is_an_answer(terminal: type[Terminal]) -> None:
    demo = terminal("pwd", "ip-route", "--lang", "en")
    demo.press("b", r"You said b(.|\n)*\? help")
    demo.press("\r", "5/10(.|\n)*look without one")
    demo.press("\x1b[D", r"2/10(.|\n)*You said b(.|\n)*\? help")
    demo.child.send("q")
    assert demo.end() == 0


def test_a_shell_inside_has_the_terminal_to_itself(terminal: type[Terminal]) -> None:
    demo = terminal("ip-route", "--lang", "en")
    demo.press("a", r"You said a(.|\n)*\? help")
    canary = [line for line in demo.processes() if "read wait" in line]
    assert len(canary) == 1
    demo.press("s", r"\[inside\] / #")
    assert re.search(r"^bin +", demo.press("/bin/ls /\n", r"\nbin "), re.M)
    demo.press("sleep 60\n", "sleep 60")
    demo.press("\x03", r"\^C(.|\n)*\[inside\] / #")
    demo.press("\x1aecho still $((40 + 2))\n", "still 42")
    # Neither key has reached the demo, or what it planted.
    assert [line for line in demo.processes() if "read wait" in line] == canary
    demo.press("exit\n", r"You said a(.|\n)*\? help")
    demo.press("r", r"LEAKS(.|\n)*\? help")
    demo.child.send("q")
    assert demo.end() == 0


def test_what_is_typed_ahead_is_not_lost(terminal: type[Terminal]) -> None:
    demo = terminal("pwd", "ip-route", "--lang", "en")
    demo.see("look without one")
    demo.child.send("b\rc")
    demo.see(r"5/10(.|\n)*You said c(.|\n)*\? help")
    demo.child.send("\x04")
    assert demo.end() == 0


def test_the_report_holds_the_steps_seen(terminal: type[Terminal], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    demo = terminal("pwd", "ip-route", "--json", str(file), "--lang", "en")
    demo.press("b", r"You said b(.|\n)*\? help")
    demo.child.send("q")
    assert demo.end() == 0
    assert [row["id"] for row in json.loads(file.read_bytes())["steps"]] == ["pwd"]


@pytest.mark.parametrize(
    ("key", "number", "status"),
    [
        ("\x03", 0, 130),
        ("", signal.SIGINT, 130),
        ("", signal.SIGTERM, 143),
        ("", signal.SIGHUP, 129),
    ],
)
def test_however_it_is_stopped_nothing_is_left(
    terminal: type[Terminal], key: str, number: int, status: int
) -> None:
    segments = Path("/proc/sysvipc/shm")
    mounts = Path("/proc/self/mountinfo").read_text()
    demo = terminal("shm", "--lang", "en")
    segment = re.search(r"number\s+(\d+)", demo.see("your guess"))
    demo.press("c", r"LEAKS(.|\n)*\? help")
    made = demo.made()
    assert segment
    assert len(made) > 1
    assert all(path.exists() for path in made)
    if key:
        demo.child.send(key)
    else:
        demo.child.kill(number)
    assert demo.end() == status
    assert [path for path in made if path.exists()] == []
    assert demo.deserted()
    assert segment[1] not in [row.split()[1] for row in segments.read_text().splitlines()]
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.parametrize("stop", ["key", "SIGTERM"])
@pytest.mark.parametrize(
    ("stage", "seconds"),
    [
        *(("stage1", tenths / 10) for tenths in (3, 5, 7, 9, 11, 13)),
        *(("stage2", tenths / 10) for tenths in (5, 10, 20, 30, 40)),
    ],
)
def test_whatever_stops_it_while_it_runs_is_taken_by_the_demo_alone(
    terminal: type[Terminal], stage: str, seconds: float, stop: str
) -> None:
    """The key reaches each process of the terminal, also one that is being forked.

    And no probe takes a signal for a mistake of its own, and goes on.
    """
    demo = terminal("--no-input", "--lang", "en", stage=stage, rows=300)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            demo.stream.feed(demo.child.read_nonblocking(4096, timeout=0.02))
    if stop == "key":
        demo.child.send("\x03")
    else:
        demo.child.kill(signal.SIGTERM)
    # 0: it had come to its end already.
    assert demo.end() in (130 if stop == "key" else 143, 0)
    assert "Traceback" not in demo.text()
    assert "Error" not in demo.text()
    assert list(Path("/run/labrun").glob(f"{demo.child.pid}-*")) == []
    assert demo.deserted()


def test_after_a_kill_clean_removes_what_is_left(terminal: type[Terminal]) -> None:
    """A folder with a canary, and empty cgroups: no mount, process or segment outlives it."""
    demo = terminal("shm", "--lang", "en")
    segment = re.search(r"number\s+(\d+)", demo.see("your guess"))
    made = demo.made()
    demo.press("c", r"LEAKS(.|\n)*\? help")
    assert segment
    demo.child.kill(signal.SIGKILL)
    assert demo.end() == 128 + signal.SIGKILL
    assert demo.deserted()
    table = Path("/proc/sysvipc/shm").read_text()
    assert segment[1] not in [row.split()[1] for row in table.splitlines()]
    assert run([LABRUN, "clean", "--yes"]).returncode == 0
    assert [path for path in made if path.exists()] == []


@pytest.fixture
def network() -> Iterator[int]:
    """Hold a network of its own, empty; return the pid of a process in it."""
    ready = "echo ready; exec sleep infinity"
    argv = ["unshare", "--net", "sh", "-c", ready]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        yield holder.pid
        holder.kill()


def links(pid: int) -> set[str]:
    """Return the network devices that a process sees."""
    rows = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return {row.partition(":")[0].strip() for row in rows}


@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.2, 1.6, 2.4, 3.2, 60])
def test_ctrl_c_leaves_no_link_but_the_bridge(network: int, seconds: float) -> None:
    before = links(network)
    argv = ["nsenter", f"--net=/proc/{network}/ns/net", LABRUN, "stage2", "--no-input"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate()
    # 0: it had come to its end already.
    assert process.returncode in (130, 0), (stdout[-400:], stderr)
    assert b"Traceback" not in stderr
    assert list(Path("/run/labrun").glob(f"{process.pid}-*")) == []
    # A cable goes with its namespace, and the kernel takes its time for that.
    until = time.monotonic() + PATIENCE
    while left := links(network) - before - {"labrun0"}:
        assert time.monotonic() < until, left
        time.sleep(0.02)
