"""Stages 4 and 5 as an ordinary user has them: a store of the user's own, with an image in it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import ordinary_user, run
from tests.stages.test_stage4 import residue

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """Have a directory of the ordinary user's, with a store in it, which is empty in the end."""
    user = ordinary_user()
    # Not pytest's own, which is root's alone.
    top = Path(tempfile.mkdtemp(prefix="labrun-test-"))
    try:
        if user is not None:
            os.chown(top, user, user)
        yield top
        if (top / "store").exists():
            assert residue(top / "store") == []
    finally:
        shutil.rmtree(top)


def stage_of(command: str, rootfs: Path, own: Path, options: tuple[str, ...]) -> Run:
    """Return what runs a stage as an ordinary user, who has an image `box`.

    Skips where the system gives that user no container with these options.
    """
    user = ordinary_user()

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        return run([command, *words], user=user, environment={"LABRUN_STORE": f"{own}/store"})

    # By root: there is a directory that only root may read.
    tar = own / "box.tar"
    subprocess.run(["tar", "-C", rootfs, "--numeric-owner", "-cf", tar, "."], check=True)
    tar.chmod(0o644)
    ended = call("image", "import", str(tar), "box")
    assert (ended.returncode, ended.stderr) == (0, b"")
    ended = call("run", "--rm", *options, "box", "/bin/true")
    if b" decides" in ended.stderr or b"CAP_SYS_ADMIN" in ended.stderr:
        pytest.skip(f"cannot: {ended.stderr.decode().strip()}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    return call
