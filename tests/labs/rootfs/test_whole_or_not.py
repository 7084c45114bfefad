"""A full disk, Ctrl-C, SIGTERM, SIGKILL, two at once: whole, or not at all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.labs.rootfs.bench import (
    Labrun,
    descendants_are_gone,
    end,
    errors,
    needs_root,
    packed,
    program,
    tree,
    until,
)

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def small_disk(folder: Path, size: str, *, and_then: str) -> list[str]:
    """Return the prefix that mounts a small tmpfs on `folder`, where nobody else sees it."""
    mount = f'mount -t tmpfs -o size={size} t "$0"; "$@"; status=$?; {and_then}; exit $status'
    return ["unshare", "-m", "sh", "-c", mount, str(folder)]


@needs_root
@pytest.mark.parametrize("size", ["64k", "1m", "1900k"])
@pytest.mark.parametrize("source", ["busybox", "tar"])
def test_on_a_full_disk_nothing_is_left(
    labrun: Labrun, tmp_path: Path, default: Path, size: str, source: str
) -> None:
    (tmp_path / "disk").mkdir()
    if source == "tar":
        (tmp_path / "root.tar").write_bytes(packed(default))
    prefix = small_disk(tmp_path / "disk", size, and_then=f'ls -A "$0" > {tmp_path}/left')
    archive = str(tmp_path / "root.tar") if source == "tar" else source
    done = labrun(tmp_path / "disk/new", "--from", archive, prefix=prefix)
    assert done.returncode == 1
    assert len(errors(done)) == 1
    assert "No space left on device: make room there" in errors(done)[0]
    assert (tmp_path / "left").read_text() == ""


@needs_root
def test_on_a_disk_that_is_large_enough_it_arrives(labrun: Labrun, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    prefix = small_disk(tmp_path / "disk", "8m", and_then=f'ls -A "$0" > {tmp_path}/left')
    assert labrun(tmp_path / "disk/new", prefix=prefix).returncode == 0
    assert (tmp_path / "left").read_text() == "new\n"


@needs_root
def test_a_cache_on_a_full_disk_is_left_empty(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    script = "from labs import rootfs; rootfs.default()"
    left = f'find "$0" -mindepth 2 ! -name .lock > {tmp_path}/left'
    done = subprocess.run(
        [*small_disk(tmp_path / "disk", "1m", and_then=left), sys.executable, "-c", script],
        env={**os.environ, "LABRUN_CACHE": str(tmp_path / "disk")},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Refused" in done.stderr
    assert (tmp_path / "left").read_text() == ""


@pytest.mark.parametrize(("number", "status"), STOPS)
def test_stopped_while_it_unpacks_nothing_is_left(
    labrun: Labrun, tmp_path: Path, default: Path, number: signal.Signals, status: int
) -> None:
    os.mkfifo(tmp_path / "pipe")
    running = labrun.start(tmp_path / "new", "--from", tmp_path / "pipe")
    content = packed(default)
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(content[: len(content) // 2])
        pipe.flush()
        until(lambda: list(tmp_path.glob(".new.*/root/*")))
        assert not (tmp_path / "new").exists()
        ended, said = end(running, number)
    assert ended == status
    assert "Traceback" not in said
    assert [*filter(None, said.splitlines()[1:])] == (
        []
        if number == signal.SIGINT
        else [f"labrun: rootfs: stopped by {number.name}; nothing half-made was left behind"]
    )
    assert os.listdir(tmp_path) == ["pipe"]
    assert descendants_are_gone(str(tmp_path))


@pytest.mark.parametrize(("number", "status"), STOPS)
def test_stopped_while_it_downloads_nothing_is_left(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    program(tmp_path / "bin", "apt-get", f"touch {tmp_path}/started; exec sleep 60.{os.getpid()}")
    if [p for p in ("/bin/busybox", "/usr/bin/busybox") if Path(p).exists()]:
        pytest.skip("this machine has a busybox of its own, so nothing is downloaded")
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    running = Labrun(tmp_path / "cache").start(tmp_path / "new", PATH=path)
    until((tmp_path / "started").exists)
    ended, said = end(running, number)
    assert ended == status
    assert "Traceback" not in said
    assert os.listdir(tmp_path / "cache/packages") == [".lock"]
    assert sorted(os.listdir(tmp_path)) == ["bin", "cache", "started"]
    assert descendants_are_gone(f"60.{os.getpid()}")


def test_after_sigkill_the_next_run_tidies_the_cache(tmp_path: Path, cache: Path) -> None:
    if [p for p in ("/bin/busybox", "/usr/bin/busybox") if Path(p).exists()]:
        pytest.skip("this machine has a busybox of its own, so nothing is downloaded")
    script = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 60"
    program(tmp_path / "bin", "apt-get", script)
    labrun = Labrun(tmp_path / "cache")
    running = labrun.start(tmp_path / "new", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    until((tmp_path / "pid").exists)
    end(running, signal.SIGKILL)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    left = list((tmp_path / "cache/packages").glob(".busybox-static.*"))
    assert len(left) == 1
    (tmp_path / "cache/packages/.mine").mkdir()
    program(tmp_path / "bin", "apt-get", "exit 100")
    labrun(tmp_path / "new", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert sorted(os.listdir(tmp_path / "cache/packages")) == [".lock", ".mine"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_moment_it_is_whole_or_not_there(
    labrun: Labrun, tmp_path: Path, default: Path, number: signal.Signals
) -> None:
    start = time.monotonic()
    labrun(tmp_path / "whole")
    takes = time.monotonic() - start
    shutil.rmtree(tmp_path / "whole")
    statuses = set()
    for step in range(18):
        running = labrun.start(tmp_path / "new")
        time.sleep(takes * step / 16)
        status, _ = end(running, number)
        statuses.add(status)
        if (tmp_path / "new").exists():
            assert tree(tmp_path / "new") == tree(default)
            shutil.rmtree(tmp_path / "new")
        assert os.listdir(tmp_path) == []
        assert descendants_are_gone(str(tmp_path))
    # The control: it was stopped on its way, and not only before or after it.
    assert 128 + number in statuses
    assert labrun(tmp_path / "new").returncode == 0


def test_five_at_once_make_one(labrun: Labrun, tmp_path: Path, default: Path) -> None:
    running = [labrun.start(tmp_path / "new") for _ in range(5)]
    said = [each.communicate(timeout=60)[1] for each in running]
    assert [each.returncode for each in running] == [0] * 5, said
    assert tree(tmp_path / "new") == tree(default)
    assert os.listdir(tmp_path) == ["new"]


def test_five_at_once_share_one_cache(tmp_path: Path, default: Path) -> None:
    packages = default.parent.parent / "packages"
    if packages.exists():
        shutil.copytree(packages, tmp_path / "packages", symlinks=True)
    script = "from labs import rootfs; print(rootfs.default())"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "LABRUN_CACHE": str(tmp_path)},
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    said = [each.communicate(timeout=60) for each in running]
    assert len({out for out, _ in said}) == 1
    # One made it; the others waited and found it.
    assert sum("Making" in err for _, err in said) == 1
    assert len(os.listdir(tmp_path / "rootfs")) == 2


def test_docker_interrupted_its_container_is_removed(labrun: Labrun, tmp_path: Path) -> None:
    script = f"""echo "$@" >> {tmp_path}/calls
