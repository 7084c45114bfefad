"""Stage 4 without root: images and containers of one's own, in a user namespace."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import cannot, ordinary_user
from tests.stages.ordinary import Run, place, stage_of
from tests.stages.test_stage2_unprivileged import OWN
from tests.stages.test_stage4 import DRIVERS, available


@pytest.fixture(scope="module")
def own() -> Iterator[Path]:
    with place() as top:
        yield top


@pytest.fixture(scope="module")
def stage(stage4: str, rootfs: Path, own: Path) -> Run:
    return stage_of(stage4, rootfs, own, tuple(OWN))


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in available():
        cannot("neither AUFS nor FUSE with its library (fuse3) is here")
    return name


def test_an_image_runs_and_its_files_are_roots(stage: Run, driver: str) -> None:
    script = "id -u; echo text >/new; stat -c %u:%g /new /bin/busybox; rm /etc/group; exit 7"
    line = ["run", "--rm", *OWN, "--storage-driver", driver, "box", "/bin/sh", "-c", script]
    ended = stage(*line)
    assert (ended.returncode, ended.stderr) == (7, b"")
    assert ended.stdout.split() == [b"0", b"0:0", b"0:0"]


def test_a_directory_stays_as_it_is(stage: Run, driver: str, rootfs: Path) -> None:
    line = ["run", "--rm", *OWN, "--storage-driver", driver, str(rootfs), "/bin/sh", "-c"]
    if driver == "vfs" and ordinary_user() is not None:
        # It is root's there: what an ordinary user can't read it can't copy.
        ended = stage(*line, "echo ran")
        assert (ended.returncode, ended.stdout) == (125, b"")
        assert b"Permission denied" in ended.stderr
        return
    ended = stage(*line, "echo >/new; ls /new")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"/new\n", b"")
    assert not (rootfs / "new").exists()


def test_a_container_is_kept_committed_and_removed(stage: Run, driver: str) -> None:
    # The directory that nobody may enter is no hindrance: inside, one is root.
    script = "echo text >/new; rm /etc/group; mkdir /shut; echo >/shut/in; chmod 0 /shut"
    line = ["run", "--name", "kept", *OWN, "--storage-driver", driver, "box", "/bin/sh", "-c"]
    assert stage(*line, script).returncode == 0
    told = stage("diff", "kept").stdout.decode().splitlines()
    assert told == ["C /etc", "D /etc/group", "A /new", "A /shut", "A /shut/in"]
    assert stage("commit", "kept", "made").returncode == 0
    script = "cat /new /shut/in; stat -c %a /shut; ls /etc/group"
    ended = stage("run", "--rm", *OWN, "--storage-driver", driver, "made", "/bin/sh", "-c", script)
    assert ended.stdout.split() == [b"text", b"0"]
    assert b"/etc/group" in ended.stderr
    for words in (("rm", "kept"), ("image", "rm", "made"), ("image", "prune"), ("image", "verify")):
        ended = stage(*words)
        assert (ended.returncode, ended.stderr) == (0, b""), words


def test_volumes_and_tmpfs_are_had_and_a_read_only_root(stage: Run, own: Path) -> None:
    (own / "data").mkdir()
    if (user := ordinary_user()) is not None:
        os.chown(own / "data", user, user)
    options = ("-v", f"{own}/data:/a/b", "-v", f"{own}/data:/c:ro", "--tmpfs", "/t", "--read-only")
    script = "for d in / /a/b /c /t; do touch $d/x 2>/dev/null && echo $d; done; true"
    ended = stage("run", "--rm", *OWN, *options, "box", "/bin/sh", "-c", script)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.split() == [b"/a/b", b"/t"]
    assert os.listdir(own / "data") == ["x"]


def test_an_image_is_built(stage: Run, own: Path) -> None:
    (own / "context").mkdir()
    (own / "context/file").write_text("file\n")
    lines = ["FROM box", "RUN id -u >/who && chmod 0 /srv 2>/dev/null; true", "COPY file /file"]
    lines += ['CMD ["/bin/cat", "/who", "/file"]', ""]
    (own / "context/Dockerfile").write_text("\n".join(lines))
    ended = stage("build", "-t", "built", str(own / "context"))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert stage("run", "--rm", *OWN, "built").stdout == b"0\nfile\n"


def test_without_a_user_namespace_an_ordinary_user_is_told_what_it_takes(stage: Run) -> None:
    ended = stage("run", "--rm", "box", "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (125, b"")
    (line,) = ended.stderr.decode().splitlines()
    assert "add user to --namespaces" in line
