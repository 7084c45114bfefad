"""Stage 5 when things go wrong at once: who is killed, who is interrupted, who is in whose way."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import LABRUN, run
from tests.stages.lives import Engine, eventually, is_there, start_all
from tests.stages.networks import STAGE5, Internet, on_host

pytestmark = [
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("machine"),
]

SLEEP = ("box", "/bin/sleep", "1000")


@pytest.fixture
def internet(rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    monkeypatch.setenv("LABRUN_STORE", str(tmp_path / "store"))
    ended = run([STAGE5, "image", "import", str(rootfs), "box"])
    assert ended.returncode == 0, ended
    with Internet(tmp_path) as internet:
        yield internet


@pytest.fixture
def engine(internet: Internet, tmp_path: Path) -> Iterator[Engine]:
    with on_host(internet.host, tmp_path) as engine:
        yield engine


def family(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def states(engine: Engine) -> dict[str, str]:
    """Return the state of each container that `ps -a` lists."""
    rows = engine.says("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()
    return dict(row.split() for row in rows if row)


def begin_all(engine: Engine) -> dict[str, int]:
    """Have a container of each kind; return their monitors' pids."""
    engine.says("network", "create", "shop")
    for name, options in {
        "plain": (),
        "door": ("-p", "8080:80"),
        "fleeting": ("--rm", "-v", "/data"),
        "again": ("--restart", "always", "--network", "shop"),
    }.items():
        engine.says("run", "-d", "--name", name, "-m", "32m", *options, *SLEEP)
    return {name: engine.known(name)["MonitorPid"] for name in states(engine)}


def test_after_a_power_cut_nothing_runs_and_all_can_be_started_or_cleaned(
    engine: Engine, internet: Internet
) -> None:
    monitors = begin_all(engine)
    assert {*states(engine).values()} == {"running"}
    helpers = [child for pid in monitors.values() for child in family(pid)]
    pids = [engine.pid(name) for name in monitors]
    # All at once: nobody can tidy up behind another.
    for pid in (*helpers, *monitors.values()):
        os.kill(pid, signal.SIGSTOP)
    for pid in (*helpers, *monitors.values()):
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        eventually(lambda pid=pid: is_there(pid), lambda there: not there)  # type: ignore[misc]
    found = states(engine)
    assert found == dict.fromkeys(monitors, "exited")
    assert engine.says("ps", "-q") == ""
    # What only a power cut takes with it is left here: `clean` knows it, and takes it.
    assert "labrun" in internet.rules()
    clean = internet.host.run(LABRUN, "clean", "--yes")
    assert clean.returncode == 0, clean
    assert {*states(engine)} == {"plain", "door", "again"}
    internet.clean_soon()
    engine.says("start", "plain", "door", "again")
    assert {*states(engine).values()} == {"running"}
    engine.says("rm", "-f", "plain", "door", "again")
    engine.says("volume", "prune")
    assert engine.says("volume", "ls", "-q") == ""
    engine.says("network", "rm", "shop")


@pytest.mark.parametrize("victim", ["monitor", "helper", "command"])
def test_whoever_is_killed_the_others_live_and_all_goes_away(
    engine: Engine, internet: Internet, victim: str
) -> None:
    monitors = begin_all(engine)
    for name, monitor in monitors.items():
        first = engine.pid(name)
        helpers = [child for child in family(monitor) if child != first]
        assert helpers, name
        (pid,) = {"monitor": [monitor], "helper": helpers[:1], "command": [first]}[victim]
        os.kill(pid, signal.SIGKILL)
        if victim == "helper":
            continue
        if name == "again" and victim == "command":
            # For a moment it has none.
            pids = [0, first]
            eventually(
                lambda: engine.known("again")["State"]["Pid"],
                lambda now, pids=pids: now not in pids,  # type: ignore[misc]
            )
        elif name == "fleeting" and victim == "command":
            eventually(lambda: states(engine), lambda now: "fleeting" not in now)
        else:
            engine.until(name, "exited")
            assert engine.known(name)["State"]["ExitCode"] == 137
    expected = {
        "monitor": dict.fromkeys(monitors, "exited"),
        "helper": dict.fromkeys(monitors, "running"),
        "command": {"plain": "exited", "door": "exited", "again": "running"},
    }
    assert states(engine) == expected[victim]
    engine.says("rm", "-f", "-v", *states(engine))
    engine.says("volume", "prune")
    internet.clean_soon()


def test_many_commands_at_once_on_one_container_confuse_nobody(engine: Engine) -> None:
    engine.says("run", "-d", "--name", "torn", "--net", "none", *SLEEP)
    words = ("stop -t 0", "start", "kill", "restart -t 0", "pause", "unpause", "start", "stop -t 0")
    for _ in range(3):
        ended = start_all([[engine.command, *word.split(), "torn"] for word in words])
        # Each is done, or says in one line why not.
        assert {one.returncode for one in ended} <= {0, 125}, ended
        assert all(len(one.stderr.splitlines()) <= 1 for one in ended), ended
        found = eventually(lambda: engine.status("torn"), lambda now: now != "created")
        assert found in ("running", "exited", "paused")
        assert (found != "exited") == is_there(engine.known("torn")["State"]["Pid"] or 1 << 30)
    ended = start_all([[engine.command, "rm", "-f", "torn"]] * 4)
    assert {one.returncode for one in ended} == {0}, ended
    assert states(engine) == {}


@pytest.mark.once
@pytest.mark.parametrize("way", ["run", "run -d", "run --rm", "start", "stop", "rm -f", "exec"])
def test_ctrl_c_in_the_middle_leaves_nothing_half_made(
    engine: Engine, internet: Internet, way: str
) -> None:
    door = ("-p", "8080:80", "-m", "32m")
    for moment in (40, 70, 100, 130, 160, 200, 300):
        if way.startswith("run"):
            line = [*way.split(), "--name", "hurt", *door, *SLEEP]
        else:
            engine.says("run", "-d", "--name", "hurt", *door, *SLEEP)
            if way == "start":
                engine.says("stop", "-t", "0", "hurt")
            line = [*way.split(), "hurt", *(["/bin/sleep", "1000"] if way == "exec" else [])]
        process = subprocess.Popen(
            [engine.command, *line],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        time.sleep(moment / 1000)
        # What a terminal does: all that are in the foreground hear it.
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
        if way in ("run", "run --rm", "exec"):
            # As with Docker, a command that doesn't listen is killed by the second.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        # Before our first line runs it is Python that tells of it.
        assert b"in main" not in said, said.decode()
        for name, state in states(engine).items():
            known = engine.known(name)["State"]
            assert known["Status"] == state
            assert known["Running"] == is_there(known["Pid"] or 1 << 30)
        ended = run([engine.command, "rm", "-f", "hurt"])
        assert ended.returncode == 0, ended
        assert engine.residue() == [], moment
    internet.clean_soon()
