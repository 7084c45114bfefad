"""What all tests share."""

import os
import signal
import sys
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Have what the tests start hear of a hang-up, also where we were started by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
