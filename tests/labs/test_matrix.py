"""`labrun matrix`: what it measures, how it looks, and what a broken cell does to the others."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import checks
from checks import kernel
from checks.bench import Bench
from checks.model import Axis, Finding, Verdict, axes
from checks.peers import PEERS
from checks.probes import probes
from checks.runtimes import Runtime
from labs import privilege
from labs.errors import CANNOT, USAGE
from labs.matrix import by_hand, columns, measure, places
from labs.matrix.places import Places
from labs.stages import BUILT
from tests.checks.mutation import mutants
from tests.running import LABRUN, ordinary_user, run
from tests.terminal import Terminal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root")
machine = pytest.mark.xdist_group("machine")

LEAKS = ("fs.chroot-escape", "pid.view", "pid.signal", "net.routes", "ipc.shm", "uts.hostname")
"""What the article shows of chroot, and stage 2 closes."""
OPTIONAL = ("user.root", "cgroup.view", "time.offset")


def matrix(
    *arguments: str, user: int | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return run([LABRUN, "matrix", *arguments], user=user, environment=environment)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Return the report and the table of one run, with a mutant and the host as columns."""
    (broken,) = (mutant for mutant in mutants() if mutant.name == "no_net_namespace")
    folder = tmp_path_factory.mktemp("mutant")
    report = folder / "report.json"
    # Not in the contract's order: the rows are.
    only = ",".join([*reversed(LEAKS), *OPTIONAL])
    ended = matrix(
        *("--only", only, "--json", str(report), "--lang", "en"),
        *("--runtime", f"mutant={broken.build(folder, sys.executable)}"),
        *("--runtime", "nothing=@host"),
        COLUMNS="80",
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return json.loads(report.read_bytes()), ended.stdout.decode()


def verdicts(report: dict[str, Any], column: str) -> dict[str, str]:
    return {row["axis"]: row["cells"][column]["verdict"] for row in report["rows"]}


@pytest.mark.once
@needs_root
@machine
def test_the_report_is_the_contracts(measured: tuple[dict[str, Any], str]) -> None:
    report, _ = measured
    assert list(report) == ["schema", "columns", "rows"]
    assert report["schema"] == 1
    assert report["columns"][: 1 + len(BUILT)] == ["host", *BUILT]
    assert report["columns"][-2:] == ["mutant", "nothing"]
    order = [axis for axis in axes() if axis in (*LEAKS, *OPTIONAL)]
    assert [row["axis"] for row in report["rows"]] == order
    for row in report["rows"]:
        assert list(row) == ["axis", "title", "cells"]
        assert row["title"] == axes()[row["axis"]].title["en"]
        assert list(row["cells"]) == report["columns"]
        for cell in row["cells"].values():
            assert list(cell) == ["verdict", "evidence"]
            assert cell["verdict"] in [verdict.value for verdict in Verdict]
            assert cell["evidence"]
            assert all(isinstance(fact, str) for fact in cell["evidence"])


@pytest.mark.once
@needs_root
@machine
@pytest.mark.parametrize("axis", LEAKS)
def test_what_stage_1_leaks_in_the_article_stage_2_closes(
    measured: tuple[dict[str, Any], str], axis: str
) -> None:
    report, _ = measured
    found = {column: verdicts(report, column)[axis] for column in ("host", "stage1", "stage2")}
    assert found == {"host": "leaks", "stage1": "leaks", "stage2": "isolated"}


@pytest.mark.once
@needs_root
@machine
def test_an_axis_with_an_option_is_measured_with_it(
    measured: tuple[dict[str, Any], str],
) -> None:
    report, _ = measured
    for axis in OPTIONAL:
        assert verdicts(report, "stage2")[axis] == "isolated"
        assert verdicts(report, "stage1")[axis] == "leaks"


@pytest.mark.once
@needs_root
@machine
def test_a_mutant_leaks_in_its_own_column_alone(measured: tuple[dict[str, Any], str]) -> None:
    report, _ = measured
    differ = {
        axis
        for axis, verdict in verdicts(report, "mutant").items()
        if verdict != verdicts(report, "stage2")[axis]
    }
    assert differ == {"net.routes"}
    assert verdicts(report, "mutant")["net.routes"] == "leaks"
    assert verdicts(report, "nothing") == verdicts(report, "host")


@pytest.mark.once
@needs_root
@machine
def test_in_a_pipe_the_table_reads_without_colour_at_80_columns(
    measured: tuple[dict[str, Any], str],
) -> None:
    report, table = measured
    lines = table.splitlines()
    assert "\x1b" not in table
    assert max(map(cell_len, lines)) <= 80
    heads = [line.split() for line in lines if line.startswith(" ")]
    # Too many for one table: the rest stands in further ones.
    assert [name for head in heads for name in head] == report["columns"]
    rows = [line.split() for line in lines if line.startswith("net.routes ")]
    words = [word for row in rows for word in row[2::2]]
    assert dict(zip(report["columns"], words, strict=True)) == {
        column: {"leaks": "leaks", "isolated": "isol."}[verdicts(report, column)["net.routes"]]
        for column in report["columns"]
    }
    assert "isol. = isolated" in lines[-1]


@pytest.mark.once
@needs_root
@machine
@pytest.mark.peers
def test_a_peer_is_in_the_matrix_as_the_checks_know_it(
    measured: tuple[dict[str, Any], str],
) -> None:
    report, _ = measured
    text = Path(checks.__file__).with_name("peers.toml").read_text(encoding="utf-8")
    for peer in ("chroot", "unshare", "bwrap", "runc", "crun", "docker", "podman"):
        known = tomllib.loads(text)[peer]["verdicts"]
        found = verdicts(report, f"@{peer}")
        assert {axis for axis in found if found[axis] == "isolated"} == {
            axis for axis in found if axis in known.get("isolated", ())
        }


@needs_root
@machine
def test_on_stdout_json_is_alone_and_speaks_the_language() -> None:
    ended = matrix("--only", "uts.hostname", "--json", "-", "--lang", "zh")
    assert ended.returncode == 0
    (row,) = json.loads(ended.stdout)["rows"]
    assert row["title"] == axes()["uts.hostname"].title["zh"]
    assert "宿主机" in row["cells"]["host"]["evidence"][0]
    assert "测完了" in ended.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--only", "net.nothing"), "no axis net.nothing"),
        (("--runtime", "stage1"), "has no name"),
        (("--runtime", "=stage1"), "has no name"),
        (("--runtime", "stage1=@host"), "already"),
        (("--runtime", "a=@host", "--runtime", "a=@chroot"), "already"),
        (("--runtime", "a=no-such-program-anywhere"), "no program"),
        (("--runtime", "a=@nobody"), "no program"),
        (("--json", "/no/such/folder/report.json"), "cannot be written"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(arguments: Sequence[str], reason: str) -> None:
    ended = matrix(*arguments, "--lang", "en")
    assert (ended.returncode, ended.stdout) == (USAGE, b"")
    assert len(ended.stderr.decode().splitlines()) == 1
    assert reason in ended.stderr.decode()


def test_an_ordinary_user_is_told_what_it_needs() -> None:
    user = ordinary_user()
    if user is None and privilege.can_sudo():
        pytest.skip("cannot: this user becomes root by sudo")
    ended = matrix("--only", "fs.cwd", "--lang", "en", user=user)
    assert ended.returncode == CANNOT
    assert "root" in ended.stderr.decode()


def test_what_is_not_installed_has_no_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "shutil.which", lambda name, path="": None if name == "crun" else f"/bin/{name}"
    )
    compared, missing = columns.compared([])
    assert missing == ["@crun"]
    assert "@crun" not in [column.name for column in compared]
    assert "@chroot" in [column.name for column in compared]


ASKED = [axes()[axis] for axis in ("fs.root", "fs.cwd", "net.routes")]


@needs_root
@machine
@pytest.mark.parametrize("how", ["raises", "exits"])
def test_a_cell_that_breaks_is_unknown_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, rootfs: Path, how: str
) -> None:
    def observe(axis: str, trial: object) -> Finding:
        if axis == "fs.cwd":
            if how == "exits":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("a mistake of the judge's")
        return Finding(Verdict.ISOLATED, ("seen",))

    monkeypatch.setattr(measure, "observe", observe)
    both = [columns.Column("one", "@host"), columns.Column("two", "@host")]
    results = measure.measure(both, ASKED, rootfs)
    for column in both:
        cells = dict(results[column.name])
        broken = cells.pop("fs.cwd")
        assert broken.verdict is Verdict.UNKNOWN
        told = {"raises": "a mistake of the judge's", "exits": "-9"}[how]
        assert told in broken.evidence[0]
        assert [finding.verdict for finding in cells.values()] == [Verdict.ISOLATED] * 2
    run([LABRUN, "clean", "--yes"])


