"""`labrun test`: what it counts, what it asks, and what it leaves on the machine."""

import functools
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from labs import packages, selftest, tools
from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.paths import CHECKOUT
from labs.selftest import Count, Run
from tests.running import cannot

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="1"/>
</testsuites>"""


def pinned(lock: str) -> dict[str, str]:
    """Return what a lock file pins."""
    found = re.findall(r"^([a-z0-9.-]+)==(\S+)", (CHECKOUT / lock).read_text(), re.MULTILINE)
    return dict(found)


def test_the_count_is_pytest_s_own(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    count = Count()
    count.add(tmp_path / "report.xml")
    count.add(tmp_path / "report.xml")
    count.add(tmp_path / "a-run-that-never-came-so-far.xml")
    assert str(count) == "8 passed, 6 failed, 6 skipped"


def test_the_last_line_is_one_that_ci_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, Count(3, 1, 0), failed=["mypy --strict"], cannot=["tests, Python 3.13"])
    selftest.summary(run)
    assert capsys.readouterr().out.splitlines() == [
        "labrun: failed: mypy --strict",
        "labrun: not run: tests, Python 3.13",
        "3 passed, 1 failed, 0 skipped",
    ]


def test_what_could_not_be_tried_is_not_a_pass(tmp_path: Path) -> None:
    assert Run(tmp_path).status() == 0
    assert Run(tmp_path, cannot=["x"]).status() == CANNOT
    assert Run(tmp_path, cannot=["x"], failed=["y"]).status() == FAILED


def test_all_asks_before_it_installs_and_refuses_where_nobody_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = packages.Package("a-package", "no-such-program-anywhere", "a reason")
    monkeypatch.setattr(packages, "PEERS", [absent])
    monkeypatch.setattr(packages, "install", lambda names: pytest.fail(f"installed {names}"))
    monkeypatch.setattr(selftest, "python_packages", list)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Refused) as refused:
        selftest.prepare(yes=False)
    assert refused.value.status == USAGE
    assert re.search(r"^  a-package +a reason$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("said", ["--yes", "CI=true"])
def test_yes_and_ci_install_unasked(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    absent = packages.Package("a-package", "no-such-program-anywhere", "a reason")
    installed: list[list[str]] = []
    monkeypatch.setattr(packages, "PEERS", [absent])
    monkeypatch.setattr(packages, "install", installed.append)
    monkeypatch.setenv("CI", "true" if said == "CI=true" else "")
    selftest.prepare(yes=said == "--yes")
    assert "a-package" in installed[0]


def test_a_missing_python_fails_in_ci_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selftest, "find_python", lambda version: None)
    for ci, status in (("true", FAILED), ("", CANNOT)):
        monkeypatch.setenv("CI", ci)
        run = Run(tmp_path)
        selftest.pythons(run)
        assert run.status() == status
        assert [line.split(":")[0] for line in run.failed + run.cannot] == [
            f"tests, Python {version}" for version in selftest.other_pythons()
        ]


def test_a_shim_is_not_a_python(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not pytest's folder: the checkout's owner, who is asked, may not be let into that one.
    with tempfile.TemporaryDirectory(prefix="labrun-commons-") as folder:
        Path(folder).chmod(0o755)
        for name, says in (("shim", "exit 127"), ("real", "echo /real/python3.99; echo 3.99.1")):
            program = Path(folder, name, "python3.99")
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\n{says}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}/shim:{folder}/real:/usr/bin:/bin")
        assert selftest.find_python("3.99") == Path("/real/python3.99")
        monkeypatch.setenv("PATH", f"{folder}/shim")
        assert selftest.find_python("3.99") is None


def test_no_service_starts_while_packages_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with packages.no_service_starts(policy):
        assert subprocess.run([policy, "docker", "start"], check=False).returncode == 101
    assert not policy.exists()


def test_somebody_s_own_policy_stays_as_it_is(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("theirs")
    with packages.no_service_starts(policy):
        assert policy.read_text() == "theirs"
    assert policy.read_text() == "theirs"


def test_the_policy_goes_when_the_installation_fails(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with pytest.raises(ZeroDivisionError), packages.no_service_starts(policy):
        _ = 1 / 0
    assert not policy.exists()


def test_a_daemon_that_runs_is_seen(tmp_path: Path) -> None:
    program = tmp_path / "dockerd-stand-in"
    program.symlink_to("/bin/sleep")
    before = packages.running((program.name[:15],))
    process = subprocess.Popen([program, "60"])
    try:
        # The kernel closes the pipe by which Popen waits a moment before it renames the process.
        seen: set[int] = set()
        while not seen and process.poll() is None:
            seen = packages.running((program.name[:15],)) - before
        assert seen == {process.pid}
    finally:
        process.kill()
        process.wait()


# ---- once more, by itself ------------------------------------------------------------------------

SHAKY = """import os, pathlib, pytest
HERE = pathlib.Path(__file__).parent
BESIDE = "PYTEST_XDIST_WORKER" in os.environ
def test_sound():
    (HERE / f"sound-{BESIDE}").touch()
