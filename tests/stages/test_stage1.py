"""Stage 1 by the contract, as its caller sees it."""

import os
import pty
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import run
from tests.stages.faults import faulty, line_of

pytestmark = pytest.mark.usefixtures("as_root")


def said(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one line that a failed run wrote to stderr, and nothing to stdout."""
    return line_of(ended, "stage1")


def test_the_roots_files_are_the_commands(stage1: str, rootfs: Path) -> None:
    ended = run([stage1, "run", str(rootfs), "/bin/ls", "/"])
    assert ended.returncode == 0
    assert set(ended.stdout.decode().split()) == {p.name for p in rootfs.iterdir()}


def test_the_network_is_still_the_hosts(stage1: str, rootfs: Path) -> None:
    inside = run([stage1, "run", str(rootfs), "/bin/ip", "route"])
    outside = run([str(rootfs / "bin" / "busybox"), "ip", "route"])
    assert inside.returncode == 0
    assert inside.stdout == outside.stdout


# ---- exit statuses


def test_the_articles_ls_is_not_found(stage1: str, rootfs: Path) -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
    ended = run([stage1, "run", "-e", f"PATH={path}", str(rootfs), "ls"])
    assert ended.returncode == 127
    line = said(ended)
    assert f"no directory of PATH ({path}) has it inside ROOT" in line
    assert "/bin/ls" in line


@pytest.mark.parametrize(
    ("root", "status", "why"),
    [
        ("missing", 125, "there is no such directory"),
        ("file", 125, "ROOT has to be a directory"),
        ("empty", 127, "ROOT is empty"),
        ("without-sh", 127, "ROOT has no such file"),
    ],
)
def test_a_bad_root_is_named(stage1: str, tmp_path: Path, root: str, status: int, why: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "without-sh" / "etc").mkdir(parents=True)
    ended = run([stage1, "run", str(tmp_path / root), "/bin/sh"])
    assert ended.returncode == status
    assert why in said(ended)
    assert "labrun rootfs" in said(ended)


@pytest.fixture
def small(rootfs: Path, tmp_path: Path) -> Path:
    """A root with a busybox, to put broken programs into."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(rootfs / "bin" / "busybox", root / "bin" / "sh")
    return root


def program(root: Path, content: bytes, mode: int = 0o755) -> None:
    (root / "bin" / "program").write_bytes(content)
    (root / "bin" / "program").chmod(mode)


def test_a_file_without_execute_permission_is_126(stage1: str, small: Path) -> None:
    program(small, b"#!/bin/sh\n", 0o644)
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert (ended.returncode, "chmod +x" in said(ended)) == (126, True)


def test_a_program_for_another_machine_is_126_and_both_are_named(stage1: str, small: Path) -> None:
    head = bytearray((small / "bin" / "sh").read_bytes())
    head[18:20] = (183 if os.uname().machine == "x86_64" else 62).to_bytes(2, "little")
    program(small, bytes(head))
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert ended.returncode == 126
    assert f"this machine is {os.uname().machine}" in said(ended)


def test_a_damaged_program_is_called_so(stage1: str, small: Path) -> None:
    program(small, (small / "bin" / "sh").read_bytes()[:40])
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert (ended.returncode, "damaged program" in said(ended)) == (126, True)


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\udcff", "容器"])
def test_an_odd_name_is_explained_on_one_line(stage1: str, small: Path, name: str) -> None:
    (small / "bin" / name).write_text("#!/bin/sh\n")
    ended = run([stage1, "run", str(small), f"/bin/{name}"])
    assert (ended.returncode, "chmod +x" in said(ended)) == (126, True)


def test_a_script_whose_interpreter_cannot_be_executed_names_it(stage1: str, small: Path) -> None:
    (small / "etc").mkdir()
    program(small, b"#!/etc\n")
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert (ended.returncode, "/etc, which the kernel starts it with" in said(ended)) == (126, True)


def test_what_cannot_be_explained_is_still_said() -> None:
    # With CAP_SYS_CHROOT alone ROOT may be entered, and not be read to find out more.
    keep = ["--inh-caps=-all,+sys_chroot", "--ambient-caps=-all,+sys_chroot"]
    keep += ["--reuid=1234", "--clear-groups", "--bounding-set=-all,+sys_chroot"]
    line = ["setpriv", *keep, *faulty("stage1", "no such call", "run")]
    if run(line).returncode != 2:
        pytest.skip("cannot: another user may not use this Python or this checkout")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o711)
        ended = run([*line, folder, "/nope"])
    assert ended.returncode == 127
    assert said(ended) == "stage1: /nope: No such file or directory"


def test_a_text_without_a_shebang_is_126_and_is_not_run_as_a_script(
    stage1: str, small: Path
) -> None:
    program(small, b"echo ran\n")
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert (ended.returncode, "neither a program" in said(ended)) == (126, True)


