"""A start takes its modules from the bundle, as long as they are what it has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labs import bundle
from labs.paths import CHECKOUT

ASK = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from labs import bundle
bundle.use(sys.argv[3])
import room.inner
print(room.inner.SAID, room.inner.__file__, room.__path__, type(room.inner.__loader__).__name__)
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a package `room` in it, and a bundle of that."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room/__init__.py").write_text("")
    (tmp_path / "room/inner.py").write_text("SAID = 'first'\n")
    monkeypatch.syspath_prepend(tmp_path)
    # Python's own cache knows a change by its second alone.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("room", "room.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    __import__("room.inner")
    bundle.write(tmp_path / "bundle", ["room", "room.inner"])
    for name in ("room", "room.inner"):
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def ask(house: Path, file: str = "bundle") -> list[str]:
    """Return what a new process finds: what the module says, its file, its folder, its loader."""
    run = [sys.executable, "-ISB", "-c", ASK, str(CHECKOUT), str(house), str(house / file)]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()


def test_modules_come_from_the_bundle_and_are_like_any(house: Path) -> None:
    inner = str(house / "room/inner.py")
    assert ask(house) == ["first", inner, f"['{house}/room']", "Bundle"]
    assert ask(house, "none") == ["first", inner, f"['{house}/room']", "SourceFileLoader"]


def test_a_change_counts_at_once(house: Path) -> None:
    (house / "room/inner.py").write_text("SAID = 'other'\n")
    assert ask(house)[::3] == ["other", "SourceFileLoader"]


def test_a_change_to_as_many_bytes_in_the_same_second_counts(house: Path) -> None:
    status = os.stat(house / "room/inner.py")
    (house / "room/inner.py").write_text("SAID = 'again'\n")
    os.utime(house / "room/inner.py", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    assert ask(house)[::3] == ["again", "SourceFileLoader"]


def test_another_pythons_bundle_is_left_alone(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    __import__("room.inner")
    monkeypatch.setattr(bundle, "MAGIC_NUMBER", b"other")
    bundle.write(house / "bundle", ["room", "room.inner"])
    assert ask(house)[::3] == ["first", "SourceFileLoader"]
    assert [file.name for file in house.iterdir() if file.name.startswith(".")] == []