# ---- the places ---------------------------------------------------------------------------------


class WithDaemon(Runtime):
    """A runtime whose daemon is a shell that sleeps."""

    has_daemon = True
    started: list[str]
    """The benches on which a daemon was started, by their folders."""
    _base = ""

    def prepare(self, bench: Bench) -> None:
        if self._base != bench.scratch:
            self._base = bench.scratch
            self.started.append(bench.scratch)
            bench.keep(bench.popen(["/bin/sleep", "600"]))


@pytest.fixture
def column(monkeypatch: pytest.MonkeyPatch, rootfs: Path) -> Iterator[Places]:
    """Return the places of a column that has a daemon."""
    monkeypatch.setattr(WithDaemon, "started", [], raising=False)
    monkeypatch.setattr(places, "runtime", WithDaemon)
    monkeypatch.setattr(places, "SETTLING", 1.0)
    with Places("stage", rootfs, nullcontext) as column:
        yield column


def cell(column: Places, axis: str, do: Callable[[Bench], object] = id) -> str:
    """Have a cell do something on the bench that it is given; return that bench's folder."""
    with column.trial(axis) as trial:
        trial.runtime.prepare(trial.bench)
        do(trial.bench)
        return trial.bench.scratch


@needs_root
@machine
def test_a_daemon_is_started_once_for_a_column(column: Places) -> None:
    benches = [cell(column, axis) for axis in ("fs.root", "net.routes", "run.status")]
    assert benches == [benches[0]] * 3
    assert WithDaemon.started == [benches[0]]