case $1 in export) exec sleep 60 ;; esac"""
    program(tmp_path / "bin", "docker", script)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    running = labrun.start(tmp_path / "new", "--from", "docker", PATH=path)
    calls = tmp_path / "calls"
    until(lambda: calls.exists() and "export" in calls.read_text())
    status, _ = end(running, signal.SIGINT)
    assert status == 130
    created, exported, removed = [
        line.split() for line in calls.read_text().splitlines() if "labrun-rootfs-" in line
    ]
    assert created[0] == "create"
    assert created[2] == exported[1] == removed[-1]
    assert removed[0] == "rm"
    assert sorted(os.listdir(tmp_path)) == ["bin", "calls"]


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("echo 'Cannot connect to the Docker daemon' >&2; exit 1", 3, "start it"),
        ("echo 'permission denied … docker.sock' >&2; exit 1", 3, "use sudo"),
        ("case $1 in version) ;; *) echo 'pull: no such' >&2; exit 1; esac", 1, "pull: no such"),
        ("case $1 in export) echo 'export: oh' >&2; exit 1; esac", 1, "export: oh"),
        ("case $1 in export) echo no archive; esac", 1, "damaged or cut short"),
    ],
)
def test_what_docker_lacks_is_said_in_one_line(
    labrun: Labrun, tmp_path: Path, script: str, status: int, words: str
) -> None:
    program(tmp_path / "bin", "docker", script)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = labrun(tmp_path / "new", "--from", "docker", PATH=path)
    assert done.returncode == status
    assert len(errors(done)) == 1
    assert words in errors(done)[0]
    assert os.listdir(tmp_path) == ["bin"]


def test_without_docker_one_line_says_so(labrun: Labrun, tmp_path: Path) -> None:
    done = labrun(tmp_path / "new", "--from", "docker", PATH="/nowhere")
    assert done.returncode == 3
    assert "the docker program is not on this machine" in errors(done)[0]
    assert labrun(tmp_path / "new", "--from", "docker:-x").returncode == 2
