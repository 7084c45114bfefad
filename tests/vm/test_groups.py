"""Stage 3 on control groups of version 2 alone, below a systemd: as root, and as a student.

Under emulation each container takes seconds. So one is asked for all its numbers, and the axes that
need no control groups are the matrix's to judge there (test_there).
"""

import re
from collections.abc import Iterator

import pytest

from checks.model import axes
from checks.probes.cgroup import JOINS
from tests.peers import known, verdicts
from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

A_CHECK = 3000
"""Seconds for every check up to stage 3."""
LIMITS = [axis.id for axis in axes().values() if axis.stage == 3]
ASKED = "-m 64m --memory-swap 96m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --pids-limit 20"
FILES = {
    "memory.max": str(64 << 20),
    "memory.swap.max": str(32 << 20),
    "cpu.max": "50000 100000",
    "cpu.weight": "50",
    "cpuset.cpus": "0",
    "pids.max": "20",
}
OWN = "--namespaces user,pid,mnt,uts,ipc"

HOLD = r"""
# hold COMMAND...: start a container that says its group, and find that; `release` ends it.
hold() {
    folder=$(mktemp -d)
    mkfifo "$folder/in"
    "$@" "$root" /bin/sh -c 'cat /proc/self/cgroup; read a' <"$folder/in" >"$folder/out" &
    runtime=$!
    exec 9>"$folder/in"
    for _ in $(seq 300); do
        if grep -q '^0::.*/labrun-run-' "$folder/out"; then break; fi
        sleep 0.2
    done
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' "$folder/out")
}
release() {
    exec 9>&-
    wait "$runtime" || true
    rm -r "$folder"
}
# What is left, after a while: an ordinary user's scope goes a moment after its last process.
left() {
    for _ in $(seq 100); do
        found=$(find /sys/fs/cgroup -name 'labrun-run-*'
            systemctl list-units --all --plain --no-legend 'labrun-run-*')
        if [ -z "$found" ]; then break; fi
        sleep 0.2
    done
    echo "left:$found"
}
"""


@pytest.fixture(scope="module")
def root(guest: Guest) -> Iterator[str]:
    """Return a root file system in the machine that is the student's."""
    folder = guest.shell('folder=$(mktemp -d); labrun rootfs "$folder/root" >&2; echo "$folder"')
    yield f"{folder.strip()}/root"
    guest.shell(f"rm -r {folder.strip()}")


def numbers(said: str) -> dict[str, str]:
    """Return what was shown as `file=what it says`."""
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def show(files: str) -> str:
    return f'for file in {files}; do echo "$file=$(cat "$group/$file")"; done\n'


def test_root_has_a_scope_with_the_numbers_asked_for_and_then_none(guest: Guest, root: str) -> None:
    said = guest.shell(
        f"root={root}\n{HOLD}"
        + "disk=$(lsblk -dnpo NAME,TYPE | awk '$2 == \"disk\" { print $1; exit }')\n"
        + f"hold sudo stage3 run --net none {ASKED} --device-read-bps $disk:1mb "
        + "--device-write-bps $disk:2mb\n"
        + show(" ".join([*FILES, "io.max"]))
        + "echo disk=$(lsblk -dno MAJ:MIN $disk)\n"
        + "echo group=$group\n"
        + "echo processes=$(wc -l <$group/cgroup.procs)\n"
        + "unit=$(basename $(dirname $group))\n"
        + "echo delegated=$(systemctl show -P Delegate $unit)\n"
        + "release; left\n"
    )
    found = numbers(said)
    assert re.search(r"/(labrun-run-[0-9a-f]{8})\.scope/\1$", found["group"]), said
    assert {file: found[file] for file in FILES} == FILES
    assert {found["disk"], f"rbps={1 << 20}", f"wbps={2 << 20}"} <= {*found["io.max"].split()}
    assert found["processes"] == "1"
    assert found["delegated"] == "yes"
    assert said.endswith("left:\n"), said


def test_a_killed_runtime_leaves_neither_group_nor_scope(guest: Guest, root: str) -> None:
    said = guest.shell(
        f"root={root}\n{HOLD}"
        + "hold sudo stage3 run --net none -m 64m\n"
        # The runtime is the command's parent; sudo, before it, is not in the scope.
        + "parent=$(ps -o ppid= -p $(cat $group/cgroup.procs) | tr -d ' ')\n"
        + "echo runtime=$(cat /proc/$parent/cgroup)\n"
        + "sudo kill -9 $parent\n"
        + "release; left\n"
    )
    assert re.search(r"/labrun-run-[0-9a-f]{8}\.scope/runtime$", numbers(said)["runtime"]), said
    assert said.endswith("left:\n"), said


