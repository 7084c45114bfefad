"""Stage 3 by the contract, as its caller sees it. That limits hold is `checks/`'s to measure."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from checks import mounts
from stages.stage3_cgroups import sizes
from tests.running import abandoned_groups, processes, run
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
LAST = str(max(os.sched_getaffinity(0)))
LIMITS = (
    *("-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--cpu-shares", "512"),
    *("--cpuset-cpus", LAST, "--pids-limit", "20"),
)


def said(ended: subprocess.CompletedProcess[bytes]) -> str:
    return line_of(ended, "stage3")


def inside(stage3: str, rootfs: Path, script: str, *options: str) -> str:
    """Return what a shell script prints in a container."""
    ended = run([stage3, "run", *options, str(rootfs), "/bin/sh", "-c", script])
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout.decode().strip()


def explained(stage3: str, rootfs: Path, script: str, *options: str) -> tuple[int, list[str]]:
    """Return the exit status, and what --explain says at the end."""
    line = [stage3, "run", *QUIET, "--explain", *options, str(rootfs), "/bin/sh", "-c", script]
    ended = run(line)
    lines = ended.stderr.decode().splitlines()
    return ended.returncode, [line for line in lines if line.startswith("stage3: ")]


@pytest.fixture
def disk() -> str:
    """Return a whole disk of this machine's, for limits that are written and not reached."""
    for entry in sorted(Path("/sys/block").iterdir()):
        node = Path("/dev", entry.name)
        if node.is_block_device() and int((entry / "size").read_text()) > 0:
            return str(node)
    pytest.skip("cannot: there is no disk here")


# ---- a container that is looked at from outside


class Holding:
    """A container whose command waits for the end of its stdin, and its groups on the host."""

    def __init__(self, *line: str, script: str = "echo up; read a") -> None:
        self.process = subprocess.Popen(
            [*line, "/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout
        assert self.process.stdout.readline(), self.process.communicate()[1]

    @property
    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def command(self) -> int:
        """The process of the command: the keeper, the other child, is outside of the group."""
        return next(pid for pid in self.children if "/labrun-run-" in own_groups(pid))

    @property
    def groups(self) -> dict[str, Path]:
        """Return the directory of each group that the command is in, by controller; v2 is ""."""
        return {
            names: path
            for names, path in directories(self.command).items()
            if "labrun-run-" in path.name
        }

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


def own_groups(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cgroup").read_text()
    return ""


def directories(pid: int | str) -> dict[str, Path]:
    """Return the directory of each group that a process is in, by controller; v2 is ""."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for mount in mounts.parse(mounts.own()):
            mine = {*names.split(",")} <= mount.options if names else mount.type == "cgroup2"
            if mine and mount.type.startswith("cgroup") and mount.root == "/":
                found.update(dict.fromkeys(names.split(","), Path(mount.point, path[1:])))
    return found


@contextlib.contextmanager
def holding(*line: str, script: str = "echo up; read a") -> Iterator[Holding]:
    container = Holding(*line, script=script)
    try:
        yield container
    finally:
        container.end()


@pytest.fixture
def v1() -> dict[str, Path]:
    """Return where this process is in the hierarchies of v1."""
    found = {name: path for name, path in directories("self").items() if name and "=" not in name}
    if not found:
        pytest.skip("cannot: no control groups of version 1 are mounted")
    return found


@pytest.fixture
def outer(v1: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Make a group below this process's own in each hierarchy of v1."""
    name = f"labrun-test-{os.urandom(4).hex()}"
    made = {controller: path / name for controller, path in v1.items()}
    for path in dict.fromkeys(made.values()):
        path.mkdir()
        for file in ("cpuset.mems", "cpuset.cpus"):
            if (path / file).exists():
                (path / file).write_text((path.parent / file).read_text())
    yield made
    for path in dict.fromkeys(made.values()):
        path.rmdir()


def within(groups: Mapping[str, Path], *line: str) -> list[str]:
    """Return a command line that joins groups first."""
    script = 'until [ "$1" = -- ]; do echo 0 >"$1/tasks"; shift; done; shift; exec "$@"'
    return ["sh", "-euc", script, "sh", *map(str, dict.fromkeys(groups.values())), "--", *line]


# ---- how much: options


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 m", 64 << 20),
        ("1.5g", 3 << 29),
        ("8192k", 8 << 20),
        ("67108864", 64 << 20),
        ("67108864b", 64 << 20),
        ("1.5", 1),
        ("1t", 1 << 40),
    ],
)
def test_a_size_is_read_as_docker_reads_it(text: str, amount: int) -> None:
    assert sizes.size("--memory", text) == amount


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("8mbit", 8_000_000),
        ("500kbit", 500_000),
        ("1mbps", 8_000_000),
        ("1gbit", 1_000_000_000),
        ("1.5mbit", 1_500_000),
        ("1mibit", 1 << 20),
        ("8000", 8000),
        ("1kibps", 8192),
    ],
)
def test_a_rate_is_read_as_tc_reads_it(text: str, rate: int) -> None:
    assert sizes.bit_rate("--net-rate", text) == rate


