"""Stage 5's terminals: the container's own, seen through the caller's."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.running import run
from tests.stages.lives import QUIET, Engine, eventually, is_there

pytestmark = [
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("stage5 terminal"),
]

DETACH = "\x10\x11"


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
    monkeypatch.setenv("LABRUN_STORE", str(stock))
    engine = Engine(stage5, stock)
    yield engine
    for container in (stock / "containers").iterdir():
        run([stage5, "rm", "-f", container.name])
    assert engine.residue() == []


class Caller:
    """Somebody at a terminal, who has typed a command line of stage5's."""

    def __init__(self, engine: Engine, *words: str, rows: int = 24, columns: int = 80) -> None:
        size = (rows, columns)
        self.child = pexpect.spawn(
            engine.command, list(words), dimensions=size, timeout=60, encoding="utf-8"
        )

    def asks(self, line: str) -> str:
        """Type a line to a shell inside; return what it prints."""
        # Its echo has the quotes in it, so only the answer is what we wait for.
        self.child.sendline(f"echo 'BE''GIN'; {line}; echo 'E''ND'")
        self.child.expect("BEGIN\r\n(.*)END\r\n")
        assert self.child.match
        text: str = self.child.match[1]
        return text.replace("\r", "").strip()

    def ends(self) -> int:
        """Wait for its end; return its exit status, as a shell has it."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        # One more Ctrl-C may come when all is cleared away, and nobody holds it back any more.
        ended: int | None = self.child.exitstatus
        return 128 + self.child.signalstatus if ended is None else ended

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)


SHELL = ("box", "/bin/sh")


def test_the_terminal_is_the_containers_own_and_its_console(engine: Engine) -> None:
    line = ("run", "-it", "--name", "seat", *QUIET, *SHELL)
    with Caller(engine, *line, rows=31, columns=97) as caller:
        assert caller.asks("tty") == "/dev/pts/0"
        assert caller.asks("stty size") == "31 97"
        assert caller.asks("echo $TERM") == "xterm"
        assert re.match(r"crw.* 136, +0 .*/dev/console$", caller.asks("ls -l /dev/console"))
        # Its devpts has this one alone: the caller's is in another.
        assert caller.asks("ls /dev/pts").split() == ["0", "ptmx"]
        pid = engine.pid("seat")
        session, number = stat_of(pid)
        assert session == pid
        assert (os.major(number), os.minor(number)) == (136, 0)
        caller.child.setwinsize(40, 120)
        eventually(lambda: caller.asks("stty size"), lambda size: size == "40 120")
        caller.child.sendline("exit 7")
        assert caller.ends() == 7


def stat_of(pid: int) -> tuple[int, int]:
    """Return the session of a process, and the device of its terminal. See proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return int(fields[3]), int(fields[4])


def test_keys_are_the_commands_and_interrupt_what_it_runs(engine: Engine) -> None:
    with Caller(engine, "run", "-it", "--rm", *QUIET, *SHELL) as caller:
        caller.asks("true")
        caller.child.sendline("sleep 1000")
        time.sleep(1)
        caller.child.sendintr()
        caller.child.sendline("echo status=$?")
        caller.child.expect("status=130")
        caller.child.sendline("exit 3")
        assert caller.ends() == 3


def test_what_is_typed_before_there_is_a_command_is_kept(engine: Engine) -> None:
    with Caller(engine, "run", "-it", "--rm", *QUIET, *SHELL) as caller:
        assert caller.asks("echo early") == "early"


def test_whoever_leaves_can_come_back_and_logs_have_it_all(engine: Engine) -> None:
    with Caller(engine, "run", "-it", "--name", "seat", *QUIET, *SHELL) as caller:
        assert caller.asks("echo first") == "first"
        caller.child.send(DETACH)
        assert caller.ends() == 0
    assert engine.status("seat") == "running"
    with Caller(engine, "attach", "seat", rows=20, columns=70) as caller:
        assert caller.asks("stty size; echo second") == "20 70\nsecond"
        # Another who comes sees the same.
        with Caller(engine, "attach", "seat") as other:
            other.child.sendline("echo fr''om-other")
            caller.child.expect("from-other")
            other.child.send(DETACH)
            assert other.ends() == 0
        caller.child.sendline("exit 9")
        assert caller.ends() == 9
    logs = engine.says("logs", "seat")
    assert "first" in logs
    assert "from-other" in logs


