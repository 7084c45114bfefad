"""Ways out of a container, each shown to be open in an earlier stage, and closed in stage 5.

Harmless by construction: what would harm is looked at (a mount's flags, an open that reads
nothing), and what is tried changes nothing but a mount namespace that goes with the container.

Classes that are tried elsewhere: the second chroot, the old root, propagation, /proc/1/root,
abstract sockets (the probes fs.*, pid.*, net.abstract, with their mutants); tar, whiteouts
(test_stage4_unpack); `cp` (test_stage5_cp: CVE-2018-15664, CVE-2019-14271); what masks are made
of, inherited capabilities, keys (test_stage5_confine: CVE-2025-31133); terminals, TIOCSTI
(test_stage5_terminal, sec.tty: CVE-2025-52565); published ports (test_stage5_network).
"""

import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import dockerd
from tests.running import run
from tests.stages.lives import QUIET, Engine, eventually
from tests.stages.test_stage5_confine import give_net_admin

pytestmark = [
    pytest.mark.usefixtures("as_root", "nothing_is_left", "shop"),
    pytest.mark.xdist_group("stage5 escapes"),
]


class Way(NamedTuple):
    """A script that says `out` where it works, and why that would be the end of the walls."""

    script: str
    why: str
    options: tuple[str, ...] = ()
    """With which it is open in stage 5, too: what they take away is the wall, and no other is."""