def test_a_device_is_read_with_its_rate(disk: str) -> None:
    number = os.stat(disk).st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    option = "--device-read-bps"
    assert sizes.device_rate(option, f"{disk}:1mb") == (name, 1 << 20)
    assert sizes.device_rate(option, f"{disk}:512k") == (name, 512 << 10)
    assert sizes.device_rate(option, f"{disk}:4096") == (name, 4096)


BAD = [
    ("-m", "64x", "--memory 64x: not a size"),
    ("-m", "", "--memory : not a size"),
    ("-m", "m", "--memory m: not a size"),
    ("-m", "-5m", "--memory -5m: not a size"),
    ("-m", "1e9", "--memory 1e9: not a size"),
    ("-m", "inf", "--memory inf: not a size"),
    ("-m", "6000k", "--memory 6000k: less than 6m"),
    ("-m", "0", "--memory 0: less than 6m"),
    ("--memory-swap", "64m", "--memory-swap 64m: it needs --memory"),
    ("--cpus", "0", "--cpus 0: say a number from 0.01 to"),
    ("--cpus", "0.001", "--cpus 0.001: say a number from 0.01 to"),
    ("--cpus", str((os.cpu_count() or 1) + 1), "the CPUs that are here"),
    ("--cpus", "-1", "--cpus -1: say a number"),
    ("--cpus", "1.5.2", "--cpus 1.5.2: say a number"),
    ("--cpus", "nan", "--cpus nan: say a number"),
    ("--cpus", "", "--cpus : say a number"),
    ("--cpuset-cpus", "4095", "--cpuset-cpus 4095: CPU 4095 can't be had here"),
    ("--cpuset-cpus", "0,4095", "CPU 4095 can't be had here"),
    ("--cpuset-cpus", "a", "--cpuset-cpus a: not a list of CPUs"),
    ("--cpuset-cpus", "", "--cpuset-cpus : not a list of CPUs"),
    ("--cpuset-cpus", "0-", "--cpuset-cpus 0-: not a list of CPUs"),
    ("--cpu-shares", "1", "--cpu-shares 1: say a whole number from 2 to 262144"),
    ("--cpu-shares", "half", "--cpu-shares half: say a whole number"),
    ("--pids-limit", "0", "--pids-limit 0: say a whole number from 1"),
    ("--pids-limit", "1.5", "--pids-limit 1.5: say a whole number"),
    ("--device-read-bps", "/dev/none:1mb", "--device-read-bps /dev/none:1mb: /dev/none: No such"),
    ("--device-write-bps", "/dev/null:1mb", "/dev/null is not a block device"),
    ("--device-read-bps", "/etc/passwd:1mb", "/etc/passwd is not a block device"),
    ("--device-read-bps", "/dev/null", "say DEVICE:RATE, such as /dev/vda:1mb"),
    ("--device-read-bps", "1mb", "say DEVICE:RATE, such as /dev/vda:1mb"),
    ("-m", "16777216t", "--memory 16777216t: no machine has that"),
    ("--cpuset-cpus", "2-0", "--cpuset-cpus 2-0: not a list of CPUs"),
    ("--cpuset-cpus", "0-99999999999", "--cpuset-cpus 0-99999999999: CPU "),
    ("--cpuset-cpus", "0-\u00b2", "not a list of CPUs"),
    ("--net-rate", "", "--net-rate : not a rate"),
    ("--net-rate", "999999999tbit", "no link is that fast"),
    ("--net-rate", "fast", "--net-rate fast: not a rate"),
    ("--net-rate", "1", "--net-rate 1: less than a byte a second"),
    ("--net-rate", "8mbit", "--net-rate 8mbit: it is eth0's rate: say --net bridge"),
]


