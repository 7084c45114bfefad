"""Stage 4 where the kernel has a device mapper: the one suite of the drivers, and a whole run.

What the other drivers do is tested on the tests' own kernel; here they have this one's.
"""

import re
from collections.abc import Iterator

import pytest

from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

A_SUITE = 3000
"""Seconds for the suite."""
PYTEST = "sudo env LANG=C.UTF-8 /opt/labrun/venv/bin/python -m pytest -n0 -p no:cacheprovider"
SUITE = "tests/stages/test_stage4_drivers.py"
SHARE = 64 << 10
"""Bytes of a block that a pool shares, or copies."""
IMAGE = 8 << 20
"""Bytes of a file in the image."""

WORK = r"""
export LABRUN_STORE=$folder/store
run() { sudo -E stage4 run --net none --storage-driver devicemapper "$@"; }
# Data blocks in use, as the kernel counts them: see its thin-provisioning.rst, "Status".
used() { sudo dmsetup status "$pool" | awk '{ split($6, part, "/"); print part[1] }'; }
# hold ARGUMENTS...: a container that runs until `release`; so the pool stays, and can be asked.
hold() {
    mkfifo "$folder/in"
    run "$@" /bin/sh -c 'echo up; read a' <"$folder/in" >"$folder/out" &
    runtime=$!
    exec 9>"$folder/in"
    until grep -q up "$folder/out"; do kill -0 $runtime; sleep 0.2; done
    # By the hash of the store's path: there may be others.
    pool=labrun-$(printf %s "$LABRUN_STORE" | sha256sum | cut -c 1-8)-pool
}
release() {
    exec 9>&-
    wait $runtime || true
    rm "$folder/in"
}
# What there is of devices, and of containers.
line() { echo "$1:$(awk '{ printf " %s", $1 }')"; }
left() {
    sudo dmsetup ls | grep '^labrun-' | line devices
    sudo find /dev/mapper -name 'labrun-*' -printf '%f\n' | sort | line nodes
    sudo losetup --noheadings --list --output BACK-FILE | grep "^$folder" | line loops
    grep "$folder" /proc/self/mountinfo | line mounts
    sudo ls "$LABRUN_STORE/containers" | line containers
}
"""
NOTHING = ["devices:", "nodes:", "loops:", "mounts:", "containers:"]


@pytest.fixture(scope="module")
def folder(guest: Guest) -> Iterator[str]:
    """Return a folder in the machine with a store; in it is an image, `big`."""
    place = guest.shell(
        "folder=$(mktemp -d -p /var/tmp)\n"
        'labrun rootfs "$folder/root" >&2\n'
        f'head -c {IMAGE} /dev/urandom >"$folder/root/big"\n'
        'sudo LABRUN_STORE="$folder/store" stage4 image import "$folder/root" big >&2\n'
        'echo "$folder"'
    ).strip()
    yield place
    guest.shell(f"sudo rm -r {place}")


def ask(guest: Guest, folder: str, script: str) -> list[str]:
    """Return the lines that a script says, with what WORK has for it."""
    return guest.shell(f"folder={folder}\n{WORK}\n{script}").splitlines()


def test_the_drivers_suite_passes_on_devicemapper(guest: Guest) -> None:
    status, said, complaint = guest.says(
        "sh", "-c", f"cd labrun && {PYTEST} -rs {SUITE} -k devicemapper", patience=A_SUITE
    )
    assert status == 0, said + complaint
    # What is skipped is a single test, and says why.
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", said, re.MULTILINE)
    assert {*reasons} <= {
        "its layers are no branches of one mount",
        "cannot: a device is no directory",
    }
    assert ask(guest, "/nowhere", "left | head -n 2") == NOTHING[:2]


def test_a_container_on_thin_snapshots_writes_and_is_committed(guest: Guest, folder: str) -> None:
    said = ask(
        guest,
        folder,
        "run --name one big /bin/sh -c 'echo new >/new; rm /etc/passwd; chmod 600 /big'\n"
        # What a container that runs has written is seen by way of its runtime.
        "sudo -E stage4 diff one; sudo -E stage4 commit one two >&2\n"
        "run --rm two /bin/sh -c 'cat /new; ls /etc/passwd 2>/dev/null || echo gone; wc -c </big'\n"
        "sudo -E stage4 rm one; sudo -E stage4 image rm two; sudo -E stage4 image verify; left",
    )
    assert said == [
        *("C /big", "C /etc", "D /etc/passwd", "A /new"),
        *("new", "gone", str(IMAGE)),
        *NOTHING,
    ]