def test_a_student_has_the_same_in_what_systemd_delegates(guest: Guest, root: str) -> None:
    said = guest.shell(
        f"root={root}\n{HOLD}"
        + f"hold stage3 run {OWN} {ASKED}\n"
        + show(" ".join(FILES))
        + "echo group=$group\n"
        + "echo owner=$(stat -c %U $group)\n"
        + "release; left\n"
    )
    found = numbers(said)
    assert "/user@" in found["group"], said
    assert {file: found[file] for file in FILES} == FILES
    assert found["owner"] == "student"
    assert said.endswith("left:\n"), said


@pytest.mark.parametrize(
    ("options", "script", "status", "why"),
    [
        (
            "-m 32m --memory-swap 32m",
            "exec tail /dev/zero",
            137,
            r"stage3: killed by the kernel: memory\.max 32 MiB reached, oom_kill 1",
        ),
        (
            "--cpus 0.1",
            "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done",
            0,
            r"stage3: throttled: cpu\.max used up in \d+ of \d+ periods, .*",
        ),
        (
            "--pids-limit 3",
            "for i in 1 2 3 4 5; do sleep 1 & done; wait",
            None,
            r"stage3: forks refused: pids\.max 3 reached, max \d+",
        ),
    ],
    ids=["memory", "CPU", "processes"],
)
def test_a_students_limits_hold_and_are_explained(
    guest: Guest, root: str, options: str, script: str, status: int | None, why: str
) -> None:
    words = f"stage3 run {OWN} --explain {options}".split()
    ended, _, complaint = guest.says(*words, root, "/bin/sh", "-c", script)
    assert status in (None, ended), complaint
    assert re.search(rf"^{why}$", complaint, re.MULTILINE), complaint


REFUSALS = {
    # Without the user's own systemd the nearest group that hands controllers down is root's.
    "a group that is not the student's": (
        f"env XDG_RUNTIME_DIR=/nowhere stage3 run {OWN} -m 64m",
        "this group is not this user's to divide: run it with sudo, or on cgroup v2 below a",
    ),
    "a tree that is mounted read-only": (
        "sudo unshare -m sh -euc 'mount -o remount,bind,ro /sys/fs/cgroup; exec \"$@\"' sh "
        "stage3 run --net none -m 64m",
        "mounted read-only here",
    ),
    "a part of a disk": (
        "sudo stage3 run --net none --device-read-bps $part:1mb",
        "name the whole disk",
    ),
    "a CPU that is not there": ("sudo stage3 run --net none --cpuset-cpus 99", "CPU 99 can't be"),
}


DISK_IN_PARTS = r"""
# parts: a disk of a file, with a table of one part (the MBR's first entry), which is $part.
parts() {
    image=$(mktemp)
    truncate -s 4M "$image"
    python3 -c '
import struct, sys
with open(sys.argv[1], "r+b") as disk:
    disk.seek(446)
    disk.write(struct.pack("<BxxxBxxxII", 0, 0x83, 2048, 4096) + bytes(48) + b"\x55\xaa")
' "$image"
    loop=$(sudo losetup --find --partscan --show "$image")
    part=${loop}p1
    sudo udevadm settle
}
"""


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_had_is_named_and_nothing_runs(guest: Guest, root: str, what: str) -> None:
    line, why = REFUSALS[what]
    before, after = (
        ("parts", 'sudo losetup -d "$loop"; rm "$image"') if "$part" in line else ("", "")
    )
    said = guest.shell(
        f"root={root}\n{HOLD}{DISK_IN_PARTS}{before}\n"
        + f'{line} "$root" /bin/echo ran 2>&1 || echo "status=$?"\n'
        + f"{after}\nleft\n"
    )
    assert "status=125\n" in said, said
    assert why in said
    assert "ran\n" not in said
    assert said.endswith("left:\n"), said


def test_without_limits_a_read_only_tree_is_no_hindrance(guest: Guest, root: str) -> None:
    line, _ = REFUSALS["a tree that is mounted read-only"]
    line = line.replace(" -m 64m", "")
    said = guest.shell(f"root={root}\n{HOLD}{line} {root} /bin/echo ran; left\n")
    assert said == "ran\nleft:\n"


@pytest.mark.parametrize("peer", ["docker", "podman"])
def test_a_peers_containers_are_limited_as_the_checks_know_it(guest: Guest, peer: str) -> None:
    words = ["sudo", "env", f"{JOINS}=3", "labrun", "check", "stage3", "--runtime", f"@{peer}"]
    only = ["--only", ",".join(LIMITS), "--json", "-", "--no-input"]
    _, report = guest.json(*words, *only, patience=A_CHECK)
    found = {row["id"]: row["verdict"] for row in report["checks"]}
    evidence = {row["id"]: row["evidence"] for row in report["checks"]}
    # What is not asked here is taken to be as it is written down.
    expected = known(peer, verdicts(peer) | found)
    assert found == {axis: expected[axis] for axis in LIMITS}, evidence
