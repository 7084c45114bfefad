"""devicemapper where there is none: in what order it does things, and that it unmakes them."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stages import linux
from stages.stage4_overlayfs import storage
from stages.stage4_overlayfs.more import devicemapper
from tests.stages.storing import apart, file, tar


class Machine:
    """What the machine would have, as the programs would say; the call number `broken` fails."""

    def __init__(self) -> None:
        self.loops: dict[str, str] = {}
        self.active: dict[str, int] = {}
        self.numbers: set[int] = set()
        self.going: set[str] = set()
        self.mounts: dict[str, str] = {}
        self.calls, self.broken = 0, -1
        self.story: list[str] = []

    def __call__(self, line: list[str], held: Sequence[int] = ()) -> str:
        # Who is killed keeps a lock by the program that he has started.
        assert held, line
        assert all(os.fstat(fd) for fd in held)
        words = line
        name = words[1] if words[0] == "dmsetup" else words[0]
        self.story.append(" ".join(words))
        if self.makes(words):
            self.count(" ".join(words))
        act: Callable[..., str] = getattr(self, f"on_{name.replace('.', '_')}")
        return act(*words[1:])

    def makes(self, words: list[str]) -> bool:
        """Say whether it makes something; what unmakes must not fail here."""
        text = " ".join(words)
        return any(each in text for each in ("create", "--find", "mkfs"))

    def count(self, text: str) -> None:
        self.calls += 1
        if self.calls == self.broken:
            raise OSError(errno.EIO, f"it is to fail: {text}")

    def state(self) -> tuple[object, ...]:
        return self.loops, self.active, self.numbers, self.mounts

    def on_targets(self, *_: str) -> str:
        return "thin-pool        v1.23.0\nthin             v1.23.0"

    def on_losetup(self, *words: str) -> str:
        if words[0] == "--find":
            for name, path in self.loops.items():
                if path == words[-1]:
                    return name
            name = f"/dev/loop{len(self.loops)}"
            self.loops[name] = words[-1]
            return name
        assert words[0] == "--detach"
        # What the pool has open goes with the pool.
        if any(name.endswith("-pool") for name in self.active):
            self.going.add(words[1])
        else:
            del self.loops[words[1]]
        return ""

    def on_create(self, _: str, name: str, __: str, table: str) -> str:
        assert name not in self.active
        number = 0 if "thin-pool" in table else int(table.split()[-1])
        assert not number or number in self.numbers
        self.active[name] = number
        return ""

    def on_remove(self, _: str, __: str, name: str) -> str:
        if name.endswith("-pool"):
            assert list(self.active) == [name], "a device of the pool is in use"
            for loop in self.going:
                del self.loops[loop]
            self.going.clear()
        assert name not in self.mounts.values(), "it is mounted"
        del self.active[name]
        return ""

    def on_message(self, _: str, pool: str, zero: str, words: str) -> str:
        kind, number, *below = words.split()
        if kind == "delete":
            if int(number) in self.active.values() or int(number) not in self.numbers:
                raise OSError(errno.EIO, "no such device, or it is in use")
            self.numbers.remove(int(number))
            return ""
        assert all(int(each) in self.numbers for each in below)
        if int(number) in self.numbers:
            raise OSError(errno.EIO, "it is there")
        self.numbers.add(int(number))
        return ""

    def on_mkfs_ext4(self, *words: str) -> str:
        return ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    def mount(device: str, target: str, *_: object) -> None:
        made.count(f"mount {device}")
        made.mounts[target] = os.path.basename(device)
        Path(target, "lost+found").mkdir(exist_ok=True)

    def take_away(target: str) -> None:
        if target in made.mounts:
            del made.mounts[target]
            Path(target, "lost+found").rmdir() if Path(target, "lost+found").exists() else None

    def apply(opener: Any, target: str, form: object) -> list[str]:
        made.count("unpack")
        return []

    monkeypatch.setattr(devicemapper, "run", made)
    monkeypatch.setattr(devicemapper, "devices", lambda: list(made.active))
    monkeypatch.setattr(devicemapper, "in_user_namespace", lambda: False)
    monkeypatch.setattr(devicemapper, "is_idle", lambda name: name not in made.mounts.values())
    monkeypatch.setattr(linux, "mount", mount)
    monkeypatch.setattr(devicemapper, "take_away", take_away)
    monkeypatch.setattr(devicemapper, "is_mounted", lambda path: path in made.mounts)
    monkeypatch.setattr(devicemapper, "apply", apply)
    # The files of the pool are as big as the machine's disks may not be.
    monkeypatch.setattr(devicemapper, "DATA", 1 << 20)
    monkeypatch.setattr(devicemapper, "METADATA", 1 << 20)
    return made


LAYERS = [tar(file("a")), tar(file("b"))]


def life(driver: devicemapper.DeviceMapper) -> None:
    driver.prepare(LAYERS)
    driver.mount("c1", LAYERS)


def test_containers_and_layers_come_and_go(machine: Machine, tmp_path: Path) -> None:
    driver = devicemapper.DeviceMapper(str(tmp_path))
    life(driver)
    assert len(machine.numbers) == 4  # the empty one, two layers, and the container's
    assert len(machine.active) == 2  # the pool, and the container's
    driver.diff("c1")
    driver.unmount("c1")
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {})
    driver.diff("c1")
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {})
    driver.mount("c1", LAYERS)
    driver.remove("c1")
    driver.remove("c1")
    for name in driver.names(LAYERS):
        driver.discard(name)
    assert machine.state() == ({}, {}, set(), {})
    assert list((tmp_path / "devicemapper/pending").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_where_a_step_fails_those_before_it_are_unmade(machine: Machine, tmp_path: Path) -> None:
    life(devicemapper.DeviceMapper(str(tmp_path / "whole")))
    steps = machine.calls
    assert steps > 15
    for broken in range(1, steps + 1):
        machine.__init__()  # type: ignore[misc]  # a new machine, at the same place
        machine.broken = broken
        root = tmp_path / str(broken)
        driver = devicemapper.DeviceMapper(str(root))
        with pytest.raises(OSError, match="it is to fail"):
            life(driver)
        story = "\n".join(machine.story)
        assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {}), story
        # Each device that is left is one that a layer, or the container, has for good.
        kept = {int(path.read_text()) for path in root.rglob("device")}
        assert machine.numbers == kept, story
        assert list((root / "tmp").iterdir()) == [] if (root / "tmp").exists() else True
        # And it can be had another time.
        life(driver)
        driver.remove("c1")
        assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {}), story


def test_a_store_made_again_has_nothing_of_the_old_ones_pool(
    machine: Machine, tmp_path: Path
) -> None:
    life(devicemapper.DeviceMapper(str(tmp_path / "store")))
    shutil.rmtree(tmp_path / "store")
    driver = devicemapper.DeviceMapper(str(tmp_path / "store"))
    # What still runs in the old one keeps its pool, and that has this one's name.
    with pytest.raises(AssertionError, match="it is mounted"):
        life(driver)
    machine.mounts.clear()
    machine.numbers.clear()
    life(driver)
    assert len(machine.numbers) == 4
    driver.unmount("c1")
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {})


def in_users(fact: Callable[..., None]) -> Callable[..., None]:
    """Have a test run in a user namespace, as root of it."""
    return apart(fact, linux.CLONE_NEWNS | linux.CLONE_NEWUSER)


@pytest.mark.usefixtures("as_root")
@in_users
def test_root_of_a_user_namespace_is_told_that_it_takes_the_machines(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught:
        devicemapper.DeviceMapper(str(tmp_path)).prepare(LAYERS)
    assert "run it with sudo" in storage.why(caught.value)


def test_what_a_killed_process_was_at_goes_with_the_next_use(
    machine: Machine, tmp_path: Path
) -> None:
    driver = devicemapper.DeviceMapper(str(tmp_path))
    life(driver)
    kept = set(machine.numbers)
    notes = tmp_path / "devicemapper/pending"
    with driver.pool as pool:
        # Made, and active; made; never made; on its way by somebody who lives.
        lost, _, held = pool.create(0, ExitStack())
        os.close(held)
        for last in (pool.new_number(), pool.new_number()):
            os.close(pool.suspect(last))
        pool.message(f"create_thin {last}")
        alive, _, held = pool.create(0, ExitStack())
        # One that is a layer's already: killed between the rename and the end.
        (layer,) = [
            n for n in kept if (tmp_path / "layers/devicemapper/base/device").read_text() == str(n)
        ]
        os.close(pool.suspect(layer))
    assert machine.numbers == {*kept, lost, last, alive}
    with driver.pool:
        assert machine.numbers == {*kept, alive}
        assert [path.name for path in notes.iterdir()] == [str(alive)]
    os.close(held)
    driver.remove("c1")
    assert machine.numbers == kept - {max(kept)}
    assert list(notes.iterdir()) == []
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {})


def test_a_container_that_is_in_use_is_deleted_when_it_is_no_more(
    machine: Machine, tmp_path: Path
) -> None:
    driver = devicemapper.DeviceMapper(str(tmp_path))
    life(driver)
    # A process that was left behind has the mount still.
    machine.mounts["elsewhere"] = f"{driver.pool.prefix}-c1"
    driver.remove("c1")
    assert not (tmp_path / "containers/c1").exists()
    assert len(machine.numbers) == 4
    del machine.mounts["elsewhere"]
    with driver.pool:
        assert len(machine.numbers) == 3
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {})
    assert list((tmp_path / "devicemapper/pending").iterdir()) == []


def test_a_pool_and_a_container_that_were_left_are_taken_over(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life(devicemapper.DeviceMapper(str(tmp_path)))
    machine.mounts.clear()  # killed: its mounts have gone with it
    driver = devicemapper.DeviceMapper(str(tmp_path))
    # As if it had been killed before it let go of the loop devices, too.
    machine.going.clear()
    monkeypatch.setattr(
        devicemapper, "held_loops", lambda files: sorted({*machine.loops} - machine.going)
    )
    driver.mount("c2", LAYERS)
    assert sorted(machine.active) == [f"{driver.pool.prefix}-{name}" for name in ("c2", "pool")]
    driver.unmount("c2")
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, {})
