"""Stage 5: a container's life, as those see it who look after it."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.stage4_overlayfs.more.leftovers import leftovers, remove_leftovers
from stages.stage4_overlayfs.store import Store
from tests.running import abandoned_groups, run
from tests.stages.lives import (
    QUIET,
    Engine,
    eventually,
    is_there,
    links_of,
    start_all,
)
from tests.stages.test_stage3 import gone

pytestmark = [
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("stage5 life"),
]

KILLED = 137
ALL = "pid,net,mnt,ipc,uts,user,cgroup,time"


@pytest.fixture(scope="module")
def stock(stage5: str, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with an image, `box`, of the busybox root."""
    store = tmp_path_factory.mktemp("store")
    ended = run(
        [stage5, "image", "import", str(rootfs), "box"], environment={"LABRUN_STORE": str(store)}
    )
    assert ended.returncode == 0, ended
    return store


@pytest.fixture
def engine(stage5: str, stock: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Have `stage5` use that store, and see that removing the containers leaves nothing."""
    monkeypatch.setenv("LABRUN_STORE", str(stock))
    engine = Engine(stage5, stock)
    yield engine
    for container in (stock / "containers").iterdir():
        run([stage5, "rm", "-f", container.name])
    assert engine.residue() == []


# ---- in the foreground


def test_the_command_gets_a_clean_environment_and_what_is_said(engine: Engine) -> None:
    line = [engine.command, "run", "--rm", *QUIET, "-e", "ONE=1", "-e", "TWO", "-e", "NONE"]
    ended = run([*line, "box", "/bin/env"], environment={"TWO": "2", "SECRET": "x"})
    rows = dict(row.split("=", 1) for row in ended.stdout.decode().splitlines())
    assert re.fullmatch("[0-9a-f]{12}", rows.pop("HOSTNAME"))
    assert rows == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "ONE": "1",
        "TWO": "2",
    }


def test_what_the_image_says_is_there_and_the_command_line_wins(
    engine: Engine, tmp_path: Path
) -> None:
    engine.begin("base")
    changes = ("ENV A=image B=image", "WORKDIR /made/by/nobody", "USER nobody", 'CMD ["/bin/env"]')
    options = [word for change in changes for word in ("-c", change)]
    engine.says("commit", *options, "base", "told")
    engine.says("rm", "-f", "base")
    said = engine.says("run", "--rm", *QUIET, "-e", "B=mine", "told").splitlines()
    assert {"A=image", "B=mine"} <= {*said}
    assert engine.says("run", "--rm", *QUIET, "told", "/bin/pwd") == "/made/by/nobody"
    assert engine.says("run", "--rm", *QUIET, "told", "/bin/id", "-un") == "nobody"
    assert engine.says("run", "--rm", *QUIET, "-u", "0", "-w", "/etc", "told", "/bin/pwd") == "/etc"
    echo = ("--entrypoint", "/bin/echo", "told", "hello")
    assert engine.says("run", "--rm", *QUIET, *echo) == "hello"
    engine.says("rmi", "told")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("/bin/sh", "-c", "exit 7"), 7),
        (("/nowhere",), 127),
        (("/etc/passwd",), 126),
    ],
)
@pytest.mark.parametrize("way", [("--rm",), ("--rm", "-d"), ()])
def test_how_the_command_ends_is_how_run_ends(
    engine: Engine, words: tuple[str, ...], status: int, way: tuple[str, ...]
) -> None:
    ended = run([engine.command, "run", *QUIET, *way, "box", *words])
    if "-d" in way and status < 126:
        # It ran: whoever wants to know more asks for it.
        assert ended.returncode == 0
        return
    assert ended.returncode == status
    assert len(ended.stderr.splitlines()) == (status >= 126), ended.stderr


@pytest.mark.parametrize("keep", [("--rm",), ()])
def test_streams_are_the_commands_byte_for_byte(engine: Engine, keep: tuple[str, ...]) -> None:
    sent = os.urandom(300_000)
    line = [engine.command, "run", *QUIET, *keep, "box", "/bin/sh", "-c", "cat; echo end >&2"]
    ended = subprocess.run(line, input=sent, capture_output=True, check=True)
    assert (ended.stdout == sent, ended.stderr) == (True, b"end\n")


def test_a_reader_that_goes_away_ends_the_command(engine: Engine) -> None:
    line = f"{engine.command} run --net none --name endless box yes | head -c 2; true"
    ended = run(["/bin/sh", "-c", line])
    assert ended.stdout == b"y\n"
    engine.until("endless", "exited")


@pytest.mark.parametrize("keep", [("--rm",), ()])
def test_signals_reach_the_command_and_a_second_interrupt_kills(
    engine: Engine, keep: tuple[str, ...]
) -> None:
    script = "trap 'echo term' TERM; trap 'echo int' INT; echo up; while :; do sleep 0.1; done"
    line = [engine.command, "run", *QUIET, *keep, "box", "/bin/sh", "-c", script]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    for signum, word in ((0, b"up\n"), (signal.SIGTERM, b"term\n"), (signal.SIGINT, b"int\n")):
        if signum:
            process.send_signal(signum)
        assert process.stdout.readline() == word
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == KILLED
    assert b"second SIGINT within 2 s: killing process" in said


@pytest.mark.parametrize("keep", [("--rm",), ()])
def test_a_runtime_in_the_foreground_that_is_killed_takes_the_command_along(
    engine: Engine, keep: tuple[str, ...]
) -> None:
    mark = f"lab-{os.urandom(6).hex()}"
    # As another user: a change of user undoes what makes the kernel kill it.
    line = [engine.command, "run", *QUIET, *keep, "-u", "65534", "--name", "victim", "box"]
    process = subprocess.Popen([*line, "/bin/sh", "-c", f"sleep 1000; : {mark}"])
    eventually(lambda: engine.names(), lambda names: "victim" in names)
    engine.until("victim", "running")
    pid = engine.pid("victim")
    process.kill()
    process.wait()
    eventually(lambda: is_there(pid), lambda there: not there)
    assert gone(mark) == []
    known = engine.known("victim")["State"]
    assert (known["Status"], known["ExitCode"]) == ("exited", KILLED)
    assert not abandoned_groups()


def test_a_working_directory_that_is_missing_is_made_but_only_inside(engine: Engine) -> None:
    assert engine.inside("pwd; ls -d /a/b", "-w", "/a/b") == "/a/b\n/a/b"
    with opened("/etc") as fd:
        for trap in (f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}/..", f"/proc/1/fd/{fd}"):
            line = [engine.command, "run", "--rm", *QUIET, "-w", trap, "box", "/bin/pwd"]
            ended = run(line, pass_fds=[fd])
            assert (ended.returncode, ended.stdout) == (125, b""), trap


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """Have a directory open as long as the block lasts."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


# ---- in the background


def test_run_in_the_background_says_the_id_and_leaves_the_caller(engine: Engine) -> None:
    # A caller that reads to the end comes to it: nobody else has the pipe.
    said = engine.begin("one", script="echo hello; sleep 1000")
    assert re.fullmatch("[0-9a-f]{12}", said)
    row = json.loads(engine.says("ps", "--format", "json"))
    assert (row["ID"], row["Names"], row["Image"], row["State"]) == (said, "one", "box", "running")
    # By its name, its ID, and how that begins.
    assert {engine.known(word)["Id"] for word in ("one", said, said[:5])} == {said}
    monitor = engine.known("one")["MonitorPid"]
    assert os.getsid(monitor) == monitor
    assert os.readlink(f"/proc/{monitor}/cwd") == "/"
    assert {os.readlink(f"/proc/{monitor}/fd/{fd}") for fd in range(3)} == {"/dev/null"}


def test_a_name_is_had_by_one_only_and_can_be_changed(engine: Engine) -> None:
    engine.begin("first")
    line = ("run", "-d", *QUIET, "--name", "first", "box", "/bin/true")
    assert "has this name" in engine.refuses(*line)
    engine.says("rename", "first", "second")
    assert engine.names() == {"second"}
    engine.begin("first")
    assert "has this name" in engine.refuses("rename", "second", "first")
    assert "letters, digits" in engine.refuses("rename", "second", "../x")


def test_many_at_once_all_have_names_of_their_own_and_run(engine: Engine) -> None:
    line = [engine.command, "run", "-d", *QUIET, "box", "/bin/sleep", "1000"]
    ended = start_all([line] * 12)
    assert {one.returncode for one in ended} == {0}, ended
    assert len({one.stdout for one in ended}) == len(engine.names()) == 12
    words = [one.stdout.decode().strip() for one in ended]
    engine.says("rm", "-f", *words)
    assert engine.residue() == []


def test_of_many_starts_at_once_one_starts_it(engine: Engine) -> None:
    engine.begin("once", script="echo started; sleep 1000")
    engine.says("kill", "once")
    ended = start_all([[engine.command, "start", "once"]] * 5)
    assert {one.returncode for one in ended} <= {0, 125}, ended
    assert any(one.returncode == 0 for one in ended)
    engine.until("once", "running")
    # The first time, and once more.
    assert engine.until_it_says("once", "(?s)started.*started").count("started") == 2


def test_stop_asks_first_and_kills_whoever_does_not_listen(engine: Engine) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    engine.begin("polite", script=script)
    engine.begin("deaf", script="trap '' TERM; echo up; while :; do sleep 0.05; done")
    engine.begin("other", "--stop-signal", "USR1", script=script.replace("TERM", "USR1"))
    for name in ("polite", "deaf", "other"):
        engine.until_it_says(name, "up")
    engine.says("stop", "polite", "other")
    begun = time.monotonic()
    engine.says("stop", "-t", "1", "deaf")
    assert time.monotonic() - begun >= 1
    found = {name: engine.known(name)["State"]["ExitCode"] for name in ("polite", "deaf", "other")}
    assert found == {"polite": 5, "deaf": KILLED, "other": 5}
    assert "bye" in engine.says("logs", "polite")
    assert not abandoned_groups()


def test_kill_sends_any_signal_and_wait_says_how_it_ended(engine: Engine) -> None:
    script = "trap 'echo usr1' USR1; trap 'exit 9' HUP; echo up; while :; do sleep 0.05; done"
    engine.begin("one", script=script)
    engine.until_it_says("one", "up")
    engine.says("kill", "-s", "SIGUSR1", "one")
    engine.until_it_says("one", "usr1")
    waiting = subprocess.Popen([engine.command, "wait", "one"], stdout=subprocess.PIPE)
    engine.says("kill", "-s", "1", "one")
    assert (waiting.communicate()[0], waiting.returncode) == (b"9\n", 0)
    assert engine.says("wait", "one") == "9"
    assert "it doesn't run" in engine.refuses("kill", "one")
    assert "no signal is called so" in engine.refuses("kill", "-s", "NONE", "one")


def test_whoever_waits_hears_also_of_one_that_is_removed_at_its_end(engine: Engine) -> None:
    engine.begin("brief", "--rm", script="sleep 1; exit 6")
    assert engine.says("wait", "brief") == "6"
    assert engine.names("-a") == set()


def test_a_container_that_was_there_before_is_started_with_what_it_had(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIVEN", "by the caller")
    script = 'echo "$GIVEN $ODD" | tee -a /kept /shared/file; exit 4'
    line = ["create", *QUIET, "--name", "again", "-v", "./shared:/shared", "-e", "GIVEN"]
    odd = b"ODD=\xff\xfe"
    ended = run([engine.command, *line, "-e", odd, "box", "/bin/sh", "-c", script])
    assert ended.returncode == 0, ended
    assert engine.status("again") == "created"
    # From elsewhere, with another environment.
    monkeypatch.chdir("/")
    monkeypatch.delenv("GIVEN")
    for count in (1, 2):
        ended = run([engine.command, "start", "-a", "again"])
        assert (ended.returncode, ended.stdout) == (4, b"by the caller \xff\xfe\n")
        assert (tmp_path / "shared" / "file").read_bytes() == ended.stdout * count
    # What it wrote outside of volumes is its own, and is what it changed.
    assert engine.says("diff", "again") == "A /kept"


def test_what_stage_4_can_do_with_containers_stage_5_can_do_with_its_own(engine: Engine) -> None:
    engine.begin("base", script="echo changed >/new; echo up; sleep 1000")
    engine.until_it_says("base", "up")
    assert json.loads(engine.says("diff", "--format", "json", "base")) == [
        {"Kind": "A", "Path": "/new"}
    ]
    digest = engine.says("commit", "base", "made:one")
    assert engine.status("base") == "running"
    rows = engine.says("images", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").splitlines()
    assert f"made one {digest}" in rows
    assert engine.says("run", "--rm", *QUIET, "made:one", "/bin/cat", "/new") == "changed"
    engine.says("rmi", "made:one")
    assert "made" not in engine.says("images")
    # Stage 4 removes them, too: what belongs to them is all in one folder.
    engine.says("stop", "-t", "0", "base")
    ended = run([engine.command.replace("stage5", "stage4"), "rm", "base"])
    assert ended.returncode == 0, ended


# ---- who dies, and who believes what


def test_a_killed_monitor_takes_the_command_along_and_all_is_as_before(engine: Engine) -> None:
    engine.begin("orphan", "-u", "65534")
    pid, monitor = engine.pid("orphan"), engine.known("orphan")["MonitorPid"]
    waiting = subprocess.Popen([engine.command, "wait", "orphan"], stdout=subprocess.PIPE)
    time.sleep(0.3)
    os.kill(monitor, signal.SIGKILL)
    assert waiting.communicate(timeout=30)[0] == b"137\n"
    eventually(lambda: is_there(pid), lambda there: not there)
    known = engine.known("orphan")["State"]
    assert (known["Status"], known["ExitCode"], known["Pid"]) == ("exited", KILLED, 0)
    assert "monitor was killed" in known["Error"]
    assert "it doesn't run" in engine.refuses("exec", "orphan", "/bin/true")
    assert not abandoned_groups()
    engine.says("start", "orphan")
    assert engine.status("orphan") == "running"


@pytest.mark.parametrize("lie", ["boot", "birth", "torn"])
def test_what_was_written_down_before_is_not_believed_blindly(engine: Engine, lie: str) -> None:
    engine.begin("stale")
    file = engine.folder("stale") / "state.json"
    facts = json.loads(file.read_text(encoding="ascii"))
    engine.says("kill", "stale")
    # As if nobody had noted its end: the machine was switched off; or the numbers are others' now.
    if lie == "boot":
        mine = Path(f"/proc/{os.getpid()}/stat").read_text(encoding="utf-8")
        birth = int(mine.rpartition(")")[2].split()[19])
        facts |= {"boot": "another", "pid": os.getpid(), "monitor": os.getpid()}
        facts |= {"birth": birth, "monitor_birth": birth}
    elif lie == "birth":
        facts |= {"pid": os.getpid(), "monitor": os.getpid()}
    text = json.dumps(facts)
    file.write_text(text[: len(text) // 2] if lie == "torn" else text, encoding="ascii")
    assert engine.status("stale") == ("created" if lie == "torn" else "exited")
    assert "it doesn't run" in engine.refuses("exec", "stale", "/bin/true")
    assert "it doesn't run" in engine.refuses("kill", "stale")
    engine.says("stop", "stale")
    engine.says("start", "stale")
    assert engine.status("stale") == "running"


def test_the_same_lies_would_be_believed_if_the_process_were_the_one(engine: Engine) -> None:
    # The control to the test above: the same file, with facts that are true.
    engine.begin("true")
    file = engine.folder("true") / "state.json"
    file.write_text(file.read_text(encoding="ascii"), encoding="ascii")
    assert engine.status("true") == "running"


def test_what_is_killed_at_any_moment_can_be_removed_and_made_again(engine: Engine) -> None:
    for moment in (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2):
        line = [engine.command, "run", "-d", *QUIET, "--name", "hurt", "box", "/bin/sleep", "1000"]
        process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for folder in (engine.store / "containers").iterdir():
            run([engine.command, "rm", "-f", folder.name])
        eventually(lambda: [*(engine.store / "containers").iterdir()], lambda left: not left)
    engine.begin("hurt")
    assert not abandoned_groups()


# ---- restarts


def test_on_failure_starts_again_so_often_and_not_after_success(engine: Engine) -> None:
    engine.begin("fails", "--restart", "on-failure:2", script="echo try; exit 3")
    engine.begin("works", "--restart", "on-failure:2", script="echo try")
    for name, tries in (("fails", 3), ("works", 1)):
        engine.says("wait", name)
        assert engine.says("logs", name).split() == ["try"] * tries
        assert engine.known(name)["RestartCount"] == tries - 1


def test_always_starts_again_later_and_later_until_it_is_stopped(engine: Engine) -> None:
    engine.begin("crash", "--restart", "always", script="echo try; exit 3")
    rows = engine.until_it_says("crash", r"(?s)(try.*){4}")
    assert engine.status("crash") in ("restarting", "running")
    times = engine.says("logs", "-t", "crash").splitlines()
    stamps = [float(row.split()[0][17:29]) % 60 for row in times]
    pauses = [(b - a) % 60 for a, b in itertools.pairwise(stamps)]
    # At least so long: a busy machine takes its time besides.
    assert all(pause >= 0.1 * 2**count for count, pause in enumerate(pauses[:3])), pauses
    engine.says("stop", "crash")
    count = engine.says("logs", "crash").count("try")
    assert count >= rows.count("try")
    time.sleep(1)
    assert (engine.status("crash"), engine.says("logs", "crash").count("try")) == ("exited", count)
    engine.says("start", "crash")
    eventually(lambda: engine.says("logs", "crash").count("try"), lambda now: now > count + 1)


def test_a_command_that_is_killed_from_outside_is_started_again_with_the_same_files(
    engine: Engine,
) -> None:
    script = "echo $$ >>/runs; echo up; sleep 1000"
    engine.begin("phoenix", "--restart", "unless-stopped", script=script)
    engine.until_it_says("phoenix", "up")
    first = engine.pid("phoenix")
    os.kill(first, signal.SIGKILL)
    engine.until_it_says("phoenix", "(?s)up.*up")
    assert engine.pid("phoenix") != first
    assert engine.within("phoenix", "cat /runs") == "1\n1"
    engine.says("kill", "phoenix")
    assert engine.status("phoenix") == "exited"


@pytest.mark.parametrize("text", ["sometimes", "always:3", "on-failure:x"])
def test_a_policy_that_is_none_is_refused(engine: Engine, text: str) -> None:
    line = ("run", "-d", *QUIET, "--restart", text, "box", "/bin/true")
    assert f"--restart {text}" in engine.refuses(*line)


def test_nothing_is_started_again_that_is_to_be_removed(engine: Engine) -> None:
    line = ("run", "-d", "--rm", *QUIET, "--restart", "always", "box", "/bin/true")
    assert "--rm" in engine.refuses(*line)


# ---- exec


@pytest.mark.parametrize("kinds", ["", ALL])
def test_exec_is_where_the_first_command_is(engine: Engine, kinds: str) -> None:
    options = ["--namespaces", kinds] if kinds else []
    engine.begin("host", *options)
    pid = engine.pid("host")
    begun = subprocess.Popen([engine.command, "exec", "host", "/bin/sleep", "1000"])
    (other,) = eventually(lambda: children_named("/bin/sleep 1000", pid), lambda pids: bool(pids))
    assert links_of(other) == links_of(pid)
    ours, theirs = (Path(f"/proc/{one}/cgroup").read_text("ascii") for one in (other, pid))
    assert ours == theirs != Path("/proc/self/cgroup").read_text("ascii")
    assert os.stat(f"/proc/{other}/root/").st_ino == os.stat(f"/proc/{pid}/root/").st_ino
    rows = [status_of(one) for one in (other, pid)]
    assert rows[0] == rows[1]
    assert rows[0]["Seccomp"] == "2"
    assert {*os.listdir(f"/proc/{other}/fd")} == {"0", "1", "2"}
    # Whoever has begun it takes it along.
    begun.kill()
    begun.wait()
    eventually(lambda: is_there(other), lambda there: not there)
    assert is_there(pid)


def children_named(words: str, like: int) -> list[int]:
    """Return the processes with that command line in the pid namespace of another."""
    space = os.readlink(f"/proc/{like}/ns/pid")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if line == words and os.readlink(entry / "ns/pid") == space:
                found.append(int(entry.name))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def status_of(pid: int) -> dict[str, str]:
    """Return what a process may do."""
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "NoNewPrivs", "Uid")
    rows = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return {name: value.strip() for name, _, value in (row.partition(":") for row in rows)
            if name in wanted}  # fmt: skip


def test_exec_gives_what_it_is_told_and_says_how_it_ended(engine: Engine) -> None:
    engine.begin("host", "-e", "FROM=run", "-w", "/etc")
    said = engine.within("host", 'echo "$FROM $MINE $HOME"; pwd', "-e", "MINE=exec")
    assert said == "run exec /root\n/etc"
    assert engine.within("host", "pwd; id -u; echo $HOME", "-w", "/bin", "-u", "1234") == (
        "/bin\n1234\n/"
    )
    ended = subprocess.run(
        [engine.command, "exec", "-i", "host", "/bin/sh", "-c", "cat; exit 3"],
        input=b"typed", capture_output=True, check=False,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"typed", b"", 3)
    assert engine.refuses("exec", "host", "/nowhere", status=127)
    assert engine.refuses("exec", "host", "/etc/passwd", status=126)
    assert engine.refuses("exec", "-u", "nobody-here", "host", "/bin/true")
    engine.says("exec", "-d", "host", "/bin/sh", "-c", "sleep 0.2; echo done >/marker")
    eventually(lambda: engine.within("host", "cat /marker 2>&1; true"), lambda t: t == "done")
    engine.says("pause", "host")
    assert "it is paused" in engine.refuses("exec", "host", "/bin/true")


def test_exec_without_interactive_reads_nothing_of_the_callers(engine: Engine) -> None:
    engine.begin("host")
    line = [engine.command, "exec", "host", "/bin/cat"]
    ended = subprocess.run(line, input=b"typed", capture_output=True, check=True)
    assert ended.stdout == b""


def test_no_descriptor_of_the_callers_comes_in_by_exec(engine: Engine) -> None:
    # CVE-2024-21626: a directory of the host's that is left open, and a working directory there.
    engine.begin("host")
    with opened("/etc") as fd:
        line = [engine.command, "exec", "host", "/bin/ls", "/proc/self/fd"]
        # ls itself has the directory open that it lists.
        assert run(line, pass_fds=[fd]).stdout.split() == [b"0", b"1", b"2", b"3"]
        for trap in (f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}/..", f"/proc/1/fd/{fd}"):
            line = [engine.command, "exec", "-w", trap, "host", "/bin/ls", "-id", "."]
            ended = run(line, pass_fds=[fd])
            assert (ended.returncode, ended.stdout) == (125, b""), trap


WATCH = """
while :; do
  sleep 0.05
  for one in /proc/[0-9]*; do
    for what in exe root cwd; do
      link=$(readlink $one/$what 2>/dev/null) || continue
      case "$link" in *python*|/opt/*|/root/*) echo "SEEN $one/$what $link";; esac
    done
  done
done
"""


SLOW = """
import sys, time
from stages import linux
from stages.stage5_container import cli
die, careful = linux.set_pdeathsig, sys.argv[1] == "True"
def slowly(signum):
    die(signum)
    time.sleep(2)
linux.set_pdeathsig = slowly
if not careful:
    linux.set_dumpable = lambda value: None
sys.argv = ["stage5", *sys.argv[2:]]
cli.main()
"""


@pytest.mark.parametrize("careful", [True, False])
def test_nobody_inside_gets_hold_of_the_program_that_comes_in(
    engine: Engine, careful: bool
) -> None:
    # CVE-2019-5736: /proc/PID/exe of whoever enters would be a program file of the host's. It has
    # no more rights than those inside in the end, so that these don't protect it; we make that
    # moment long. Without what protects it, the watcher does see it: so it would.
    engine.begin("watcher", script=WATCH)
    line = [sys.executable, "-c", SLOW, str(careful), "exec", "watcher", "/bin/true"]
    assert run(line).returncode == 0
    assert ("SEEN" in engine.says("logs", "watcher")) == (not careful)


# ---- what it is, what it does, what it takes


def test_pause_stops_every_process_where_it_stands(engine: Engine) -> None:
    engine.begin("clock", script="i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    engine.until_it_says("clock", "3")
    engine.says("pause", "clock")
    before = engine.says("logs", "clock")
    time.sleep(0.3)
    assert engine.says("logs", "clock") == before
    assert "(Paused)" in engine.says("ps", "--format", "{{.Status}}")
    assert engine.names("--filter", "status=paused") == {"clock"}
    assert "paused already" in engine.refuses("pause", "clock")
    engine.says("unpause", "clock")
    eventually(lambda: engine.says("logs", "clock"), lambda now: len(now) > len(before))
    assert "it isn't paused" in engine.refuses("unpause", "clock")
    engine.says("pause", "clock")
    # Who stands still can't hear; it is stopped all the same.
    engine.says("stop", "-t", "1", "clock")
    assert engine.status("clock") == "exited"


def test_ps_filters_and_forms(engine: Engine) -> None:
    first = engine.begin("first", "-l", "tier=web")
    engine.begin("second", "-l", "tier=db", script="exit 3")
    engine.says("wait", "second")
    assert engine.names() == {"first"}
    assert engine.names("-a") == {"first", "second"}
    for asked, names in {
        "label=tier=web": {"first"}, "label=tier": {"first"}, "name=fir": {"first"},
        "exited=3": {"second"}, "exited=4": set(), "status=exited": {"second"},
        "ancestor=box": {"first"}, "network=none": {"first"}, f"id={first[:4]}": {"first"},
    }.items():  # fmt: skip
        assert engine.names("--filter", asked) == names, asked
    assert engine.says("ps", "-q") == first
    assert engine.names("-l") == {"second"}
    for asked, names in {
        "before=second": {"first"}, "since=first": {"second"}, "volume=/x": set(),
        "publish=80": set(), "status=created": set(),
    }.items():  # fmt: skip
        assert engine.names("-a", "--filter", asked) == names, asked
    assert "say K=V" in engine.refuses("ps", "--filter", "colour=red")
    assert "say one of created" in engine.refuses("ps", "--filter", "status=well")
    assert "no container" in engine.refuses("ps", "--filter", "since=nobody")
    assert "there is no field" in engine.refuses("ps", "--format", "{{.Colour}}")
    head = engine.says("ps").splitlines()[0]
    # Docker's columns, and as wide.
    assert re.fullmatch(
        r"CONTAINER ID   IMAGE     COMMAND {14,}CREATED +STATUS +PORTS     NAMES", head
    )
    rows = engine.says("ps", "--format", "table {{.Names}}\\t{{.State}}").splitlines()
    assert [row.split() for row in rows] == [["NAMES", "STATE"], ["first", "running"]]
    assert "SIZE" in engine.says("ps", "-s").splitlines()[0].split()
    assert "0B" in engine.says("ps", "--format", "{{.Size}}")


def test_logs_keep_streams_apart_and_whole_lines_with_their_times(engine: Engine) -> None:
    engine.begin("two", script="echo out; echo err >&2")
    script = "echo first; printf 'no end'; sleep 1; printf ' of line\\n'; sleep 1; echo last"
    engine.begin("wordy", script=script)
    engine.says("wait", "two", "wordy")
    ended = run([engine.command, "logs", "two"])
    assert (ended.stdout, ended.stderr) == (b"out\n", b"err\n")
    assert engine.says("logs", "wordy") == "first\nno end of line\nlast"
    ended = run([engine.command, "logs", "-t", "-n", "2", "wordy"])
    rows = ended.stdout.decode().splitlines()
    assert [row.partition(" ")[2] for row in rows] == ["no end of line", "last"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{9}Z ", row) for row in rows)
    middle = rows[1].partition(" ")[0]
    assert engine.says("logs", "--since", middle, "wordy") == "last"
    assert engine.says("logs", "--since", "1h", "-n", "1", "wordy") == "last"


def test_logs_are_followed_until_the_container_ends(engine: Engine) -> None:
    engine.begin("talker", "--log-opt", "max-size=4k", "--log-opt", "max-file=9",
                 script="i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; done")  # fmt: skip
    ended = run([engine.command, "logs", "-f", "talker"])
    assert ended.stdout.split() == [str(i).encode() for i in range(1, 301)]


def test_old_lines_go_when_there_are_too_many(engine: Engine) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done"
    engine.begin("flood", "--log-opt", "max-size=20k", "--log-opt", "max-file=2", script=script)
    engine.says("wait", "flood")
    folder = engine.folder("flood")
    files = sorted(folder.glob("log*"))
    assert [file.name for file in files] == ["log", "log.1"]
    rows = engine.says("logs", "flood").splitlines()
    assert rows[-1] == "line 2000"
    assert 0 < len(rows) < 2000
    kept = [int(row.split()[1]) for row in rows]
    assert kept == [*range(kept[0], 2001)]


def test_top_and_stats_tell_of_its_processes_alone(engine: Engine) -> None:
    engine.begin("busy", "-m", "64m", script="sleep 1000 & while :; do :; done")
    rows = engine.says("top", "busy").splitlines()
    assert rows[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert {row.split()[0] for row in rows[1:]} == {"root"}
    assert {row.split()[1] for row in rows[1:]} >= {str(engine.pid("busy"))}
    assert len(rows) == 3
    row = json.loads(engine.says("stats", "--no-stream", "--format", "json", "busy"))
    assert float(row["CPUPerc"].rstrip("%")) > 10
    assert row["MemUsage"].endswith(" / 64MiB")
    assert (row["PIDs"], row["Name"]) == ("2", "busy")


def test_inspect_tells_in_dockers_words(engine: Engine, tmp_path: Path) -> None:
    options = ("-m", "64m", "-v", f"{tmp_path}:/data:ro", "-e", "A=b", "-l", "k=v", "-w", "/etc")
    engine.begin("known", *options, "--restart", "on-failure:3", "--hostname", "inner")
    known = engine.known("known")
    assert known["Name"] == "/known"
    assert known["State"]["Running"]
    assert known["HostConfig"]["Memory"] == 64 << 20
    assert known["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert known["HostConfig"]["NetworkMode"] == "none"
    mounts = {one["Destination"]: one for one in known["Mounts"]}
    assert (mounts["/data"]["Source"], mounts["/data"]["RW"]) == (str(tmp_path), False)
    config = known["Config"]
    assert (config["Hostname"], config["WorkingDir"]) == ("inner", "/etc")
    assert config["Labels"] == {"k": "v"}
    assert "A=b" in config["Env"]
    assert engine.says("inspect", "-f", "{{.State.Status}} {{.Id}}", "known").startswith("running ")
    assert json.loads(engine.says("inspect", "box"))[0]["RepoTags"] == ["box:latest"]
    ended = run([engine.command, "inspect", "--type", "container", "box", "known"])
    assert (ended.returncode, len(json.loads(ended.stdout))) == (125, 1)
    assert b"no container" in ended.stderr
    ended = run([engine.command, "inspect", "nobody"])
    assert (ended.returncode, json.loads(ended.stdout)) == (125, [])
    assert b"no container and no image" in ended.stderr


def test_init_reaps_orphans_hands_signals_on_and_tells_nothing_of_the_host(engine: Engine) -> None:
    script = "trap 'exit 8' TERM; (sleep 0.1 &) ; sleep 0.5; ps -o pid,stat,args; echo up; "
    script += "while :; do sleep 0.05; done"
    engine.begin("tidy", "--init", "-e", "INNER=1", script=script)
    rows = engine.until_it_says("tidy", "up").splitlines()
    assert not [row for row in rows if " Z" in row]
    assert engine.within("tidy", "tr '\\0' ' ' </proc/1/cmdline").split() == ["init"]
    monitor = engine.known("tidy")["MonitorPid"]
    outer = Path(f"/proc/{engine.pid('tidy')}/environ").read_bytes().replace(b"\0", b"")
    assert (outer, b"PATH=" in Path(f"/proc/{monitor}/environ").read_bytes()) == (b"", True)
    # Nobody inside may open its program file, which is the host's.
    seen = run([engine.command, "exec", "tidy", "/bin/sh", "-c", "head -c 1 /proc/1/exe"])
    assert (seen.returncode != 0, b"Permission denied" in seen.stderr) == (True, True)
    begun = time.monotonic()
    engine.says("stop", "tidy")
    assert time.monotonic() - begun < 8
    assert engine.known("tidy")["State"]["ExitCode"] == 8


def test_without_init_orphans_stay_dead_and_unburied(engine: Engine) -> None:
    # The control: a shell that waits for its own children only, as its pid 1.
    script = "(sleep 0.1 &) ; exec sleep 1000"
    engine.begin("untidy", script=script)
    eventually(lambda: engine.within("untidy", "ps -o pid,stat,args"), lambda t: " Z" in t)


def test_system_df_counts_and_prune_removes_what_nobody_needs(engine: Engine) -> None:
    engine.begin("alive")
    engine.begin("dead", script="dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null")
    engine.says("wait", "dead")
    rows = [json.loads(row) for row in engine.says("system", "df", "--format", "json").splitlines()]
    found = {row["Type"]: (row["TotalCount"], row["Active"]) for row in rows}
    assert found["Containers"] == ("2", "1")
    assert found["Images"] == ("1", "1")
    said = engine.says("system", "prune", "-f")
    assert re.search("Total reclaimed space: [1-9]", said)
    assert engine.names("-a") == {"alive"}
    assert engine.within("alive", "echo still") == "still"


def test_rm_needs_force_for_one_that_runs(engine: Engine) -> None:
    engine.begin("alive")
    pid = engine.pid("alive")
    assert "it is running" in engine.refuses("rm", "alive")
    assert is_there(pid)
    engine.says("rm", "-f", "alive")
    assert not is_there(pid)
    # As Docker has it: what was to be gone is gone.
    ended = run([engine.command, "rm", "-f", "alive"])
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert b"no container has this name" in ended.stderr
    assert "no container has this name" in engine.refuses("rm", "alive")
    assert engine.residue() == []


@pytest.mark.parametrize("words", [("frobnicate",), ("ps", "--frob"), ("stop",), ("system",), ()])
def test_a_command_line_that_is_off_gets_usage(engine: Engine, words: tuple[str, ...]) -> None:
    ended = run([engine.command, *words])
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"Usage: stage5" in ended.stderr


def test_docker_users_long_ways_are_known(engine: Engine) -> None:
    engine.says("container", "run", "-d", *QUIET, "--name", "first", "box", "/bin/true")
    engine.says("container", "wait", "first")
    assert engine.says("container", "ls", "-a", "--format", "{{.Names}}") == "first"
    name = engine.known("first")["Id"]
    begun = engine.begin("second", "-l", "keep")
    assert engine.says("container", "prune").splitlines()[:2] == ["Deleted Containers:", name]
    engine.says("stop", "-t", "0", "second")
    assert engine.names("-a") == {"second"}
    assert begun in engine.says("container", "prune", "--filter", "label=keep")
    engine.says("tag", "box", "crate:2")
    assert "crate" in engine.says("images", "--format", "{{.Repository}}")
    assert "imported" in engine.says("history", "crate:2")
    engine.says("rmi", "crate:2")
    assert (
        "there is no command 'frob'" in run([engine.command, "container", "frob"]).stderr.decode()
    )


def test_create_with_rm_is_wanted_until_it_has_run(engine: Engine) -> None:
    engine.says("create", "--rm", *QUIET, "--name", "later", "box", "/bin/echo", "ran")
    # Whoever tidies up behind killed runtimes leaves it alone.
    assert leftovers(Store(str(engine.store))) == []
    assert remove_leftovers(Store(str(engine.store))) == []
    assert engine.names("-a") == {"later"}
    assert engine.says("start", "-a", "later") == "ran"
    eventually(lambda: engine.names("-a"), lambda names: not names)
    assert "letters, digits" in engine.refuses("create", "--name", "x", "box", "/bin/true")


def test_what_waits_for_the_last_moment_hears_of_the_end(engine: Engine) -> None:
    engine.begin("brief", script="exit 6")
    waiting = [
        subprocess.Popen([engine.command, "wait", "brief"], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert {one.communicate(timeout=60)[0] for one in waiting} == {b"6\n"}


def test_those_that_do_not_listen_are_killed_side_by_side(engine: Engine) -> None:
    names = [f"deaf{number}" for number in range(4)]
    for name in names:
        engine.begin(name, script="trap '' TERM; echo up; while :; do sleep 0.05; done")
    for name in names:
        engine.until_it_says(name, "up")
    engine.says("stop", "-t", "2", *names)
    ends = [engine.known(name)["State"]["FinishedAt"] for name in names]
    moments = sorted(float(end[17:29]) for end in ends)
    # One after the other they would be 2 s apart; a minute may have ended between them.
    assert moments[-1] - moments[0] < 2 or moments[-1] - moments[0] > 50
    assert {engine.known(name)["State"]["ExitCode"] for name in names} == {KILLED}


def test_letters_can_be_said_together_and_options_behind_operands(engine: Engine) -> None:
    assert engine.says("run", "-i", "--rm", *QUIET, "box", "/bin/echo", "-n") == ""
    engine.says("run", "-di", "--rm", *QUIET, "--name", "pair", "box", "/bin/cat")
    assert engine.says("ps", "-aq") == engine.known("pair")["Id"]
    engine.says("stop", "pair", "-t", "0")