class TestShaky:
    @pytest.mark.xdist_group("a group")
    @pytest.mark.parametrize("what", ["plain", "a@b", "[c]"])
    def test_it_starves_beside_others(self, what):
        assert not BESIDE
def test_wrong():
    if (HERE / "skipped").exists() and not BESIDE:
        pytest.skip("cannot")
    assert (HERE / "mended").exists()
"""


@pytest.mark.parametrize("mended", [True, False])
def test_what_failed_beside_others_is_run_once_more_by_itself_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mended: bool
) -> None:
    monkeypatch.setattr(selftest, "CHECKOUT", tmp_path)
    # This test may be in a worker itself.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/__init__.py").touch()
    (tmp_path / "tests/test_shaky.py").write_text(SHAKY)
    if mended:
        (tmp_path / "mended").touch()
        (tmp_path / "tests/mended").touch()
    run = Run(tmp_path)
    options = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    selftest.pytest(run, "tests", [*options, *selftest.PARALLEL])
    assert not (tmp_path / "tests/sound-False").exists()
    shaky = "tests: tests/test_shaky.py::TestShaky::test_it_starves_beside_others"
    assert sorted(run.alone) == sorted([f"{shaky}[plain]", f"{shaky}[a@b]", f"{shaky}[[c]]"])
    assert run.failed == ([] if mended else ["tests"])
    assert str(run.count) == f"{4 + mended} passed, {1 - mended} failed, 0 skipped"


def test_what_is_skipped_by_itself_has_not_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selftest, "CHECKOUT", tmp_path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "test_shaky.py").write_text(SHAKY)
    (tmp_path / "skipped").touch()
    run = Run(tmp_path)
    options = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    selftest.pytest(run, "tests", [*options, *selftest.PARALLEL])
    assert (len(run.alone), run.failed) == (3, ["tests"])
    assert str(run.count) == "4 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"def test_{number}(): assert False\n" for number in range(selftest.MANY + 1)),
        "import nothing_of_that_name\n",
    ],
    ids=["many", "it can't be read"],
)
def test_what_is_no_accident_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setattr(selftest, "CHECKOUT", tmp_path)
    (tmp_path / "test_wrong.py").write_text("open('tried', 'a').write('.')\n" + text)
    run = Run(tmp_path)
    selftest.pytest(run, "tests", ["-p", "no:cacheprovider", "-c", "/dev/null", "test_wrong.py"])
    assert (run.alone, run.failed) == ([], ["tests"])
    assert (tmp_path / "tried").read_text() == "."


# ---- a room beside the others -------------------------------------------------------------------

SLOW = """import pathlib, pytest, time
HERE = pathlib.Path(__file__).parent
@pytest.fixture
def kept():
    (HERE / "up").touch()
    yield
    time.sleep(0.5)
    (HERE / "down").touch()
def test_slow(kept):
    until = time.monotonic() + 60
    while not (HERE / "go").exists() and time.monotonic() < until:
        time.sleep(0.05)
    (HERE / "through").touch()
def test_wrong():
    assert not "what is wrong"
"""

LABRUN_TEST = """import pathlib, subprocess, sys
from labs import selftest
from labs.selftest import Beside, Room
slow = sys.argv[1]
def beside(run):
    Beside(run, "slow", ["-p", "no:cacheprovider", "-c", "/dev/null", slow])
def after(run):
    print("after", flush=True)
    selftest.call([sys.executable, "-c", "import time; time.sleep(60)"])