@needs_root
@machine
def test_what_a_runtime_leaves_is_looked_for_where_nothing_has_run(column: Places) -> None:
    shared, alone, after = (cell(column, axis) for axis in ("fs.root", "host.residue", "fs.cwd"))
    assert shared == after
    assert shared != alone
    assert WithDaemon.started == [shared, alone]


def _leave_a_process(bench: Bench) -> None:
    bench.popen(["/bin/sleep", "600"])


def _end_the_daemon(bench: Bench) -> None:
    for pid, argv in bench.processes().items():
        if argv == ["/bin/sleep", "600"]:
            os.kill(pid, signal.SIGKILL)


def _leave_a_group(bench: Bench) -> None:
    (bench._group.directories[0] / "left").mkdir()


def _leave_a_link(bench: Bench) -> None:
    there = ["nsenter", f"--net=/proc/{bench.pid}/ns/net"]
    run([*there, "ip", "link", "add", "left0", "type", "veth"])


def _leave_a_mount(bench: Bench) -> None:
    bench.see(lambda: kernel.mount("left", bench.scratch, "tmpfs"))


@needs_root
@machine
@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")
@pytest.mark.parametrize(
    "spoil", [_leave_a_process, _end_the_daemon, _leave_a_group, _leave_a_link, _leave_a_mount]
)
def test_a_bench_that_a_cell_has_spoilt_is_given_to_no_other(
    column: Places, spoil: Callable[[Bench], object]
) -> None:
    first, second, third = (cell(column, *how) for how in (["fs.cwd", spoil], ["pid.view"], ["x"]))
    assert first != second
    assert second == third
    assert WithDaemon.started == [first, second]


