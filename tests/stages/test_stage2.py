"""Stage 2 by the contract, as its caller sees it. What leaks from where is `checks/`'s to judge."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.running import LABRUN, processes, run
from tests.stages.faults import (
    OWN_NETWORK,
    calls_before_the_command,
    check_each_fails_closed,
    faulty,
    line_of,
)

pytestmark = [
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("machine"),
]

ALL = "pid,net,mnt,ipc,uts,user,cgroup,time"
QUIET = ("--net", "none")


def said(ended: subprocess.CompletedProcess[bytes]) -> str:
    return line_of(ended, "stage2")


def inside(stage2: str, rootfs: Path, script: str, *options: str) -> str:
    """Return what a shell script prints in a container."""
    ended = run([stage2, "run", *options, str(rootfs), "/bin/sh", "-c", script])
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout.decode().strip()


# ---- one namespace at a time


@pytest.mark.parametrize("kind", ALL.split(","))
def test_each_namespace_is_new_when_it_is_asked_for_and_else_is_not(
    stage2: str, rootfs: Path, kind: str
) -> None:
    script = f"readlink /proc/self/ns/{kind}"
    lists = {True: f"mnt,pid,{kind}", False: ",".join({"mnt", "pid"} - {kind})}
    host = os.readlink(f"/proc/self/ns/{kind}")
    if kind != "mnt":
        assert inside(stage2, rootfs, script, "--namespaces", lists[True]) != host
    if kind not in ("mnt", "pid"):
        assert inside(stage2, rootfs, script, "--namespaces", lists[False]) == host


def test_without_net_the_routes_leak_again(stage2: str, rootfs: Path) -> None:
    host = run([str(rootfs / "bin" / "busybox"), "ip", "route"]).stdout.decode().strip()
    leaking = inside(stage2, rootfs, "ip route", "--namespaces", "pid,mnt")
    assert host.splitlines()[0] in leaking
    assert host.splitlines()[0] not in inside(stage2, rootfs, "ip route")
    assert inside(stage2, rootfs, "ip route", "--net", "host").splitlines()[0] in host
    assert inside(stage2, rootfs, "ip route", "--namespaces", "mnt", "--net", "none") == ""


def test_without_mnt_it_is_stage_1s_chroot(stage2: str, rootfs: Path) -> None:
    assert inside(stage2, rootfs, "ls /proc", "--namespaces", "pid,uts") == ""
    ended = run([stage2, "run", "--trace", "--namespaces", "uts", str(rootfs), "/bin/true"])
    assert (b"chroot(" in ended.stderr, b"pivot_root(" in ended.stderr) == (True, False)
    ended = run([stage2, "run", "--trace", *QUIET, str(rootfs), "/bin/true"])
    assert (b"chroot(" in ended.stderr, b"pivot_root(" in ended.stderr) == (False, True)


def test_the_command_is_pid_1_and_sees_only_its_own(stage2: str, rootfs: Path) -> None:
    assert inside(stage2, rootfs, "echo $$; ls /proc | grep -c '^[0-9]'", *QUIET).split()[0] == "1"
    pids = inside(stage2, rootfs, "ls /proc | grep '^[0-9]'", *QUIET).split()
    assert len(pids) <= 3
    # By the shell alone: `ls` complains of each process that ends while it looks.
    host = inside(stage2, rootfs, "cd /proc; echo [0-9]*", "--namespaces", "mnt").split()
    assert str(os.getpid()) in host


def test_the_host_name_is_set_inside_only(stage2: str, rootfs: Path) -> None:
    before = os.uname().nodename
    assert inside(stage2, rootfs, "hostname", "--hostname", "other", *QUIET) == "other"
    assert inside(stage2, rootfs, "hostname", *QUIET) == before == os.uname().nodename


def test_the_boot_clock_is_shifted_as_asked(stage2: str, rootfs: Path) -> None:
    here = time.clock_gettime(time.CLOCK_BOOTTIME)
    options = ["--namespaces", "pid,mnt,time"]
    script = "cut -d. -f1 /proc/uptime"
    day = int(inside(stage2, rootfs, script, *options))
    hour = int(inside(stage2, rootfs, script, *options, "--boottime", "3600"))
    plain = int(inside(stage2, rootfs, script, "--namespaces", "pid,mnt"))
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert here + 86400 - 1 <= day <= after + 86400
    assert here + 3600 - 1 <= hour <= after + 3600
    assert here - 1 <= plain <= after


def test_root_inside_is_nobody_outside(stage2: str, rootfs: Path) -> None:
    assert inside(stage2, rootfs, "id -u; cat /proc/self/uid_map", "--namespaces", ALL).split() == [
        *("0", "0", "100000", "65536")
    ]
    line = ["--namespaces", ALL, str(rootfs), "/bin/sh", "-c", "echo >/bin/new"]
    assert b"can't create /bin/new" in run([stage2, "run", *line]).stderr
    assert not (rootfs / "bin" / "new").exists()


# ---- mounts


def test_dev_holds_the_standard_devices_and_they_work(stage2: str, rootfs: Path) -> None:
    script = (
        "ls /dev; echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 1 /dev/urandom | wc -c"
    )
    names = ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"]
    names += ["stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    for namespaces in ("pid,net,mnt,ipc,uts", ALL):
        words = inside(stage2, rootfs, script, "--namespaces", namespaces).split()
        assert words == [*names, "3", "1"]


def test_sys_is_read_only_and_so_is_the_hosts_where_it_is_that(stage2: str, rootfs: Path) -> None:
    for options in (QUIET, ("--net", "host"), ("--namespaces", "user,mnt,pid")):
        rows = inside(stage2, rootfs, "grep ' /sys' /proc/self/mountinfo", *options).splitlines()
        assert rows
        assert all(row.split()[5].split(",")[0] == "ro" for row in rows)


def test_nothing_of_the_hosts_mounts_is_left(stage2: str, rootfs: Path) -> None:
    kinds = inside(stage2, rootfs, "sed 's/.* - //' /proc/self/mountinfo | cut -d' ' -f1", *QUIET)
    assert kinds.split()[1:] == ["proc", "sysfs", "tmpfs", "devpts", "tmpfs", "mqueue"]


def test_a_mount_made_inside_is_not_seen_outside(stage2: str, rootfs: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    script = "mount -t tmpfs lab-inside /tmp && grep -c lab-inside /proc/self/mountinfo"
    shared = 'mount --make-rshared / && "$1" run --net none "$2" /bin/sh -c "$3"; '
    shared += "cat /proc/self/mountinfo"
    ended = run(["unshare", "-m", "sh", "-c", shared, "sh", stage2, str(rootfs), script])
    seen, _, outside = ended.stdout.decode().partition("\n")
    assert seen == "1"
    assert " shared:" in outside
    assert "lab-inside" not in outside
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_root_without_a_place_to_mount_is_named_and_not_mended(
    stage2: str, tmp_path: Path, name: str
) -> None:
    for other in {"bin", "proc", "sys", "dev"} - {name}:
        (tmp_path / other).mkdir()
    ended = run([stage2, "run", *QUIET, str(tmp_path), "/bin/true"])
    assert (ended.returncode, f"ROOT has no /{name}" in said(ended)) == (125, True)
    assert not (tmp_path / name).exists()
    (tmp_path / name).symlink_to("/etc")
    ended = run([stage2, "run", *QUIET, str(tmp_path), "/bin/true"])
    assert (ended.returncode, "a link would lead the mount elsewhere" in said(ended)) == (125, True)
    # What needs no mounts needs no places: the command is looked for.
    ended = run([stage2, "run", "--namespaces", "pid,uts", str(tmp_path), "/bin/true"])
    assert ended.returncode == 127


@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("/no/such", "there is no such directory"),
        ("/etc/passwd", "ROOT has to be a directory"),
        ("/", "ROOT can't be the host's own /"),
    ],
)
def test_a_bad_root_is_named(stage2: str, root: str, why: str) -> None:
    ended = run([stage2, "run", *QUIET, root, "/bin/true"])
    assert (ended.returncode, why in said(ended)) == (125, True)


# ---- options that can't be fulfilled


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--namespaces", "pid,foo"], "it is none of pid, net"),
        (["--net", "mesh"], "it is none of bridge, none, host"),
        (["--namespaces", "pid", "--ip", "10.88.0.9"], "--ip needs a net namespace"),
        (["--namespaces", "pid", "--hostname", "x"], "--hostname needs a uts namespace"),
        (["--boottime", "5"], "--boottime needs a time namespace"),
        (["--namespaces", "time", "--boottime", "soon"], "say a whole number of seconds"),
        (["--namespaces", "time", "--boottime", "9" * 14], "no clock goes that far"),
        (["--net", "none", "--ip", "10.88.0.9"], "an address needs --net bridge"),
        (["--ip", "10.88.0"], "not an IPv4 address"),
        (["--ip", "203.0.113.9"], "not on the containers' network"),
        (["--hostname", "x" * 65], "at most 64 bytes"),
    ],
)
def test_what_cannot_be_fulfilled_is_125_and_nothing_runs(
    stage2: str, rootfs: Path, options: list[str], why: str
) -> None:
    ended = run([stage2, "run", *options, str(rootfs), "/bin/busybox", "echo", "ran"])
    assert (ended.returncode, why in said(ended)) == (125, True)


def test_stage_1_has_none_of_these_options(stage1: str, rootfs: Path) -> None:
    for option in ("--hostname", "--namespaces", "--net", "--ip", "--boottime"):
        ended = run([stage1, "run", option, "x", str(rootfs), "/bin/true"])
        assert (ended.returncode, b"unknown option" in ended.stderr) == (2, True)


# ---- the network


def test_a_container_has_an_address_a_default_route_and_lo(stage2: str, rootfs: Path) -> None:
    text = inside(stage2, rootfs, "ip route; ip -o link; ip -4 -o addr show eth0")
    gateway = re.search(r"^default via (\S+)\.1 dev eth0", text, re.MULTILINE)
    assert gateway
    assert re.search(rf"inet {gateway[1]}\.\d+/24", text)
    assert re.search(r"lo: <LOOPBACK,UP", text)
    alone = inside(stage2, rootfs, "ip route; ip -o link", *QUIET)
    assert (re.search(r"lo: <LOOPBACK,UP", alone) is not None, "eth0" in alone) == (True, False)


def test_an_address_that_is_taken_is_refused_and_the_one_asked_for_is_given(
    stage2: str, rootfs: Path
) -> None:
    network = inside(stage2, rootfs, "ip route").partition("via ")[2].partition(".1 ")[0]
    with contextlib.ExitStack() as stack:
        options = ["--ip", f"{network}.77"]
        first = stack.enter_context(holding(stage2, rootfs, *options))
        assert first.address == f"{network}.77"
        ended = run([stage2, "run", *options, str(rootfs), "/bin/true"])
        assert (ended.returncode, "another container has it" in said(ended)) == (125, True)
        # The neighbour is there, and answers.
        ping = f"ping -c 1 -W 5 {network}.77 >/dev/null && echo heard"
        assert inside(stage2, rootfs, ping) == "heard"


def test_a_network_that_the_host_has_already_is_left_alone(stage2: str, rootfs: Path) -> None:
    # A network of the test's own, in which 10.88.0.0/23 leads elsewhere.
    script = """
        ip link add other type bridge && ip addr add 10.88.1.1/23 dev other && ip link set other up
        "$1" run "$2" /bin/ip route
    """
    ended = run(["unshare", "-n", "sh", "-c", script, "sh", stage2, str(rootfs)])
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"default via 10.88.2.1 dev eth0")
    free = run(["unshare", "-n", stage2, "run", str(rootfs), "/bin/ip", "route"])
    assert free.stdout.startswith(b"default via 10.88.0.1 dev eth0")


def test_a_bridge_of_that_name_that_is_not_ours_is_not_touched(stage2: str, rootfs: Path) -> None:
    script = """
        ip link add labrun0 type bridge; "$1" run "$2" /bin/echo ran; echo $?
        "$3" clean --yes >/dev/null; ls /sys/class/net; ip -o link show master labrun0
        ip -o link show labrun0 | cut -d: -f2
    """
    line = ["unshare", "-n", "sh", "-c", script, "sh", stage2, str(rootfs), LABRUN]
    ended = run(line)
    assert b"the host has a link of that name that isn't ours" in ended.stderr
    assert ended.stdout.split()[0] == b"125"
    assert ended.stdout.split()[-1] == b"labrun0"


def test_the_hosts_forwarding_and_rules_stay_as_they_are(stage2: str, rootfs: Path) -> None:
    script = """
        cat /proc/sys/net/ipv4/ip_forward; "$1" run "$2" /bin/true
        cat /proc/sys/net/ipv4/ip_forward
    """
    for value in ("0", "1"):
        prepared = f"echo {value} >/proc/sys/net/ipv4/ip_forward;{script}"
        ended = run(["unshare", "-n", "sh", "-c", prepared, "sh", stage2, str(rootfs)])
        assert ended.stdout.decode().split() == [value, value]


def test_labrun_clean_removes_the_bridge_when_nobody_uses_it(stage2: str, rootfs: Path) -> None:
    # The container waits for its stdin, which the shell writes to in the end.
    script = """
        fifo=$(mktemp -u) && mkfifo "$fifo"
        "$1" run "$2" /bin/sh -c 'read a' <"$fifo" & exec 9>"$fifo"
        until ip -o link show master labrun0 2>/dev/null | grep -q lab; do sleep 0.05; done
        "$3" clean --yes >/dev/null; ip -o link show type bridge | cut -d: -f2
        exec 9>&-; wait; rm "$fifo"
        "$3" clean --yes >/dev/null; echo now; ip -o link show type bridge | cut -d: -f2
    """
    ended = run(["unshare", "-n", "sh", "-c", script, "sh", stage2, str(rootfs), LABRUN])
    assert ended.stdout.split() == [b"labrun0", b"now"]


# ---- many at once, and sudden ends


class Holding:
    """A container that says its address and waits for the end of its stdin."""

    def __init__(self, stage2: str, rootfs: Path, *options: str) -> None:
        script = "ip -4 -o addr show eth0; read a"
        self.process = subprocess.Popen(
            [stage2, "run", *options, str(rootfs), "/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @property
    def address(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        found = re.search(r"inet (\S+)/24", line)
        assert found, (line, self.process.stderr and self.process.stderr.read())
        return found[1]

    def end(self) -> None:
        self.process.communicate()


@contextlib.contextmanager
def holding(stage2: str, rootfs: Path, *options: str) -> Iterator[Holding]:
    container = Holding(stage2, rootfs, *options)
    try:
        yield container
    finally:
        container.end()


def cables() -> list[str]:
    return [name for name in os.listdir("/sys/class/net") if re.fullmatch(r"lab\d+", name)]


def eventually_none(look: str, names: Sequence[str]) -> None:
    """Wait until the kernel, which tidies up in the background, has done so."""
    for _ in range(600):
        left = cables() if look == "cables" else processes(names[0])
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(left)


@pytest.mark.once
def test_200_runs_20_at_a_time_share_no_address_and_leave_nothing(
    stage2: str, rootfs: Path
) -> None:
    for _ in range(10):
        containers = [Holding(stage2, rootfs) for _ in range(20)]
        addresses = [container.address for container in containers]
        for container in containers:
            container.end()
        assert len(set(addresses)) == 20
        assert {container.process.returncode for container in containers} == {1}
        assert cables() == []


@pytest.mark.once
def test_a_runtime_that_is_killed_at_any_moment_leaves_nothing(stage2: str, rootfs: Path) -> None:
    mark = f"lab-{os.urandom(6).hex()}"
    chance = random.Random(5)
    ran = 0
    began = time.monotonic()
    run([stage2, "run", str(rootfs), "/bin/true"])
    start = time.monotonic() - began
    for _ in range(100):
        script = f": {mark}; echo ran; read a"
        process = subprocess.Popen(
            [stage2, "run", str(rootfs), "/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0, 2 * start))
        process.kill()
        stdout, _ = process.communicate()  # it ends only when the container has closed it, too
        ran += bool(stdout)
    assert 0 < ran < 100, "the moments were not spread over the start"
    eventually_none("processes", [mark])
    eventually_none("cables", [])
    # What the next run finds is no hindrance to it.
    assert "default via" in inside(stage2, rootfs, "ip route")
    assert cables() == []


def test_sigkill_of_the_runtime_takes_all_processes_along(stage2: str, rootfs: Path) -> None:
    mark = f"lab-{os.urandom(6).hex()}"
    script = f": {mark}; (: {mark}; sleep 1000) & setsid sleep 1000 & echo up; read a; wait"
    for options in (QUIET, ("--namespaces", ALL)):
        process = subprocess.Popen(
            [stage2, "run", *options, str(rootfs), "/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        process.stdout.readline()
        assert len(processes(mark)) >= 2
        process.kill()
        process.communicate()
        eventually_none("processes", [mark])


def test_a_signal_reaches_the_command_that_handles_it(stage2: str, rootfs: Path) -> None:
    process = subprocess.Popen(
        [
            stage2,
            "run",
            *QUIET,
            str(rootfs),
            "/bin/sh",
            "-c",
            "trap 'exit 7' TERM; echo up; read a",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    # Not communicate(): it closes stdin first, and then the command's `read` would just end.
    assert process.wait(10) == 7
    process.communicate()


def sleeping(stage2: str, rootfs: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a command without handlers, and return when it runs."""
    seconds = f"1000.{random.randrange(10**9)}"
    process = subprocess.Popen(
        [stage2, "run", *options, str(rootfs), "/bin/sleep", seconds], stderr=subprocess.PIPE
    )
    while process.poll() is None:
        names = [Path(f"/proc/{pid}/comm") for pid in processes(seconds)]
        with contextlib.suppress(OSError):
            if "sleep\n" in [name.read_text() for name in names]:
                break
    return process


