"""A copy of the checkout that was never started, for each test."""

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.clones import STAND_IN, Copy, copy


@pytest.fixture
def commons() -> Iterator[Path]:
    """Return a folder that other users may enter, as pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="labrun-commons-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def clone(commons: Path) -> Copy:
    """Return a fresh copy that was never started."""
    folder = commons / "stand-in"
    folder.mkdir()
    made = Copy(copy(commons / "checkout"), folder)
    python = folder / "python"
    python.write_text(STAND_IN.format(folder=folder))
    python.chmod(python.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    made.hook(":\n")
    return made