@needs_root
@machine
def test_what_goes_a_moment_later_spoils_nothing(column: Places) -> None:
    def leave(bench: Bench) -> None:
        bench.popen(["/bin/sh", "-c", "sleep 0.4 &"]).wait()

    assert cell(column, "fs.root", leave) == cell(column, "fs.cwd")


@needs_root
@machine
def test_without_a_daemon_each_cell_has_a_bench_of_its_own(
    monkeypatch: pytest.MonkeyPatch, column: Places
) -> None:
    monkeypatch.setattr(WithDaemon, "has_daemon", False)
    assert cell(column, "fs.root") != cell(column, "fs.cwd")


def test_docker_alone_has_a_daemon() -> None:
    assert [name for name, peer in PEERS.items() if peer.has_daemon] == ["docker"]


@pytest.mark.parametrize("axis", axes().values(), ids=axes())
def test_what_is_said_to_be_typed_can_be_typed(axis: Axis, rootfs: Path) -> None:
    for column in columns.compared([])[0]:
        hand = by_hand.by_hand(axis, column, rootfs)
        assert axis.id in by_hand.again(axis, column)
        assert not hand.inside or "ROOT" in hand.inside
        assert not hand.before or hand.after
    facts = tomllib.loads(Path(by_hand.__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    assert set(facts) <= set(probes())
    if axis.id in facts:
        program = facts[axis.id]["inside"][0].removeprefix("/")
        assert os.path.lexists(rootfs / program)


@needs_root
@machine
def test_at_a_terminal_a_cell_opens_to_its_evidence() -> None:
    shown = Terminal("matrix", "--only", "fs.root,net.routes,uts.hostname", "--lang", "en")
    shown.see(r"fs\.root: (.|\n)*q quit")
    shown.press("\x1b[B\x1b[C", r"net\.routes +✗ leaks +›✗ leaks(.|\n)*net\.routes: ")
    page = shown.press("\r", r"net\.routes · stage1(.|\n)*by hand(.|\n)*q quit")
    assert "✗ LEAKS" in page
    assert "/proc/" in page
    assert "run ROOT /bin/ip route" in page
    assert "labrun check stage1 --only net.routes" in page
    shown.press("\x1b[C", r"net\.routes · stage2(.|\n)*ISOLATED")
    shown.press("\r", r"›✓ isol")
    shown.press("?", "any key back")
    shown.press("x", r"›✓ isol")
    shown.press("\x1b[F", r"uts\.hostname [^\n]*›")
    shown.child.send("q")
    assert shown.end() == 0


@needs_root
@machine
def test_ctrl_c_while_it_measures_leaves_nothing() -> None:
    shown = Terminal("matrix", "--lang", "en")
    shown.see("measuring [1-9]")
    groups = {path.name for path in Path("/run/labrun").glob("*.json")}
    shown.child.send("\x03")
    assert shown.end() == 130
    assert "Traceback" not in shown.text()
    assert shown.deserted()
    gone = groups - {path.name for path in Path("/run/labrun").glob("*.json")}
    assert gone or not groups


@needs_root
@machine
def test_sigterm_while_it_measures_is_told_in_its_own_words() -> None:
    shown = Terminal("matrix", "--lang", "en", columns=120)
    shown.see("measuring [1-9]")
    shown.child.kill(signal.SIGTERM)
    assert shown.end() == 128 + signal.SIGTERM
    assert "labrun: matrix: stopped before everything was measured" in shown.text()
    assert shown.deserted()


@needs_root
@machine
def test_a_labrun_that_is_killed_takes_its_workers_and_their_benches_along() -> None:
    shown = Terminal("matrix", "--lang", "en")
    shown.see("measuring [1-9]")
    children = Path(f"/proc/{shown.child.pid}/task/{shown.child.pid}/children")
    workers = children.read_text(encoding="ascii").split()
    assert workers
    shown.child.kill(signal.SIGKILL)
    assert shown.end() == 128 + signal.SIGKILL
    assert shown.deserted(), shown.processes()
    pages = [path.name.partition("-")[0] for path in Path("/run/labrun").glob("*.json")]
    assert not {*pages} & {*workers}
