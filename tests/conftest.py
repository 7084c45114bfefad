"""What all tests share."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# What it asserts is shown as what a test asserts.
pytest.register_assert_rewrite("tests.running")


def pytest_configure() -> None:
    """Have what the tests start hear signals; nohup, or a shell's `&`, had us ignore some."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _progress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests play out of the progress of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("SUDO_UID", raising=False)
        yield


@pytest.fixture(scope="session")
def rootfs() -> Path:
    """Return the busybox root file system, made once for all runs of this user."""
    from labs import rootfs

    return rootfs.default()


@pytest.fixture
def as_root() -> None:
    """Say that a test needs root; without it, it cannot be run, and has not passed."""
    if os.geteuid() != 0:
        pytest.skip("cannot: needs root")


@pytest.fixture(scope="session")
def stage1() -> str:
    """Return the command `stage1` of this environment."""
    return str(Path(sys.executable).with_name("stage1"))


@pytest.fixture(scope="session")
def stage2() -> str:
    """Return the command `stage2` of this environment."""
    return str(Path(sys.executable).with_name("stage2"))


@pytest.fixture(scope="session")
def stage3() -> str:
    """Return the command `stage3` of this environment."""
    return str(Path(sys.executable).with_name("stage3"))


@pytest.fixture(scope="session")
def stage4() -> str:
    """Return the command `stage4` of this environment."""
    return str(Path(sys.executable).with_name("stage4"))


@pytest.fixture(scope="session")
def stage5() -> str:
    """Return the command `stage5` of this environment."""
    from labs.doctor.facts import program
    from tests.running import cannot

    if not program("nft"):
        cannot("no nft (nftables) is here, which stage 5 makes its networks with")
    return str(Path(sys.executable).with_name("stage5"))