@pytest.mark.parametrize(("option", "value", "why"), BAD)
def test_what_cannot_be_read_or_fulfilled_is_125_and_nothing_runs(
    stage3: str, rootfs: Path, option: str, value: str, why: str
) -> None:
    line = [stage3, "run", *QUIET, option, value, str(rootfs), "/bin/echo", "ran"]
    ended = run(line)
    assert ended.returncode == 125
    assert why in said(ended)


def test_less_memory_with_swap_than_without_is_refused(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", *QUIET, "-m", "64m", "--memory-swap", "32m", str(rootfs), "/bin/true"]
    ended = run(line)
    assert (ended.returncode, "say at least --memory's 64m" in said(ended)) == (125, True)


@pytest.mark.parametrize("option", ["--device-read-bps", "--device-write-bps"])
def test_a_rate_of_a_device_is_named_where_it_is_off(
    stage3: str, rootfs: Path, disk: str, option: str
) -> None:
    for rate, why in (("0", "a rate of 0 is none"), ("fast", "not a size"), ("", "not a size")):
        ended = run([stage3, "run", *QUIET, option, f"{disk}:{rate}", str(rootfs), "/bin/true"])
        assert ended.returncode == 125
        assert why in said(ended)
        assert option in said(ended)


def test_stage_2_has_none_of_these_options(stage2: str, rootfs: Path) -> None:
    for option in ("--memory", "-m", "--cpus", "--pids-limit", "--net-rate", "--explain"):
        ended = run([stage2, "run", option, "x", str(rootfs), "/bin/true"])
        assert (ended.returncode, b"unknown option" in ended.stderr) == (2, True)


def test_the_usage_has_each_option(stage3: str) -> None:
    text = run([stage3, "run", "--help"]).stdout.decode()
    for option in ("-m, --memory SIZE", "--cpus N", "--device-read-bps DEV:RATE", "--explain"):
        assert option in text


# ---- in force


NUMBERS = [
    # controller on v1, its file, what it holds; the file of v2, what it holds
    ("memory", "memory.limit_in_bytes", str(64 << 20), "memory.max", str(64 << 20)),
    ("memory", "memory.memsw.limit_in_bytes", str(96 << 20), "memory.swap.max", str(32 << 20)),
    ("cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
    ("cpu", "cpu.cfs_period_us", "100000", "cpu.max", "50000 100000"),
    ("cpu", "cpu.shares", "512", "cpu.weight", "50"),
    ("cpuset", "cpuset.cpus", LAST, "cpuset.cpus", LAST),
    ("pids", "pids.max", "20", "pids.max", "20"),
]


def test_the_kernel_holds_the_numbers_that_were_asked_for(
    stage3: str, rootfs: Path, disk: str
) -> None:
    rates = ("--device-read-bps", f"{disk}:1mb", "--device-write-bps", f"{disk}:2mb")
    number = os.stat(disk).st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    with holding(stage3, "run", *QUIET, *LIMITS, *rates, str(rootfs)) as container:
        groups = container.groups
        for controller, file, text, other, other_text in NUMBERS:
            if controller in groups:
                path, wanted = groups[controller] / file, text
            else:
                path, wanted = groups[""] / other, other_text
            if path.exists() or ("swap" not in path.name and "memsw" not in path.name):
                assert path.read_text().strip() == wanted, path
        if "blkio" in groups:
            for kind, rate in (("read", 1 << 20), ("write", 2 << 20)):
                path = groups["blkio"] / f"blkio.throttle.{kind}_bps_device"
                assert path.read_text().split() == [device, str(rate)]
        else:
            words = (groups[""] / "io.max").read_text().split()
            assert {device, f"rbps={1 << 20}", f"wbps={2 << 20}"} <= {*words}
        assert os.sched_getaffinity(container.command) == {int(LAST)}
    assert not [path for path in groups.values() if path.exists()]


def test_without_limits_nothing_is_limited(stage3: str, rootfs: Path) -> None:
    with holding(stage3, "run", *QUIET, str(rootfs)) as container:
        for path in container.groups.values():
            for file in ("memory.max", "pids.max"):
                assert not (path / file).exists() or (path / file).read_text() == "max\n"
            quota = path / "cpu.cfs_quota_us"
            assert not quota.exists() or quota.read_text() == "-1\n"
        # An empty cpuset lets nobody in: there is none that nobody asked for.
        assert "cpuset" not in container.groups


def test_the_first_instruction_is_within_the_limits(stage3: str, rootfs: Path) -> None:
    # `cat` is the command itself, with no shell before it.
    line = [stage3, "run", *QUIET, *LIMITS, str(rootfs), "/bin/cat", "/proc/self/cgroup"]
    rows = run(line).stdout.decode().splitlines()
    limited = {"memory", "cpu", "cpuset", "pids", ""}
    for row in rows:
        _, names, path = row.split(":", 2)
        if limited & {*names.split(",")} and (names or len(rows) == 1):
            assert re.search(r"/labrun-run-[0-9a-f]{8}$", path), row


def test_each_container_has_a_group_of_its_own(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", *QUIET, "-m", "64m", str(rootfs)]
    with holding(*line) as first, holding(*line) as second:
        assert not {*first.groups.values()} & {*second.groups.values()}


def test_root_inside_is_nobody_outside_and_within_its_limits(stage3: str, rootfs: Path) -> None:
    options = ("--namespaces", ALL, *LIMITS, *QUIET)
    with holding(stage3, "run", *options, str(rootfs)) as container:
        assert os.stat(f"/proc/{container.command}").st_uid == 100000
        group = container.groups.get("memory") or container.groups[""]
        assert group.name.startswith("labrun-run-")
        # It may not raise its own limits: the files are the host's root's.
        assert group.stat().st_uid == 0


def test_a_cgroup_namespace_begins_at_the_containers_group(stage3: str, rootfs: Path) -> None:
    script = "cat /proc/self/cgroup"
    options = (*QUIET, *LIMITS, "--namespaces", "pid,mnt,cgroup")
    rows = [row.split(":", 2) for row in inside(stage3, rootfs, script, *options).splitlines()]
    assert {path for _, _, path in rows} == {"/"}
    rows = [row.split(":", 2) for row in inside(stage3, rootfs, script, *QUIET).splitlines()]
    assert any("/labrun-run-" in path for _, _, path in rows)


@pytest.mark.parametrize("options", [("-m", "6m"), ("--pids-limit", "1"), ("--cpus", "0.01")])
def test_a_command_starts_within_the_least_there_is(
    stage3: str, rootfs: Path, options: tuple[str, ...]
) -> None:
    for namespaces in ("pid,net,mnt,ipc,uts", ALL):
        line = [stage3, "run", *QUIET, "--namespaces", namespaces, *options, str(rootfs)]
        ended = run([*line, "/bin/echo", "ran"])
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ran\n", b"")


# ---- what the limits did: --explain


def test_who_killed_it_is_said(stage3: str, rootfs: Path) -> None:
    options = ("-m", "32m", "--memory-swap", "32m")
    status, lines = explained(stage3, rootfs, "exec tail /dev/zero", *options)
    assert status == 137
    assert len(lines) == 1
    assert re.fullmatch(
        r"stage3: killed by the kernel: memory\.(limit_in_bytes|max) 32 MiB reached, oom_kill 1",
        lines[0],
    )
    status, lines = explained(stage3, rootfs, "tail /dev/zero; true", *options)
    assert status == 0
    assert lines[0].startswith("stage3: a process was killed by the kernel: memory.")


def test_throttling_is_said(stage3: str, rootfs: Path) -> None:
    busy = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"
    status, lines = explained(stage3, rootfs, busy, "--cpus", "0.1")
    assert status == 0
    found = re.fullmatch(
        r"stage3: throttled: cpu\.(cfs_quota_us|max) used up in (\d+) of (\d+) periods, "
        r"(\d+\.\d) s of waiting for (\d+\.\d) s of CPU time",
        lines[0],
    )
    assert found, lines
    assert 0 < int(found[2]) <= int(found[3])
    assert float(found[4]) > 0
    _, lines = explained(stage3, rootfs, ":", "--cpus", "1")
    assert lines == ["stage3: CPU: 0.0 s of CPU time, never throttled"]


def test_refused_forks_are_said(stage3: str, rootfs: Path) -> None:
    forks = "for i in 1 2 3 4 5; do sleep 1 & done; wait"
    _, lines = explained(stage3, rootfs, forks, "--pids-limit", "3")
    assert len(lines) == 1
    assert re.fullmatch(r"stage3: forks refused: pids\.max 3 reached, max \d+", lines[0])


def test_where_no_limit_was_reached_that_is_said(stage3: str, rootfs: Path) -> None:
    for options in ((), ("--pids-limit", "30"), ("--cpu-shares", "2")):
        assert explained(stage3, rootfs, ":", *options) == (0, ["stage3: no limit was reached"])
    _, lines = explained(stage3, rootfs, ":", "-m", "64m")
    assert re.fullmatch(r"stage3: memory: at most \d+(\.\d)? MiB of 64 MiB", lines[0])
    # Without the option, and where the command did not run, nothing is explained.
    assert inside(stage3, rootfs, "echo", *QUIET, "-m", "64m") == ""
    ended = run([stage3, "run", *QUIET, "--explain", "-w", "/none", str(rootfs), "/bin/true"])
    assert ended.returncode == 125


# ---- the network


def queues(pid: int) -> list[dict[str, object]]:
    """Return the queueing disciplines of the network that a process is in."""
    if not shutil.which("tc"):
        pytest.skip("cannot: there is no tc here")
    ended = run(["nsenter", "-t", str(pid), "-n", "tc", "-j", "qdisc", "show"])
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, object]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("namespaces", ["pid,net,mnt,ipc,uts", ALL])
def test_a_token_bucket_is_at_each_end_of_the_cable(
    stage3: str, rootfs: Path, namespaces: str
) -> None:
    # In a network of the test's own.
    line = ["unshare", "-n", stage3, "run", "--net-rate", "8mbit", "--namespaces", namespaces]
    with holding(*line, str(rootfs)) as container:
        ends = {"outside": container.process.pid, "inside": container.command}
        for pid in ends.values():
            shaped = [queue for queue in queues(pid) if queue["kind"] == "tbf"]
            assert len(shaped) == 1
            options = shaped[0]["options"]
            assert isinstance(options, dict)
            assert options["rate"] == 1_000_000  # bytes
        names = [
            queue["dev"] for pid in ends.values() for queue in queues(pid) if "tbf" in str(queue)
        ]
        assert names[1] == "eth0"
        assert re.fullmatch(r"lab\d+", str(names[0]))


@pytest.mark.parametrize("rate", ["8bit", "100gbit", "100tbit"])
def test_any_rate_that_can_be_said_can_be_had(stage3: str, rootfs: Path, rate: str) -> None:
    ended = run([*OWN_NETWORK, stage3, "run", "--net-rate", rate, str(rootfs), "/bin/echo", "ran"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ran\n", b"")


def test_without_a_rate_there_is_no_token_bucket(stage3: str, rootfs: Path) -> None:
    with holding("unshare", "-n", stage3, "run", str(rootfs)) as container:
        for pid in (container.process.pid, container.command):
            assert "tbf" not in str(queues(pid))


# ---- no way on after a failure


@pytest.mark.parametrize("namespaces", ["pid,net,mnt,ipc,uts", ALL])
def test_whatever_call_fails_the_command_does_not_run_and_no_group_is_left(
    stage3: str, rootfs: Path, disk: str, namespaces: str
) -> None:
    rate = ("--device-read-bps", f"{disk}:1mb", "--net-rate", "8mbit")
    options = ["--namespaces", namespaces, *LIMITS, *rate]
    traced = [*options, str(rootfs), "/bin/true"]
    calls = calls_before_the_command(stage3, *traced, before=OWN_NETWORK)
    assert len(calls) > 40
    # These two only count: a run goes on without them.
    spared = [
        call for call, words in calls.items() if re.match(r'mkdir\(".*/(cpuacct|freezer)/', words)
    ]
    line = ["run", *options, str(rootfs), "/bin/busybox", "echo", "ran"]
    needed = [call for call in calls if call not in spared]
    said = check_each_fails_closed("stage3", needed, line, before=OWN_NETWORK)
    for number, text in said.items():
        assert calls[number].partition("(")[0] in text
    for call in spared:
        ended = run([*OWN_NETWORK, *faulty("stage3", call, *line)])
        assert (ended.returncode, ended.stdout) == (0, b"ran\n")
    assert not abandoned_groups()


def test_a_group_that_can_t_be_removed_is_what_the_runtime_says(stage3: str, rootfs: Path) -> None:
    ended = run(faulty("stage3", "rmdir(", "run", *QUIET, "-m", "64m", str(rootfs), "/bin/true"))
    assert (ended.returncode, said(ended).startswith("stage3: rmdir(")) == (125, True)
    # The keeper hears of the runtime's end, and does it.
    assert not abandoned_groups()


# ---- where it can't be had


def private(script: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script in a mount namespace of its own."""
    return run(["unshare", "-m", "sh", "-euc", script, "sh", *words])


@pytest.mark.parametrize("point", ["memory", "pids"])
def test_a_read_only_tree_is_named_and_a_run_without_limits_goes_on(
    stage3: str, rootfs: Path, v1: dict[str, Path], point: str
) -> None:
    options = {"memory": ("-m", "64m"), "pids": ("--pids-limit", "9")}[point]
    script = 'mount -o bind,remount,ro "$1"; shift; exec "$@"'
    top = next(path for path in (v1[point], *v1[point].parents) if path.is_mount())
    line = [str(top), stage3, "run", *QUIET]
    ended = private(script, *line, *options, str(rootfs), "/bin/echo", "ran")
    assert ended.returncode == 125
    assert f'mkdir("{v1[point]}/labrun-run-' in said(ended)
    assert "mounted read-only here" in said(ended)
    assert "remount,rw" in said(ended)
    ended = private(script, *line, str(rootfs), "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ran\n", b"")
    assert not abandoned_groups()


@pytest.mark.parametrize("also", ["", "/sys/fs/cgroup/unified"])
def test_a_controller_that_no_tree_has_is_named_and_a_run_without_limits_goes_on(
    stage3: str, rootfs: Path, v1: dict[str, Path], also: str
) -> None:
    if also and not os.path.ismount(also):
        pytest.skip(f"cannot: nothing is mounted at {also}")
    top = next(path for path in (v1["memory"], *v1["memory"].parents) if path.is_mount())
    script = 'umount $1; shift; exec "$@"'
    line = [f"{top} {also}", stage3, "run", *QUIET]
    ended = private(script, *line, "-m", "64m", str(rootfs), "/bin/echo", "ran")
    assert ended.returncode == 125
    assert said(ended).startswith("stage3: cgroup(memory): No such file or directory: no tree")
    assert "/sys/fs/cgroup" in said(ended)
    for options in ((), ("--pids-limit", "9")):
        ended = private(script, *line, *options, str(rootfs), "/bin/echo", "ran")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ran\n", b"")


def test_where_some_controllers_are_on_v2_each_limit_goes_to_its_own(tmp_path: Path) -> None:
    from stages.stage3_cgroups.limits import Limits
    from stages.stage3_cgroups.v1 import GroupV1

    limits = Limits({"--memory": ["64m"], "--pids-limit": ["9"]})
    group = GroupV1("x", {"pids": str(tmp_path)}, limits)
    group.create()
    (tmp_path / "x" / "pids.max").touch()
    group.limit(limits)
    assert (tmp_path / "x" / "pids.max").read_text() == "9"


def test_a_part_of_a_disk_has_no_limit_of_its_own(stage3: str, rootfs: Path) -> None:
    parts = list(Path("/sys/block").glob("*/*/partition"))
    nodes = [node for path in parts if (node := Path("/dev", path.parent.name)).is_block_device()]
    if not nodes:
        pytest.skip("cannot: no disk here has parts")
    rate = f"{nodes[0]}:1mb"
    ended = run([stage3, "run", *QUIET, "--device-read-bps", rate, str(rootfs), "/bin/true"])
    assert (ended.returncode, "name the whole disk" in said(ended)) == (125, True)


def test_a_kernel_without_token_buckets_is_named(stage3: str, rootfs: Path) -> None:
    from stages.stage3_cgroups.more.why import why

    error = OSError(2, os.strerror(2), 'RTM_NEWQDISC("lab2", tbf, 8000000 bit/s)')
    assert "modprobe sch_tbf" in why(error, rootless=False)


# ---- a runtime that is in a group itself


def test_a_group_is_made_below_the_callers_own(
    stage3: str, rootfs: Path, outer: dict[str, Path]
) -> None:
    line = [stage3, "run", *QUIET, *LIMITS, str(rootfs), "/bin/cat", "/proc/self/cgroup"]
    ended = run(within(outer, *line))
    assert (ended.returncode, ended.stderr) == (0, b"")
    name = next(iter(outer.values())).name
    seen = 0
    for row in ended.stdout.decode().splitlines():
        _, names, path = row.split(":", 2)
        if {"memory", "cpu", "cpuset", "pids"} & {*names.split(",")}:
            assert re.search(rf"/{name}/labrun-run-[0-9a-f]{{8}}$", path)
            seen += 1
    assert seen


def test_a_group_above_with_fewer_cpus_is_the_reason(
    stage3: str, rootfs: Path, outer: dict[str, Path]
) -> None:
    mine = sorted(os.sched_getaffinity(0))
    if "cpuset" not in outer or len(mine) < 2:
        pytest.skip("cannot: it takes two CPUs, and a cpuset")
    (outer["cpuset"] / "cpuset.cpus").write_text(str(mine[0]))
    line = [stage3, "run", *QUIET, "--cpuset-cpus", f"{mine[0]},{mine[1]}", str(rootfs)]
    ended = run(within(outer, *line, "/bin/echo", "ran"))
    assert ended.returncode == 125
    assert f"CPU {mine[1]} can't be had here; {mine[0]} can" in said(ended)


def test_a_group_above_with_less_time_is_the_reason(
    stage3: str, rootfs: Path, outer: dict[str, Path]
) -> None:
    (outer["cpu"] / "cpu.cfs_quota_us").write_text("20000")
    line = [stage3, "run", *QUIET, "--cpus"]
    ended = run(within(outer, *line, "0.5", str(rootfs), "/bin/echo", "ran"))
    assert ended.returncode == 125
    assert "a group above has less: see its cpu.cfs_quota_us" in said(ended)
    assert str(outer["cpu"]) in said(ended)
    ended = run(within(outer, *line, "0.1", str(rootfs), "/bin/echo", "ran"))
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")


# ---- many at once, and sudden ends


@pytest.mark.once
def test_500_runs_10_at_a_time_leave_no_group(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", *QUIET, "-m", "64m", "--pids-limit", "9", "--cpus", "0.5"]
    for _ in range(50):
        processes = [
            subprocess.Popen([*line, str(rootfs), "/bin/true"], stdin=subprocess.DEVNULL)
            for _ in range(10)
        ]
        assert [process.wait() for process in processes] == [0] * 10
    assert not abandoned_groups()


def gone(mark: str) -> list[str]:
    """Return the processes with that mark that are still there after a while."""
    until = time.monotonic() + 30
    while (left := processes(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def test_a_runtime_that_is_killed_at_any_moment_leaves_no_group_and_no_keeper(
    stage3: str, rootfs: Path
) -> None:
    mark = f"lab-{os.urandom(6).hex()}"
    chance = random.Random(5)
    ran = 0
    began = time.monotonic()
    run([stage3, "run", *QUIET, *LIMITS, str(rootfs), "/bin/true"])
    start = time.monotonic() - began
    for number in range(100):
        process = subprocess.Popen(
            [
                stage3,
                "run",
                *QUIET,
                *LIMITS,
                str(rootfs),
                "/bin/sh",
                "-c",
                f": {mark}; echo; read a",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0, 2 * start))
        # Every other time the whole process group, as a shell's `kill -9 %1` does.
        if number % 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        stdout, _ = process.communicate()
        ran += bool(stdout)
    assert 0 < ran < 100, "the moments were not spread over the start"
    assert not gone(mark)  # the keeper has the runtime's command line
    assert not abandoned_groups()


def test_a_keeper_needs_no_stdin(stage3: str, rootfs: Path) -> None:
    # With 0 to 2 closed the next descriptor is one of them: the runtime's own must not be.
    line = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", stage3, "run", *QUIET, "-m", "64m"]
    with holding(*line, str(rootfs), script="echo up; exec sleep 30") as container:
        assert container.groups
        container.process.kill()
    assert not abandoned_groups()
    ended = run([*line, str(rootfs), "/bin/ls", "/proc/self/fd"])
    assert ended.stdout.split() == [b"0", b"1"]  # 0 is ls's own


def test_a_killed_keeper_is_no_end_of_the_run(stage3: str, rootfs: Path) -> None:
    container = Holding(
        stage3, "run", *QUIET, "-m", "64m", str(rootfs), script="echo; read a; exit 7"
    )
    (keeper,) = {*container.children} - {container.command}
    os.kill(keeper, signal.SIGKILL)
    assert container.end() == 7
    assert not abandoned_groups()


@pytest.mark.parametrize("namespaces", ["mnt", "mnt,user"])
def test_what_a_command_leaves_behind_is_ended_with_its_group(
    stage3: str, rootfs: Path, namespaces: str
) -> None:
    seconds = f"300.{random.randrange(10**9)}"
    script = f"sleep {seconds} & (setsid sleep {seconds} &); exit 3"
    line = [stage3, "run", "--namespaces", namespaces, str(rootfs), "/bin/sh", "-c", script]
    ended = run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, capture_output=False)
    assert ended.returncode == 3
    assert not processes(seconds)
    assert not abandoned_groups()


def test_a_killed_runtime_takes_along_what_a_pid_namespace_would_have(
    stage3: str, rootfs: Path
) -> None:
    seconds = f"300.{random.randrange(10**9)}"
    script = f"setsid sleep {seconds} & echo; read a"
    container = Holding(stage3, "run", "--namespaces", "mnt", str(rootfs), script=script)
    container.process.kill()
    container.end()
    assert not gone(seconds)
    assert not abandoned_groups()


def test_a_stopped_or_frozen_process_is_no_hindrance(stage3: str, rootfs: Path) -> None:
    seconds = f"300.{random.randrange(10**9)}"
    script = f"sleep {seconds} & kill -STOP $!; echo; read a"
    container = Holding(stage3, "run", "--namespaces", "mnt", str(rootfs), script=script)
    groups = container.groups
    if "freezer" in groups:
        (groups["freezer"] / "freezer.state").write_text("FROZEN")
    else:
        (groups[""] / "cgroup.freeze").write_text("1")
    container.process.kill()
    container.end()
    assert not gone(seconds)
    assert not abandoned_groups()


# ---- the rest is as stage 2 has it


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["/bin/sh", "-c", "exit 7"], 7),
        (["/bin/sh", "-c", "exit 200"], 200),
        (["/bin/none"], 127),
        (["/etc"], 126),
    ],
)
def test_the_exit_status_is_the_commands(
    stage3: str, rootfs: Path, command: list[str], status: int
) -> None:
    assert run([stage3, "run", *QUIET, "-m", "64m", str(rootfs), *command]).returncode == status


def test_a_signal_that_ends_the_command_is_128_and_its_number(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", "--namespaces", "mnt", "-m", "64m", str(rootfs)]
    assert run([*line, "/bin/sh", "-c", "kill -9 $$"]).returncode == 137
    assert run([*line, "/bin/sh", "-c", "kill -15 $$"]).returncode == 143


def test_a_signal_reaches_the_command(stage3: str, rootfs: Path) -> None:
    script = "trap 'exit 7' TERM; echo; read a"
    container = Holding(stage3, "run", *QUIET, *LIMITS, str(rootfs), script=script)
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(10) == 7
    container.end()


def test_no_descriptor_but_the_three_is_handed_on(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", *QUIET, *LIMITS, str(rootfs), "/bin/ls", "/proc/self/fd"]
    assert run(line).stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own