selftest.prepare = lambda yes: None
selftest.tools.install = lambda group: None
selftest.ROOMS = (Room("slow", list, beside), Room("after", list, after))
selftest.command([], everything=True, yes=True)
"""


def await_that(it_is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not it_is_so():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)


def test_what_a_room_beside_the_others_says_comes_after_them_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_slow.py").write_text(SLOW)
    run = Run(tmp_path)
    with selftest.finishing(run):
        words = ["-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path / "test_slow.py")]
        selftest.Beside(run, "slow", words)
        # The control: it runs while this block does.
        await_that((tmp_path / "up").exists)
        selftest.say("a room that comes after it")
        run.failed.append("after")
        (tmp_path / "go").touch()
    said = capsys.readouterr().out
    assert said.startswith("a room that comes after it\nlabrun: slow\n")
    assert "what is wrong" in said
    assert re.search(r"1 failed, 1 passed in [\d.]+s", said)
    assert str(run.count) == "1 passed, 1 failed, 0 skipped"
    assert run.failed == ["after", "slow"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_runs_beside_ends_with_the_command_and_undoes_what_it_did(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "test_slow.py").write_text(SLOW)
    words = [sys.executable, "-c", LABRUN_TEST, str(tmp_path / "test_slow.py")]
    # What SIGKILL ends removes no folder; and, as at a terminal, Ctrl-C reaches the whole group.
    own = {**os.environ, "TMPDIR": str(tmp_path)}
    labrun = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=CHECKOUT, process_group=0, env=own)
    with labrun:
        await_that((tmp_path / "up").exists)
        os.killpg(labrun.pid, number)
        # A second one doesn't cut short what follows the first.
        time.sleep(0.2)
        os.killpg(labrun.pid, number)
        assert labrun.wait(30) == -number
        ended_before_us = (tmp_path / "down").exists()
        assert ended_before_us == (number == signal.SIGINT)
        await_that((tmp_path / "down").exists)
    assert not (tmp_path / "through").exists()


def test_while_the_machine_is_tested_no_tool_is_installed_that_is_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []
    monkeypatch.setattr(tools, "install", done.append)
    monkeypatch.setattr(selftest, "Beside", lambda *what: done.append("started"))
    monkeypatch.setattr(selftest, "pytest", lambda *what: None)
    selftest.machine(Run(tmp_path))
    selftest.site(Run(tmp_path))
    before, after = done[: done.index("started")], done[done.index("started") + 1 :]
    assert after
    assert set(after) <= set(before)


def test_on_another_python_what_judges_the_kernel_is_not_run_again() -> None:
    assert "not once" in selftest.AGAIN[1]
    assert selftest.AGAIN[1].removesuffix(" and not once") == selftest.CORE[1]
    assert selftest.AGAIN[2:] == selftest.CORE[2:]


def test_tests_of_one_group_run_in_one_worker(tmp_path: Path) -> None:
    """pytest and pytest-xdist must fit: where they don't, groups are ignored without a word."""
    (tmp_path / "test_group.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        f"def test_pid(number): open('{tmp_path}/pids', 'a').write(f'{{os.getpid()}} ')\n"
    )
    words = ["-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "-q"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tmp_path, check=True, capture_output=True
    )
    pids = (tmp_path / "pids").read_text().split()
    assert (len(pids), len(set(pids))) == (6, 1)


def test_the_locks_hold_every_dependency_and_no_address() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    core, dev = pinned("requirements.lock"), pinned("requirements-dev.lock")
    for lock, wanted in (
        (core, [*project["project"]["dependencies"], *groups["build"]]),
        (dev, groups["dev"]),
    ):
        names = {re.split(r"[<>=!~ ;\[]", each, maxsplit=1)[0] for each in wanted}
        # A lock spells a name as the index does.
        assert {re.sub(r"[-_.]+", "-", name) for name in names} <= set(lock)
    assert {name: core[name] for name in core.keys() & dev.keys()} == {
        name: dev[name] for name in core.keys() & dev.keys()
    }
    for lock_file in ("requirements.lock", "requirements-dev.lock"):
        text = (CHECKOUT / lock_file).read_text()
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text


def test_ci_runs_all_of_it() -> None:
    script = CHECKOUT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "./labrun test --all" in script.read_text()


def test_in_the_background_tests_can_still_be_interrupted(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A shell's `&` has Ctrl-C ignored, by all descendants too; tests send that signal."""
    for name in (signal.SIGINT, signal.SIGQUIT):
        request.addfinalizer(functools.partial(signal.signal, name, signal.getsignal(name)))
        signal.signal(name, signal.SIG_IGN)
    monkeypatch.setattr(tools, "install", lambda group: None)
    monkeypatch.setattr(selftest, "run_pytest", lambda words: 0)
    selftest.command(["x"], everything=False, yes=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL


@pytest.mark.parametrize("group", tools.GROUPS)
def test_an_environment_that_is_made_anew_forgets_what_was_installed_in_it(group: str) -> None:
    launcher = (CHECKOUT / "labrun").read_text(encoding="utf-8")
    assert f'"$1/.labrun/installed-{group}"' in launcher


@pytest.mark.parametrize(
    ("ci", "ends"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_what_is_not_installed_is_skipped_at_home_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, ends: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(ends, match="no such thing"):
        cannot("no such thing")