@pytest.mark.parametrize("way", ["killed", "window closed"])
def test_an_owner_who_dies_without_a_word_takes_the_container_along(
    engine: Engine, way: str
) -> None:
    with Caller(engine, "run", "-it", "--rm", "--name", "seat", *QUIET, *SHELL) as caller:
        caller.asks("true")
        pid = engine.pid("seat")
        if way == "killed":
            caller.child.kill(signal.SIGKILL)
        else:
            caller.child.close(force=False)
        eventually(lambda: is_there(pid), lambda there: not there)
        eventually(lambda: engine.names("-a"), lambda names: names == set())


def test_exec_has_a_terminal_of_its_own_too(engine: Engine) -> None:
    engine.begin("host")
    with Caller(engine, "exec", "-it", "host", "/bin/sh", rows=22, columns=66) as caller:
        assert caller.asks("tty; stty size") == "/dev/pts/0\n22 66"
        caller.child.setwinsize(40, 120)
        eventually(lambda: caller.asks("stty size"), lambda size: size == "40 120")
        caller.child.sendline("seq 1 3000; exit 4")
        assert caller.ends() == 4
        assert caller.child.before.rstrip().endswith("3000")
    assert engine.status("host") == "running"


def test_exec_takes_no_terminal_that_the_container_has_put_there(engine: Engine) -> None:
    # CVE-2025-52565: the container decides what its names lead to.
    trap = "mount -t tmpfs none /mnt 2>/dev/null; rm -f /dev/ptmx; ln -s /dev/null /dev/ptmx"
    engine.begin("host", script=f"{trap}; sleep 1000")
    with Caller(engine, "exec", "-t", "host", "/bin/sh", "-c", "tty") as caller:
        caller.child.expect("/dev/pts/0")
        assert caller.ends() == 0
    # Over its terminals it could put another file system: then there is none.
    options = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    script = "mount -t tmpfs none /dev/pts; : >/dev/pts/ptmx; echo up; sleep 1000"
    engine.begin("trap", *options, script=script)
    engine.until_it_says("trap", "up")
    assert "something else there" in engine.refuses("exec", "-t", "trap", "/bin/true")


def test_a_callers_terminal_is_spared_without_one_of_its_own(engine: Engine) -> None:
    line = ("run", "--rm", "--name", "plain", *QUIET, "box", "/bin/sh", "-c")
    with Caller(engine, *line, "tty; ls -l /proc/self/fd; read word; echo got $word") as caller:
        caller.child.expect("not a tty")
        caller.child.sendline("word")
        caller.child.expect("got word")
        before = caller.child.before
        assert caller.ends() == 0
        assert "/dev/pts" not in before
    with Caller(engine, *line, "sleep 1000") as caller:
        eventually(lambda: engine.names(), lambda names: "plain" in names)
        engine.until("plain", "running")
        session, number = stat_of(engine.pid("plain"))
        assert (session, number) == (engine.pid("plain"), 0)
        caller.child.sendintr()
        with contextlib.suppress(pexpect.TIMEOUT):
            caller.child.expect(pexpect.EOF, timeout=1)
        caller.child.sendintr()
        caller.child.sendintr()
        assert caller.ends() in (130, 137)


def test_a_terminal_in_the_background_waits_for_somebody(engine: Engine) -> None:
    engine.begin("seat", "-it", script="stty size; read word; echo got $word; sleep 1000")
    with Caller(engine, "attach", "seat") as caller:
        caller.child.sendline("hello")
        caller.child.expect("got hello")
        caller.child.send(DETACH)
        assert caller.ends() == 0
    assert "got hello" in engine.says("logs", "seat")
    assert engine.status("seat") == "running"


def test_the_callers_terminal_is_as_it_was_afterwards(engine: Engine) -> None:
    line = f"stty -a >/tmp/a.$$; {engine.command} run -it --rm --net none box /bin/true; "
    line += "stty -a >/tmp/b.$$; cmp /tmp/a.$$ /tmp/b.$$ && echo same; rm /tmp/[ab].$$"
    child = pexpect.spawn("/bin/sh", ["-c", line], timeout=60, encoding="utf-8")
    child.expect("same")
    child.expect(pexpect.EOF)
    child.close()