def test_a_missing_script_interpreter_is_named(stage1: str, small: Path) -> None:
    program(small, b"#!/usr/bin/python9 -u\n")
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert (ended.returncode, "/usr/bin/python9" in said(ended)) == (127, True)


def test_a_missing_loader_is_named(stage1: str, small: Path) -> None:
    shutil.copy("/bin/true", small / "bin" / "program")
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert ended.returncode == 127
    assert "ld-linux" in said(ended)


def test_a_dangling_link_is_named(stage1: str, small: Path) -> None:
    (small / "bin" / "program").symlink_to("/usr/lib/nowhere")
    ended = run([stage1, "run", str(small), "/bin/program"])
    assert (ended.returncode, "a link to /usr/lib/nowhere" in said(ended)) == (127, True)


def test_a_noexec_mount_is_named(stage1: str, rootfs: Path, small: Path) -> None:
    script = (
        'mount -t tmpfs -o noexec none "$1/bin" && cp "$2" "$1/bin/sh" && "$3" run "$1" /bin/sh'
    )
    arguments = [str(small), str(rootfs / "bin" / "busybox"), stage1]
    ended = run(["unshare", "--mount", "sh", "-c", script, "sh", *arguments])
    assert (ended.returncode, "mounted noexec" in said(ended)) == (126, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "it needs a command"),
        (["walk"], "there is no command 'walk'"),
        (["run"], "it needs a ROOT and a COMMAND"),
        (["run", "/"], "it needs a ROOT and a COMMAND"),
        (["run", "/", ""], "COMMAND is empty"),
        (["run", "--bogus", "/", "/bin/true"], "unknown option --bogus"),
        (["run", "-x", "/", "/bin/true"], "unknown option -x"),
        (["run", "--env"], "--env needs a value"),
        (["run", "--trace=yes", "/", "/bin/true"], "--trace takes no value"),
    ],
)
def test_a_command_line_that_is_off_is_2_with_usage(
    stage1: str, arguments: list[str], why: str
) -> None:
    ended = run([stage1, *arguments])
    assert ended.returncode == 2
    assert ended.stdout == b""
    assert why in ended.stderr.decode()
    assert "Usage: stage1 run" in ended.stderr.decode()


def test_help_is_on_stdout_and_is_0(stage1: str) -> None:
    for arguments in (["--help"], ["-h"], ["run", "--help"]):
        ended = run([stage1, *arguments])
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert b"--workdir" in ended.stdout


# ---- what the command gets


def test_arguments_arrive_byte_for_byte(stage1: str, rootfs: Path) -> None:
    odd = [b"", b"a b", b"--", b"-e", b"\xff\xe4", b"\n", b"$x", "容器".encode()]
    script = b'for word; do printf "%s|" "$word"; done'
    ended = run([stage1, "run", str(rootfs), "/bin/sh", "-c", script, "sh", *odd])
    assert ended.stdout == b"".join(word + b"|" for word in odd)


def test_the_environment_is_the_callers_and_nothing_more(stage1: str, rootfs: Path) -> None:
    # In the C locale Python sets LC_CTYPE for its own sake; the command must not get it.
    ended = run(
        [stage1, "run", "--env", "B=x=y z", str(rootfs), "/bin/busybox", "env"],
        env={"A": "1", "PATH": "/bin"},
    )
    assert sorted(ended.stdout.decode().splitlines()) == ["A=1", "B=x=y z", "PATH=/bin"]


def test_env_without_a_value_is_the_callers_as_in_docker(stage1: str, rootfs: Path) -> None:
    line = [stage1, "run", "-e", "A", "-e", "NONE", str(rootfs), "/bin/busybox", "env"]
    ended = run(line, env={"A": "1"})
    assert ended.stdout == b"A=1\n"


def test_env_without_a_name_is_refused(stage1: str, rootfs: Path) -> None:
    ended = run([stage1, "run", "-e", "=1", str(rootfs), "/bin/true"])
    assert (ended.returncode, "no name before the =" in said(ended)) == (125, True)


def test_workdir_is_where_the_command_starts(stage1: str, rootfs: Path) -> None:
    for option in (["-w", "/etc"], ["--workdir=/etc"], ["-w/etc"]):
        ended = run([stage1, "run", *option, str(rootfs), "/bin/busybox", "pwd"])
        assert ended.stdout == b"/etc\n"


@pytest.mark.parametrize(
    ("workdir", "why"),
    [
        ("/no/such", "ROOT has no such directory"),
        ("/bin/busybox", "not a directory"),
        ("etc", "not an absolute path"),
    ],
)
def test_a_bad_workdir_is_125_and_the_command_does_not_run(
    stage1: str, rootfs: Path, workdir: str, why: str
) -> None:
    ended = run([stage1, "run", "-w", workdir, str(rootfs), "/bin/busybox", "echo", "ran"])
    assert (ended.returncode, why in said(ended)) == (125, True)
    assert workdir in said(ended)