def test_containers_share_an_images_blocks(guest: Guest, folder: str) -> None:
    said = ask(
        guest,
        folder,
        "hold --name held big\n"
        "before=$(used)\n"
        "for n in 1 2 3 4 5 6 7 8 9 10; do\n"
        '    run --name ten$n big /bin/sh -c "echo $n >/mine"\n'
        "done\n"
        'echo "ten=$(($(used) - before))"; before=$(used)\n'
        "run --name byte big /bin/sh -c 'printf x | dd of=/big bs=1 seek=9 conv=notrunc' 2>&2\n"
        'echo "byte=$(($(used) - before))"\n'
        # The one that still runs is looked at, too, and goes on.
        "sudo -E stage4 diff ten3; sudo -E stage4 diff held; left | head -n 1\n"
        "sudo -E stage4 rm ten1 ten2 ten3 ten4 ten5 ten6 ten7 ten8 ten9 ten10 byte\n"
        "release; sudo -E stage4 rm held; left",
    )
    used = dict(line.split("=") for line in said[:2])
    # Each costs what its own file and the file system's own notes take: a journal, bitmaps, tables.
    assert 10 <= int(used["ten"]) < 10 * IMAGE // SHARE // 4, said
    # One byte is a block, where a union file system copies the file.
    assert 1 <= int(used["byte"]) < IMAGE // SHARE // 4, said
    changes, devices, *end = said[2:]
    assert changes == "A /mine"
    assert re.fullmatch(
        r"devices: labrun-[0-9a-f]{8}-[0-9a-f]{12} labrun-[0-9a-f]{8}-pool", devices
    )
    assert end == NOTHING


def test_what_a_killed_runtime_leaves_labrun_clean_removes(guest: Guest, folder: str) -> None:
    said = ask(
        guest,
        folder,
        "hold --rm big\n"
        "sudo kill -9 $(pgrep -f '^/opt/labrun/venv/bin/python .*/stage4 run --net none')\n"
        "release; left\n"
        # Its mounts end with the last of its processes.
        "until found=$(sudo -E labrun clean --dry-run | grep -o 'labrun-[0-9a-f]*-[0-9a-z]*') &&\n"
        '    [ "$(echo "$found" | wc -l)" = 2 ]; do sleep 0.2; done\n'
        "echo found: $found\n"
        # Another pool is none of ours, whatever it is called.
        'truncate -s 4M "$folder/other"; loop=$(sudo losetup --find --show "$folder/other")\n'
        'sudo dmsetup create labrun-01234567-pool --table "0 8 linear $loop 0"\n'
        "sudo -E labrun clean --yes >&2\n"
        'left | sed "s,^loops: $folder/other$,loops:,"\n'
        "sudo dmsetup remove labrun-01234567-pool; sudo losetup --detach $loop\n"
        "left",
    )
    devices, nodes, loops, mounts, containers, found, *cleaned = said
    names = sorted(devices.split()[1:])
    assert [name.rpartition("-")[2] for name in names] == [*containers.split()[1:], "pool"]
    assert (nodes.split()[1:], mounts) == (names, "mounts:")
    files = {f"{folder}/store/devicemapper/{name}" for name in ("data", "metadata")}
    assert {*loops.split()[1:]} == files
    assert sorted(found.removeprefix("found: ").split()) == names
    foreign = " labrun-01234567-pool"
    assert cleaned[:5] == [f"devices:{foreign}", f"nodes:{foreign}", *NOTHING[2:]]
    assert cleaned[5:] == NOTHING


def test_a_student_has_overlay_in_a_user_namespace(guest: Guest, folder: str) -> None:
    said = guest.shell(
        f"export LABRUN_STORE=$(mktemp -d)\n"
        f"stage4 image import {folder}/root big >&2\n"
        "run='stage4 run --namespaces user,pid,mnt,uts,ipc'\n"
        '$run --name one big /bin/sh -c \'echo new >/new; rm /etc/passwd; grep -c " - overlay " '
        "/proc/self/mountinfo'\n"
        'stage4 diff one; stage4 rm one; ls "$LABRUN_STORE/containers"\n'
    )
    assert said.splitlines() == ["1", "C /etc", "D /etc/passwd", "A /new"]
