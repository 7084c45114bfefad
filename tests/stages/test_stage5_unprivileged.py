"""Stage 5 without root: a container of one's own, with a life of its own, and what it lacks."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import ordinary_user, run
from tests.stages.lives import eventually
from tests.stages.test_stage4 import residue

OWN = ("--namespaces", "pid,net,mnt,ipc,uts,user", "--net", "none")
USUAL = "00000000a80425fb"
"""Docker's fourteen capabilities, as /proc/PID/status has them."""
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def own() -> Iterator[Path]:
    """Return a directory of the ordinary user's, with a store in it, which is empty in the end."""
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


@pytest.fixture(scope="module")
def stage(stage5: str, rootfs: Path, own: Path) -> Iterator[Run]:
    """Return what runs `stage5` as an ordinary user, with an image `box`."""
    user = ordinary_user()

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        return run([stage5, *words], user=user, environment={"LABRUN_STORE": f"{own}/store"})

    # By root: there is a directory that only root may read.
    tar = own / "box.tar"
    subprocess.run(["tar", "-C", rootfs, "--numeric-owner", "-cf", tar, "."], check=True)
    tar.chmod(0o644)
    ended = call("image", "import", str(tar), "box")
    assert (ended.returncode, ended.stderr) == (0, b"")
    ended = call("run", "--rm", *OWN, "box", "/bin/true")
    if b" decides" in ended.stderr or b"CAP_SYS_ADMIN" in ended.stderr:
        pytest.skip(f"cannot: {ended.stderr.decode().strip()}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    yield call
    for name in call("ps", "-aq").stdout.decode().split():
        call("rm", "-f", name)


def script(stage: Run, text: str, *options: str) -> str:
    """Return what a script prints in a container that is removed afterwards."""
    ended = stage("run", "--rm", *OWN, *options, "box", "/bin/sh", "-c", text)
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    return ended.stdout.decode()


def refused(stage: Run, *words: str) -> str:
    """Return the one line of a run in which the command didn't run."""
    ended = stage("run", "--rm", *words, "box", "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (125, b""), ended
    (line,) = ended.stderr.decode().splitlines()
    return line


def test_root_inside_is_that_user_outside(stage: Run) -> None:
    user = ordinary_user()
    outside = str(os.geteuid() if user is None else user)
    text = script(
        stage, "id -u; cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups"
    )
    gid = str(os.getegid() if user is None else user)
    assert text.split() == ["0", "0", outside, "1", "0", gid, "1", "deny"]


def test_the_walls_are_those_of_roots_containers(stage: Run) -> None:
    text = script(stage, "cat /proc/self/status; ls -A /sys/firmware; cat /proc/keys")
    rows = dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))
    assert (rows["CapEff"], rows["CapBnd"], rows["Seccomp"]) == (USUAL, USUAL, "2")
    # Nothing more is said by what is masked.
    assert text.splitlines()[-1].partition(":")[0] in rows
    assert script(stage, "grep -c ' /proc/sys ro,' /proc/self/mountinfo") == "1\n"


def test_no_node_is_made_and_the_hosts_six_are_there(stage: Run) -> None:
    text = script(stage, "mknod /node b 7 0 2>&1; for n in null zero full random urandom tty; do "
                         "test -c /dev/$n && echo $n; done")  # fmt: skip
    first, *names = text.splitlines()
    assert "Operation not permitted" in first
    assert names == ["null", "zero", "full", "random", "urandom", "tty"]


def test_it_lives_on_and_is_looked_into_and_stopped(stage: Run) -> None:
    line = ("run", "-d", *OWN, "--name", "kept", "box", "/bin/sh", "-c", "echo up; sleep 1000")
    assert stage(*line).returncode == 0
    eventually(lambda: stage("logs", "kept").stdout, lambda text: text == b"up\n")
    ended = stage("exec", "kept", "/bin/sh", "-c", "id -u; grep CapEff /proc/self/status")
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    assert ended.stdout.decode().split() == ["0", "CapEff:", USUAL]
    ended = stage("exec", "-u", "7", "kept", "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (125, b""), ended
    assert b"say --user 0" in ended.stderr
    assert stage("stop", "-t", "0", "kept").returncode == 0
    assert stage("start", "kept").returncode == 0
    assert stage("rm", "-f", "kept").returncode == 0
    assert stage("ps", "-aq").stdout == b""


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ((), "add user to --namespaces"),
        ((*OWN[:2], "--net", "bridge"), "say --net none"),
        ((*OWN, "--user", "7"), "say --user 0"),
        ((*OWN, "--ulimit", "nofile=2000000"), "CAP_SYS_RESOURCE"),
        ((*OWN, "-m", "64m"), "cgroup"),
    ],
    ids=["no user namespace", "a bridge", "a user", "a limit", "memory"],
)
def test_what_it_lacks_is_said_in_one_line_with_the_remedy(
    stage: Run, words: tuple[str, ...], remedy: str
) -> None:
    if "-m" in words and stage("run", "--rm", *words, "box", "/bin/true").returncode == 0:
        pytest.skip("cannot: a slice of cgroup v2 is this user's own, and limits can be had")
    assert remedy in refused(stage, *words)


def test_without_a_bridge_a_port_is_said_to_lead_nowhere(stage: Run) -> None:
    ended = stage("run", "--rm", *OWN, "-p", "8080:80", "box", "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (0, b"ran\n"), ended
    (line,) = ended.stderr.decode().splitlines()
    assert "no port of the host's leads anywhere" in line
