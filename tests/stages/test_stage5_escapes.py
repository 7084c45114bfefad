"""Ways out of a container, each shown to be open in an earlier stage, and closed in stage 5.

Harmless by construction: what would harm is looked at (a mount's flags, an open that reads
nothing), and what is tried changes nothing but a mount namespace that goes with the container.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.running import run

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