LOOP = "mknod /node b 7 0 && (exec 3</node) 2>/dev/null && echo out"
WAYS = {
    "a disk's node": Way(LOOP, "whoever reads the disk reads all files"),
    "the kernel's log": Way(
        "mknod /log c 1 11 && (exec 3</log) 2>/dev/null && echo out",
        "addresses and secrets of the machine are in it",
    ),
    "syslog(2)": Way(
        "dmesg >/dev/null 2>&1 && echo out",
        "the same by a call",
        ("--cap-add", "SYSLOG"),
    ),
    "a mount": Way(
        "mkdir /m && mount -t tmpfs none /m 2>/dev/null && echo out",
        "a hierarchy of cgroup v1 has a release_agent, which the host runs (CVE-2022-0492)",
        ("--cap-add", "SYS_ADMIN"),
    ),
    "a control group of v1": Way(
        "mkdir /g && mount -t cgroup -o devices none /g 2>/dev/null && "
        "test -w /g/devices.allow && echo out",
        "whoever writes devices.allow may open each device",
        ("--cap-add", "SYS_ADMIN"),
    ),
    "a user namespace": Way(
        "unshare -U true 2>/dev/null && echo out",
        "in it one is root again, and reaches what only root does (CVE-2022-0185)",
        ("--cap-add", "SYS_ADMIN"),
    ),
    "the host's name in a namespace of one's own": Way(
        "hostname other 2>/dev/null && echo out",
        "the smallest of the things that CAP_SYS_ADMIN is for",
        ("--cap-add", "SYS_ADMIN"),
    ),
    "the kernel's switches": Way(
        "grep -q ' /proc/sys ro,' /proc/self/mountinfo || echo out",
        "core_pattern names a program that the host runs",
        ("--security-opt", "systempaths=unconfined"),
    ),
    "what is hidden, uncovered": Way(
        "grep -q ' /proc/timer_list ' /proc/self/mountinfo || echo out; "
        "umount /proc/timer_list 2>/dev/null && echo out",
        "a mask that its wearer can take off is none",
        ("--security-opt", "systempaths=unconfined"),
    ),
    "a network switch": Way(
        "ip link set lo mtu 1400 2>/dev/null && echo out",
        "CAP_NET_ADMIN reaches kernel code that few have looked at",
        ("--cap-add", "NET_ADMIN"),
    ),
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def shop(stock: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABRUN_STORE", str(stock))
    return stock


def said(stage: str, rootfs: Path, script: str, *options: str) -> set[str]:
    line = [stage, "run", "--rm", "--net", "none", *options, str(rootfs), "/bin/sh", "-c"]
    ended = run([*line, f"{script}; true"])
    assert ended.returncode == 0, ended
    return {*ended.stdout.decode().split()}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_is_open_in_stage_4_and_closed_in_stage_5(
    stage4: str, stage5: str, rootfs: Path, way: str
) -> None:
    script = WAYS[way].script
    assert said(stage4, rootfs, script) == {"out"}
    assert said(stage5, rootfs, script) == set()


@pytest.mark.parametrize("way", [way for way in WAYS if WAYS[way].options])
def test_what_closes_it_is_what_is_said_to_and_nothing_else(
    stage5: str, rootfs: Path, way: str
) -> None:
    assert said(stage5, rootfs, WAYS[way].script, *WAYS[way].options) == {"out"}


@pytest.mark.peers
def test_docker_closes_the_same_ways_and_opens_them_by_the_same_options(rootfs: Path) -> None:
    # What is judged here is the corpus: ways that are none would be closed everywhere.
    with dockerd.started() as docker:
        docker.load_rootfs(rootfs)

        def told(script: str, *options: str) -> str:
            line = ("run", "--rm", *options, "busybox:latest", "/bin/sh", "-c", f"{script}; true")
            return docker(*line)

        assert {name: told(way.script) for name, way in WAYS.items()} == dict.fromkeys(WAYS, "")
        open_by = {name: way for name, way in WAYS.items() if way.options}
        found = {name: told(way.script, *way.options) for name, way in open_by.items()}
        assert found == dict.fromkeys(open_by, "out")


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_images_link_takes_no_mount_elsewhere(
    stage5: str, rootfs: Path, tmp_path: Path, name: str
) -> None:
    # CVE-2019-19921 and its kin: the mount would land where the link leads.
    root, marker = tmp_path / "root", tmp_path / "marker"
    shutil.copytree(rootfs, root, symlinks=True)
    marker.mkdir()
    shutil.rmtree(root / name)
    os.symlink(marker, root / name)
    line = [stage5, "run", "--rm", "--net", "none", str(root), "/bin/echo", "ran"]
    ended = run(line)
    # Refused, or mounted on what the link means inside: nothing is there.
    assert (ended.returncode, ended.stdout) in ((125, b""), (0, b"ran\n"))
    assert os.listdir(marker) == []
    assert str(marker) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


# ---- whoever comes in from outside


@pytest.fixture
def engine(stage5: str, shop: Path) -> Iterator[Engine]:
    """Have containers that live on, and see that they go."""
    engine = Engine(stage5, shop)
    yield engine
    for name in engine.names("-a"):
        run([stage5, "rm", "-f", name])
    assert engine.residue() == []


def trap(rootfs: Path, folder: Path) -> Path:
    """Return a root with `/trap`, a program that is whoever starts it: `#!/proc/self/exe`.

    The dynamic loader that the host's interpreter asks for is the container's: a shell, which says
    which file it has got by that, and whether it may be opened for writing. It writes nothing.
    """
    root = folder / "root"
    shutil.copytree(rootfs, root, symlinks=True)
    # A shell's own start would be led astray by what the kernel tells a loader of its program.
    for name in ("lib", "lib64"):
        (root / name).mkdir(exist_ok=True)
    (root / "lib64/ld-linux-x86-64.so.2").write_bytes(loader())
    (root / "lib64/ld-linux-x86-64.so.2").chmod(0o755)
    shutil.copy2(rootfs / "bin/busybox", root / "lib/ld-linux-aarch64.so.1")
    (root / "sh").symlink_to("/proc/self/exe")  # busybox is what it is called
    (root / "trap").write_text(
        "#!/sh\n[ -e /proc/self/fd/3 ] || exec 3</proc/self/exe\nstat -L -c %d:%i /proc/self/fd/3\n"
        "exec /bin/sh -c '(exec 4>>/proc/self/fd/3) 2>/dev/null && echo out; true'\n"
    )
    (root / "trap").chmod(0o755)
    return root


def loader() -> bytes:
    """Return a program for x86-64: open("/proc/self/exe"), then execve("/bin/sh", "/trap")."""
    base, texts = 0x10000000, (b"/proc/self/exe\0", b"/bin/sh\0", b"/trap\0")
    start, length = base + 64 + 56, 40
    exe, shell, script = (start + length + sum(map(len, texts[:n])) for n in range(3))
    words = start + length + len(b"".join(texts))
    code = b"".join(
        (
            b"\xb8\x02\x00\x00\x00",  # mov eax, 2: open
            b"\xbf" + struct.pack("<I", exe),  # mov edi
            b"\x31\xf6\x0f\x05",  # xor esi, esi; syscall
            b"\xb8\x3b\x00\x00\x00",  # mov eax, 59: execve
            b"\xbf" + struct.pack("<I", shell),  # mov edi
            b"\xbe" + struct.pack("<I", words),  # mov esi
            b"\x31\xd2\x0f\x05",  # xor edx, edx; syscall
        )
    ).ljust(length, b"\xcc")
    body = code + b"".join(texts) + struct.pack("<QQQ", shell, script, 0)
    size = 64 + 56 + len(body)
    # See elf(5): an executable for x86-64 with one segment, which is all of the file.
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + body


def number_of(path: str | Path) -> str:
    """Return what no other file on this machine has, as stat(1) has it."""
    status = os.stat(path)
    return f"{status.st_dev}:{status.st_ino}"


def test_the_hosts_program_is_not_reached_by_a_script_that_names_it(
    stage4: str, engine: Engine, rootfs: Path, tmp_path: Path
) -> None:
    # CVE-2019-5736: who has it open for reading waits, and opens it for writing.
    root = trap(rootfs, tmp_path)
    ended = run([stage4, "run", "--rm", "--net", "none", str(root), "/trap"])
    # Open in stage 4, but for the last step: a program that runs can't be written.
    assert (ended.returncode, ended.stdout.decode().split()) == (0, [number_of(sys.executable)])
    for words in (("/trap",), ("/sh", "/trap"), ("sh",)):
        more = ("-e", "PATH=/") if words == ("sh",) else ()
        line = engine.refuses("run", "--rm", *QUIET, *more, str(root), *words, status=126)
        assert "CVE-2019-5736" in line
    engine.says("run", "-d", *QUIET, "--name", "trap", str(root), "/bin/sleep", "1000")
    assert "CVE-2019-5736" in engine.refuses("exec", "trap", "/trap", status=126)
    # An honest script is run, and a link that leads nowhere is told apart.
    (root / "honest").write_text("#!/bin/sh\necho ran\n")
    (root / "honest").chmod(0o755)
    (root / "loop").symlink_to("loop")
    assert engine.says("run", "--rm", *QUIET, str(root), "/honest") == "ran"
    line = engine.refuses("run", "--rm", *QUIET, str(root), "/loop", status=126)
    assert "a loop of them" in line


WATCH = """
cd /proc
while :; do
    stat -L -c ' %d:%i %n' [0-9]*/exe [0-9]*/root/. [0-9]*/cwd/. 2>/dev/null |
        grep -E ' (NUMBERS) ' >>/seen
done
"""
"""Looks at all that is reached through each process, and notes what is the host's."""


@pytest.mark.parametrize("option", [(), ("--cap-add", "SYS_PTRACE")], ids=["as it is", "control"])
def test_who_waits_inside_for_exec_reaches_nothing_of_the_hosts(
    engine: Engine, rootfs: Path, option: tuple[str, ...]
) -> None:
    # CVE-2016-9962, CVE-2019-5736: /proc/PID/exe, root, cwd and fd of whoever comes in.
    numbers = "|".join(map(number_of, (os.path.realpath(sys.executable), "/", os.getcwd())))
    watch = WATCH.replace("NUMBERS", numbers)
    line = ["run", "-d", *QUIET, *option, "--name", "watch", str(rootfs), "/bin/sh", "-c", watch]
    engine.says(*line)
    for _ in range(10):
        assert engine.says("exec", "watch", "/bin/echo", "in") == "in"
    if option:
        # It may take some more until they meet.
        eventually(lambda: engine.within("watch", "cat /seen"), bool)
    seen = engine.within("watch", "cat /seen")
    # Who may look into any process sees us, as with Docker: so the watcher is awake.
    assert bool(seen) == bool(option), seen


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_no_directory_of_the_hosts_is_in_anybodys_hands(
    engine: Engine, rootfs: Path, tmp_path: Path, verb: str
) -> None:
    # CVE-2024-21626: a descriptor that was left open, and --workdir /proc/self/fd/N.
    engine.says("run", "-d", *QUIET, "--name", "fds", str(rootfs), "/bin/sleep", "1000")
    outside = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.set_inheritable(outside, True)
        start = ["exec"] if verb == "exec" else ["run", "--rm", *QUIET]
        target = "fds" if verb == "exec" else str(rootfs)
        script = "for n in $(seq 0 64); do test -e /proc/$$/fd/$n && echo $n; done; true"
        line = [engine.command, *start, target, "/bin/sh", "-c", script]
        ended = run(line, pass_fds=(outside,))
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout.split() == [b"0", b"1", b"2"]
        for fd in {3, 5, 7, 9, outside}:
            line = [engine.command, *start, "-w", f"/proc/self/fd/{fd}", target, "/bin/pwd"]
            ended = run(line, pass_fds=(outside,))
            assert (ended.returncode, ended.stdout) in ((125, b""), (126, b"")), (fd, ended)
    finally:
        os.close(outside)


def test_a_link_in_the_place_of_a_volume_leads_inside(
    engine: Engine, rootfs: Path, tmp_path: Path
) -> None:
    # CVE-2021-30465: the volume would be mounted where the link leads on the host.
    root, marker, source = (tmp_path / name for name in ("root", "marker", "source"))
    shutil.copytree(rootfs, root, symlinks=True)
    marker.mkdir()
    source.mkdir()
    (source / "file").touch()
    (root / "link").symlink_to(marker)
    (root / "up").symlink_to(f"../../../../../..{marker}")
    for name in ("link", "up"):
        line = [engine.command, "run", "--rm", *QUIET, "-v", f"{source}:/{name}:ro", str(root)]
        ended = run([*line, "/bin/ls", f"/{name}"])
        assert (ended.returncode, ended.stdout) in ((125, b""), (0, b"file\n")), ended
    assert os.listdir(marker) == []


LOADED = """
import os, sys
from stages import linux
inside = []
def hear(event, arguments):
    if inside == [os.getpid()] and event == "import":
        os.write(2, b"late: " + str(arguments[0]).encode() + b"\\n")
def watch(words, result):
    if words.startswith(("pivot_root(", "setns(")) and result is not linux.PENDING:
        inside[:] = [os.getpid()]
sys.addaudithook(hear)
linux.watch = watch
sys.argv = ["stage5", *sys.argv[1:]]
from stages.stage5_container.commands import main
main()
"""


@pytest.mark.parametrize("command", [("/bin/id",), ("/none",), ("/etc",), ("none",)])
def test_nothing_is_loaded_once_we_are_inside(
    engine: Engine, rootfs: Path, command: tuple[str, ...]
) -> None:
    # CVE-2019-14271: what is loaded then is the container's, and has our rights.
    engine.says("run", "-d", *QUIET, "--name", "load", str(rootfs), "/bin/sleep", "1000")
    for line in (
        ["run", "--rm", *QUIET, "-u", "root", str(rootfs)],
        ["exec", "-u", "root", "load"],
    ):
        ended = run([sys.executable, "-c", LOADED, *line, *command])
        assert ended.returncode in (0, 126, 127), ended
        assert b"late: " not in ended.stderr, ended


def test_who_comes_in_has_no_more_than_those_who_are_there(engine: Engine, rootfs: Path) -> None:
    # CVE-2022-29162 and its kin; and a session of its own, with keys of its own.
    engine.says("run", "-d", *QUIET, "--name", "same", str(rootfs), "/bin/sleep", "1000")
    script = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/PID/status; cut -d' ' -f6,7 /proc/PID/stat"
    there = engine.within("same", script.replace("PID", "1"))
    line = [engine.command, "exec", "same", "/bin/sh", "-c", script.replace("PID", "$$")]
    ended = run(line, preexec_fn=give_net_admin)
    *rows, last = ended.stdout.decode().splitlines()
    assert rows == there.splitlines()[:-1]
    assert "CapInh:\t0000000000000000" in rows
    # It leads its session, and has no terminal.
    session, terminal = last.split()
    assert (session != "0", terminal) == (True, "0")


def test_others_on_the_machine_do_not_get_into_the_store(engine: Engine, rootfs: Path) -> None:
    # CVE-2021-41091: a setuid program in a container's tree would be everybody's.
    engine.says("run", "-d", *QUIET, "--name", "shut", str(rootfs), "/bin/sleep", "1000")
    folder = engine.folder("shut")
    opened = [part for part in (folder, *folder.parents) if part != engine.store.parent]
    inside = [part for part in opened if part.is_relative_to(engine.store)]
    assert any(part.stat().st_mode & 0o077 == 0 for part in inside), inside
