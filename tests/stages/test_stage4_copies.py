"""Copies: of what is on another file system, and not of what is mounted there."""

import os
from pathlib import Path

import pytest

from stages.stage4_overlayfs.more.copies import copy_bytes
from tests.running import BIN, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root")


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_root_with_something_mounted_in_it_is_on_another_file_system(
    driver: str, rootfs: Path, tmp_path: Path
) -> None:
    store, proc = tmp_path / "disk", rootfs / "proc"
    store.mkdir()
    command = f'{BIN / "stage4"} run --rm --storage-driver {driver} "$1" /bin/sh -c "$3"'
    script = f'mount -t tmpfs disk "$0" && mount -t proc proc "$2" && {command}'
    told = 'cat /proc/mounts | while read a b c d; do [ "$b" = / ] && echo "$c"; done; exit 3'
    ended = run(
        ["unshare", "--mount", "sh", "-c", script, str(store), str(rootfs), str(proc), told],
        environment={"LABRUN_STORE": f"{store}/store"},
    )
    assert (ended.returncode, ended.stderr) == (3, b"")
    assert ended.stdout.decode().split()[-1] == {"overlay": "overlay", "vfs": "tmpfs"}[driver]
    # Neither mount was made here.
    assert not os.listdir(store)
    assert not os.path.ismount(proc)


def test_bytes_and_holes_reach_another_file_system(tmp_path: Path) -> None:
    source, target = tmp_path / "file", Path("/dev/shm", f"labrun-test-{os.getpid()}")
    assert os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev
    data = os.urandom(3 << 20)
    with source.open("wb") as file:
        file.write(data)
        file.seek(8 << 20, os.SEEK_CUR)
        file.write(b"end")
    try:
        copy_bytes(str(source), str(target))
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_blocks * 512 < 5 << 20
    finally:
        target.unlink(missing_ok=True)
