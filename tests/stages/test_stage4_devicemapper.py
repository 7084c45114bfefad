"""devicemapper where there is none: in what order it does things, and that it unmakes them."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import linux
from stages.stage4_overlayfs.more import devicemapper
from tests.stages.storing import file, tar


class Machine:
    """What the machine would have, as the programs would say; the call number `broken` fails."""

    def __init__(self) -> None:
        self.loops: dict[str, str] = {}
        self.active: dict[str, int] = {}
        self.numbers: set[int] = set()
        self.mounts: list[str] = []
        self.calls, self.broken = 0, -1
        self.story: list[str] = []

    def __call__(self, line: list[str]) -> str:
        words = [word for word in line if not word.startswith("--noudev")]
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
            name = f"/dev/loop{len(self.loops)}"
            self.loops[name] = words[-1]
            return name
        if words[0] == "--detach":
            assert not any(name.endswith("-pool") for name in self.active), "the pool uses it"
            del self.loops[words[1]]
            return ""
        return "\n".join(name for name, path in self.loops.items() if path == words[-1])

    def on_create(self, _: str, name: str, __: str, table: str) -> str:
        assert name not in self.active
        number = 0 if "thin-pool" in table else int(table.split()[-1])
        assert not number or number in self.numbers
        self.active[name] = number
        return ""

    def on_remove(self, _: str, __: str, name: str) -> str:
        if name.endswith("-pool"):
            assert list(self.active) == [name], "a device of the pool is in use"
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
        made.mounts.append(target)
        Path(target, "lost+found").mkdir(exist_ok=True)

    def take_away(target: str) -> None:
        if target in made.mounts:
            made.mounts.remove(target)
            Path(target, "lost+found").rmdir() if Path(target, "lost+found").exists() else None

    def apply(opener: Any, target: str, form: object) -> list[str]:
        made.count("unpack")
        return []

    monkeypatch.setattr(devicemapper, "run", made)
    monkeypatch.setattr(devicemapper, "devices", lambda: list(made.active))
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
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, [])
    driver.diff("c1")
    assert (machine.loops, machine.active, machine.mounts) == ({}, {}, [])
    driver.mount("c1", LAYERS)
    driver.remove("c1")
    driver.remove("c1")
    for name in driver.names(LAYERS):
        driver.discard(name)
    assert machine.state() == ({}, {}, set(), [])
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
        assert (machine.loops, machine.active, machine.mounts) == ({}, {}, []), story
        # Each device that is left is one that a layer, or the container, has for good.
        kept = {int(path.read_text()) for path in root.rglob("device")}
        assert machine.numbers == kept, story
        assert list((root / "tmp").iterdir()) == [] if (root / "tmp").exists() else True
        # And it can be had another time.
        life(driver)
        driver.remove("c1")
        assert (machine.loops, machine.active, machine.mounts) == ({}, {}, []), story


def test_what_a_killed_process_was_making_goes_with_the_next_pool(
    machine: Machine, tmp_path: Path
) -> None:
    driver = devicemapper.DeviceMapper(str(tmp_path))
    with driver.pool as pool:
        lost = pool.create(0)
        never = pool.new_number()
        pool.suspect(never)
    assert machine.numbers == {lost}
    with driver.pool:
        assert machine.numbers == set()
    assert list((tmp_path / "devicemapper/pending").iterdir()) == []