def test_a_workdir_that_leads_out_through_proc_is_refused(stage1: str, rootfs: Path) -> None:
    # /proc/PID/root is a link that the kernel follows out of any root. See proc_pid_root(5).
    script = 'mount -t proc proc "$1/proc" && exec "$2" run -w "$3" "$1" /bin/ls'
    outside = f"/proc/{os.getpid()}/root"
    ended = run(["unshare", "--mount", "sh", "-c", script, "sh", str(rootfs), stage1, outside])
    assert (ended.returncode, "leads out of ROOT" in said(ended)) == (125, True)


def test_a_broken_pipe_ends_the_command_as_it_does_outside(stage1: str, rootfs: Path) -> None:
    # Python ignores SIGPIPE; a command that inherits that never learns that nobody reads.
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [stage1, "run", str(rootfs), "/bin/busybox", "yes"], stdout=writer, timeout=20
        )
    finally:
        os.close(writer)
    assert ended.returncode == 128 + signal.SIGPIPE


def test_nothing_but_the_three_streams_is_handed_on(stage1: str, rootfs: Path) -> None:
    outside = os.open("/", os.O_RDONLY)
    script = 'mount -t proc proc "$1/proc" && exec "$2" run "$1" /bin/ls /proc/self/fd'
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(rootfs), stage1],
        pass_fds=[outside],
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    os.close(outside)
    # 3 is ls's own, open on the directory that it lists.
    assert ended.stdout.split() == [b"0", b"1", b"2", b"3"]


# ---- signals


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def read_until(fd: int, mark: bytes) -> bytes:
    text = b""
    while mark not in text:
        text += os.read(fd, 1024)
    return text


def test_a_key_reaches_the_command_once(
    stage1: str, rootfs: Path, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    script = 'trap "echo got" INT; echo ready; read a; read b; echo over'
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", stage1, "run", str(rootfs), "/bin/sh", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    read_until(ours, b"ready")
    os.write(ours, b"\x03")
    text = read_until(ours, b"got")
    os.write(ours, b"\n\n")
    text += read_until(ours, b"over")
    process.wait(10)
    assert text.count(b"got") == 1


def test_a_second_sigint_kills_and_says_why(stage1: str, rootfs: Path) -> None:
    process = subprocess.Popen(
        [stage1, "run", str(rootfs), "/bin/sh", "-c", 'trap "" INT; echo ready; read a'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    # Not communicate(): it closes stdin first, and then the command's `read` would just end.
    assert process.wait(10) == 137
    _, stderr = process.communicate()
    assert b"second SIGINT within 2 s" in stderr


def test_an_ignored_sigint_stays_ignored(stage1: str, rootfs: Path) -> None:
    # A shell starts background jobs so; the command must not hear what its caller is deaf to.
    script = 'trap "" INT; exec "$1" run "$2" /bin/sh -c \'kill -INT $$; echo lived\''
    ended = run(["sh", "-c", script, "sh", stage1, str(rootfs)])
    assert ended.stdout == b"lived\n"


# ---- the trace, and no way on after a failure


def test_the_trace_shows_the_calls_in_their_order(stage1: str, rootfs: Path) -> None:
    ended = run([stage1, "run", "--trace", str(rootfs), "/bin/true"])
    calls = [line.split("] ")[1].partition("(")[0] for line in ended.stderr.decode().splitlines()]
    story = ["fork", "prctl", "close_range", "chroot", "chdir", "execve"]
    positions = [calls.index(call) for call in story]
    assert positions == sorted(positions)
    assert f'chroot("{rootfs}") = 0' in ended.stderr.decode()


@pytest.mark.parametrize(
    "call",
    [
        "sigaction",
        "sigprocmask",
        "fork",
        "prctl",
        "getppid",
        "close_range",
        "chroot",
        "chdir",
        "getcwd",
    ],
)
def test_whatever_call_fails_the_command_does_not_run(
    call: str, rootfs: Path, tmp_path: Path
) -> None:
    line = ["run", "-w", "/etc", str(rootfs), "/bin/busybox", "echo", "ran"]
    ended = run(faulty("stage1", call, *line))
    assert ended.returncode == 125
    assert call in said(ended)


def test_without_a_fault_that_harness_runs_the_command(rootfs: Path) -> None:
    line = ["run", "-w", "/etc", str(rootfs), "/bin/busybox", "echo", "ran"]
    ended = run(faulty("stage1", "no such call", *line))
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")


def test_the_error_of_the_kernels_door_is_an_oserror_with_the_call_in_words() -> None:
    from stages import linux

    with pytest.raises(FileNotFoundError) as caught:
        linux.chroot("/no/such/root")
    assert caught.value.filename == 'chroot("/no/such/root")'


def test_debug_adds_a_traceback(stage1: str) -> None:
    ended = run([stage1, "run", "--debug", "/no/such/root", "/bin/true"])
    assert ended.returncode == 125
    assert b"in enter_root" in ended.stderr
