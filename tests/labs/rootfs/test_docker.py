"""`--from docker` on a real daemon: the article's `docker export $(docker create busybox)`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dockerd
from tests.labs.rootfs.bench import Labrun, descendants_are_gone, errors, tree

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def docker(default: Path) -> Iterator[dockerd.Docker]:
    with dockerd.started() as running:
        running.load_rootfs(default)
        yield running


def test_the_articles_export_arrives_and_the_container_is_gone(
    labrun: Labrun, docker: dockerd.Docker, tmp_path: Path, default: Path
) -> None:
    done = labrun(tmp_path / "new", "--from", "docker", extra=docker.environment)
    assert done.returncode == 0, done.stderr
    # Docker adds what it mounts over: .dockerenv, etc/mtab and the like.
    assert tree(default).keys() - tree(tmp_path / "new").keys() == set()
    assert (tmp_path / "new/bin/busybox").read_bytes() == (default / "bin/busybox").read_bytes()
    assert docker("ps", "--all", "--quiet") == ""


def test_an_image_by_name_and_one_that_is_not_there(
    labrun: Labrun, docker: dockerd.Docker, tmp_path: Path
) -> None:
    docker("tag", "busybox", "other:tag")
    named = labrun(tmp_path / "new", "--from", "docker:other:tag", extra=docker.environment)
    assert named.returncode == 0, named.stderr
    missing = labrun(tmp_path / "no", "--from", "docker:no-such", extra=docker.environment)
    assert missing.returncode == 1
    assert len(errors(missing)) == 1
    assert docker("ps", "--all", "--quiet") == ""
    assert os.listdir(tmp_path) == ["new"]


def test_what_docker_saves_is_refused_or_arrives_by_its_format(
    labrun: Labrun, docker: dockerd.Docker, tmp_path: Path
) -> None:
    docker("save", "-o", str(tmp_path / "saved.tar"), "busybox")
    done = labrun(tmp_path / "new", "--from", tmp_path / "saved.tar")
    # From version 25 on an OCI layout is in it.
    modern = int(docker("version", "--format", "{{.Server.Version}}").split(".")[0]) >= 25
    assert done.returncode == (0 if modern else 1), done.stderr
    assert modern or "use docker export" in errors(done)[0]


def test_the_daemon_leaves_nothing(default: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    with dockerd.started() as running:
        running.load_rootfs(default)
        assert "busybox" in running("images")
        base = running.base
        # The control: while it runs, there is something to be found.
        assert not descendants_are_gone(str(base))
    assert not base.exists()
    assert descendants_are_gone(str(base))
    assert Path("/proc/self/mounts").read_text() == mounts