def test_a_second_sigint_kills_what_the_kernel_keeps_the_first_from(
    stage2: str, rootfs: Path
) -> None:
    # Without a handler of its own pid 1 of a namespace gets no signal.
    deaf = sleeping(stage2, rootfs, *QUIET)
    deaf.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert deaf.poll() is None
    deaf.send_signal(signal.SIGINT)
    assert deaf.wait(10) == 137
    assert b"second SIGINT within 2 s" in deaf.communicate()[1]
    # Any other process ends at the first.
    hears = sleeping(stage2, rootfs, "--namespaces", "mnt,uts")
    hears.send_signal(signal.SIGINT)
    assert hears.wait(10) == 130
    assert hears.communicate()[1] == b""


# ---- what the command gets


def test_no_descriptor_but_the_three_is_handed_on(stage2: str, rootfs: Path) -> None:
    outside = os.open("/", os.O_RDONLY)
    for options in ((), ("--namespaces", ALL)):
        ended = subprocess.run(
            [stage2, "run", *options, str(rootfs), "/bin/ls", "/proc/self/fd"],
            pass_fds=[outside],
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        assert ended.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own
    ended = run([stage2, "run", *QUIET, "-w", f"/proc/self/fd/{outside}", str(rootfs), "/bin/pwd"])
    os.close(outside)
    assert ended.returncode == 125


def test_the_umask_is_the_callers(stage2: str, rootfs: Path) -> None:
    line = ["sh", "-c", 'umask 027; exec "$@"', "sh", stage2, "run", *QUIET, str(rootfs)]
    assert run([*line, "/bin/sh", "-c", "umask"]).stdout.strip() == b"0027"


def test_the_root_is_as_it_was(stage2: str, rootfs: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(rootfs, root, symlinks=True)
    facts = {path: path.lstat() for path in (root, *root.rglob("*"))}
    for options in ((), ("--namespaces", ALL), ("--namespaces", "user,mnt")):
        assert run([stage2, "run", *options, str(root), "/bin/true"]).returncode == 0
    after = {path: path.lstat() for path in (root, *root.rglob("*"))}
    assert {p: (f.st_mode, f.st_mtime_ns, f.st_uid) for p, f in facts.items()} == {
        p: (f.st_mode, f.st_mtime_ns, f.st_uid) for p, f in after.items()
    }


# ---- no way on after a failure


@pytest.mark.parametrize(
    "options",
    [
        ("--namespaces", ALL, "--hostname", "x"),
        (),
        ("--namespaces", "user,mnt"),
        ("--namespaces", ""),
    ],
    ids=["all", "default", "user and mnt", "none"],
)
def test_whatever_call_fails_the_command_does_not_run(
    stage2: str, rootfs: Path, options: tuple[str, ...]
) -> None:
    line = [*options, "-w", "/etc", str(rootfs), "/bin/busybox", "echo", "ran"]
    traced = ["-w", "/etc", *options, str(rootfs), "/bin/true"]
    calls = calls_before_the_command(stage2, *traced, before=OWN_NETWORK)
    assert len(calls) > 15
    # EEXIST and ENODEV are answers that a run goes on with; EIO is one to each of these, too.
    said = check_each_fails_closed("stage2", list(calls), ["run", *line], OWN_NETWORK)
    for number, text in said.items():
        assert calls[number].partition("(")[0] in text
    ended = run(faulty("stage2", "no such call", "run", *line))
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")


# ---- why it can't be had


@pytest.mark.parametrize(
    ("name", "value", "flags", "status", "why"),
    [
        ("kernel/unprivileged_userns_clone", "0", "CLONE_NEWUSER", 1, "unprivileged_userns_clone"),
        ("user/max_user_namespaces", "0", "CLONE_NEWUSER", 1, "user.max_user_namespaces"),
        ("none", "", "CLONE_NEWNS", 1, "namespaces take CAP_SYS_ADMIN"),
    ],
)
def test_what_forbids_a_namespace_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, flags: str, status: int, why: str
) -> None:
    from stages import explain
    from stages.stage2_namespaces.options import Isolated

    monkeypatch.setattr(explain, "sysctl", lambda asked: value if asked == name else "")
    error = OSError(status, os.strerror(status), f"clone3({flags}, exit_signal SIGCHLD)")
    text = explain.explain(error, Isolated(["/", "/bin/true"], {}))
    assert why in text


def test_apparmors_restriction_is_named_where_it_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import explain
    from stages.stage2_namespaces.options import Isolated

    name = "kernel/apparmor_restrict_unprivileged_userns"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    container = Isolated(["/", "/bin/true"], {})
    error = OSError(13, os.strerror(13), 'mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL)')
    monkeypatch.setattr(explain, "sysctl", lambda asked: "1" if asked == name else "")
    assert name.replace("/", ".") in explain.explain(error, container)
    monkeypatch.setattr(explain, "sysctl", lambda asked: "")
    assert name.replace("/", ".") not in explain.explain(error, container)


def test_a_runtime_that_fails_when_the_command_has_ended_does_not_pass_its_status_on(
    stage2: str, rootfs: Path
) -> None:
    # Behind the word to the child come sigwaitinfo() and, once that has ended, waitid().
    calls = calls_before_the_command(stage2, *QUIET, str(rootfs), "/bin/true")
    said_last = max(int(call.partition(":")[2]) for call in calls if call.startswith("parent:"))
    line = ["run", *QUIET, str(rootfs), "/bin/sh", "-c", "exit 3"]
    ended = run(faulty("stage2", f"parent:{said_last + 2}", *line))
    assert (ended.returncode, said(ended).startswith("stage2: waitid(")) == (125, True)


def test_a_cable_that_can_t_be_removed_is_what_the_runtime_says(stage2: str, rootfs: Path) -> None:
    # The command's process is gone by then: its number may be another's, and is let alone.
    ended = run(faulty("stage2", "RTM_DELLINK", "run", str(rootfs), "/bin/true"))
    assert (ended.returncode, said(ended).startswith("stage2: RTM_DELLINK(")) == (125, True)
