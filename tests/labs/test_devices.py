"""Which devices `labrun clean` takes for a store's: by what /sys says, for no device is here.

That it removes real ones, and leaves others alone, is tested in the virtual machine.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from labs import devices
from stages.stage4_overlayfs.more import devicemapper
from stages.stage4_overlayfs.more.devicemapper import Pool, prefix_of


class Sys:
    """A /sys/block of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.busy: set[str] = set()
        self.count = 0

    def loop(self, file: str) -> str:
        self.count += 1
        place = self.folder / f"loop{self.count}/loop"
        place.mkdir(parents=True)
        (place / "backing_file").write_text(f"{file}\n")
        return place.parent.name

    def device(self, name: str, *on: str) -> None:
        self.count += 1
        place = self.folder / f"dm-{self.count}"
        (place / "dm").mkdir(parents=True)
        (place / "dm/name").write_text(f"{name}\n")
        (place / "slaves").mkdir()
        for slave in on:
            (place / "slaves" / slave).symlink_to(self.folder / slave)

    def pool(self, store: Path, *devices: str, gone: str = "") -> Pool:
        """Have a store's pool, with devices of containers and drafts."""
        files = [f"{store}/devicemapper/{name}{gone}" for name in ("metadata", "data")]
        prefix = prefix_of(str(store))
        self.device(f"{prefix}-pool", *map(self.loop, files))
        for name in devices:
            self.device(f"{prefix}-{name}")
        return Pool(str(store))

    def names(self) -> list[str]:
        return [path.read_text().strip() for path in sorted(self.folder.glob("dm-*/dm/name"))]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sys:
    made = Sys(tmp_path / "sys")
    monkeypatch.setattr(devices, "BLOCK", made.folder)
    monkeypatch.setenv("LABRUN_STORE", str(tmp_path / "store"))

    def idle(name: str) -> bool:
        return name not in made.busy

    for module in (devices, devicemapper):
        monkeypatch.setattr(module, "devices", made.names)
        monkeypatch.setattr(module, "is_idle", idle)
    return made


def test_a_machine_without_a_device_has_nothing_to_remove(machine: Sys) -> None:
    assert devices.unused() == []
    devices.remove()


def test_a_pool_is_left_with_the_container_of_a_killed_runtime(
    machine: Sys, tmp_path: Path
) -> None:
    pool = machine.pool(tmp_path / "any/store", "0123456789ab")
    assert devices.unused() == [f"{pool.prefix}-0123456789ab", pool.name]


def test_a_container_that_runs_keeps_its_device_and_the_pool(machine: Sys, tmp_path: Path) -> None:
    pool = machine.pool(tmp_path / "store", "0123456789ab", "ba9876543210")
    machine.busy.add(f"{pool.prefix}-0123456789ab")
    assert devices.unused() == [f"{pool.prefix}-ba9876543210"]


def test_a_layer_that_is_being_made_keeps_its_device(machine: Sys, tmp_path: Path) -> None:
    pool = machine.pool(tmp_path / "store", "draft-7")
    note = tmp_path / "store/devicemapper/pending/7"
    note.parent.mkdir(parents=True)
    note.touch()
    held = os.open(note, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert devices.unused() == []
    os.close(held)  # killed
    assert devices.unused() == [f"{pool.prefix}-draft-7", pool.name]


def test_what_only_looks_like_ours_is_somebody_elses(machine: Sys, tmp_path: Path) -> None:
    machine.device("labrun-01234567-pool", machine.loop(f"{tmp_path}/store/devicemapper/data"))
    machine.device("labrun-89abcdef-pool")
    machine.device(f"{prefix_of(str(tmp_path / 'store'))}-pool", machine.loop("/else/where/data"))
    machine.device("docker-8:1-pool", machine.loop(f"{tmp_path}/other/devicemapper/data"))
    assert devices.unused() == []


def test_a_pool_goes_that_was_left_by_a_store_that_is_gone(
    machine: Sys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = machine.pool(tmp_path / "store", "0123456789ab", gone=" (deleted)")
    ran: list[str] = []

    def run(line: list[str], held: Sequence[int] = ()) -> str:
        ran.append(" ".join(line))
        return ""

    monkeypatch.setattr(devicemapper, "run", run)
    assert devices.unused() == [f"{pool.prefix}-0123456789ab", pool.name]
    machine.busy.add(f"{pool.prefix}-0123456789ab")
    devices.remove()
    assert ran == []
    machine.busy.clear()
    devices.remove()
    names = [f"{pool.prefix}-0123456789ab", pool.name]
    assert ran == [f"dmsetup remove --retry {name}" for name in names]


def test_a_loop_device_that_came_into_no_pool_is_found(machine: Sys, tmp_path: Path) -> None:
    data = tmp_path / "store/devicemapper/data"
    data.parent.mkdir(parents=True)
    data.touch()
    lost = machine.loop(str(data))
    machine.loop(f"{tmp_path}/elsewhere/devicemapper/data")
    assert devices.unused() == [f"/dev/{lost}"]
