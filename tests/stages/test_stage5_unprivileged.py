"""Stage 5 without root: a container of one's own, with a life of its own, and what it lacks."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import ordinary_user
from tests.stages.lives import eventually
from tests.stages.ordinary import Run, place, stage_of

OWN = ("--namespaces", "pid,net,mnt,ipc,uts,user", "--net", "none")
USUAL = "00000000a80425fb"
"""Docker's fourteen capabilities, as /proc/PID/status has them."""


@pytest.fixture(scope="module")
def own() -> Iterator[Path]:
    with place() as top:
        yield top


@pytest.fixture(scope="module")
def stage(stage5: str, rootfs: Path, own: Path) -> Iterator[Run]:
    call = stage_of(stage5, rootfs, own, OWN)
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
