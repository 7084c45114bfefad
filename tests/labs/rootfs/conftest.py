"""One cache for all these tests, so that the package is downloaded once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs import rootfs
from labs.errors import Refused
from tests.labs.rootfs.bench import Labrun


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache that the tests share, those of other xdist workers too."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return folder / "rootfs-cache"


@pytest.fixture(scope="session")
def default(cache: Path) -> Path:
    """Return the cached root file system; where none can be had, the test can't be run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABRUN_CACHE", str(cache))
        try:
            return rootfs.default()
        except Refused as no:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(no))


@pytest.fixture
def labrun(cache: Path, default: Path) -> Labrun:
    """Return `labrun rootfs` with the shared cache."""
    return Labrun(cache)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return an empty directory that everybody may enter; pytest's own are the user's alone."""
    path = Path(tempfile.mkdtemp(prefix="labrun-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
