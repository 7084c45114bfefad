"""Stage 3 without root: a container without limits, or with those that were delegated."""

from pathlib import Path

import pytest

from tests.running import abandoned_groups, ordinary_user, run
from tests.stages.test_stage2_unprivileged import OWN

LIMITS = [
    ("-m", "64m"),
    ("--cpus", "0.5"),
    ("--cpu-shares", "512"),
    ("--cpuset-cpus", "0"),
    ("--pids-limit", "20"),
]


def on_v1() -> bool:
    """Return whether a controller that limits is on version 1 here."""
    rows = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return any("memory" in row.split(":")[1].split(",") for row in rows)


def test_without_limits_an_ordinary_user_has_a_container(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", *OWN, str(rootfs), "/bin/sh", "-c", "id -u; exit 7"]
    ended = run(line, user=ordinary_user())
    if b" decides" in ended.stderr:
        pytest.skip(f"cannot: {ended.stderr.decode().strip()}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"0\n", b"")


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit[0])
def test_with_a_limit_on_v1_an_ordinary_user_is_told_what_it_takes(
    stage3: str, rootfs: Path, limit: tuple[str, ...]
) -> None:
    user = ordinary_user()
    if not on_v1():
        pytest.skip("cannot: the control groups here are version 2")
    ended = run([stage3, "run", *OWN, *limit, str(rootfs), "/bin/echo", "ran"], user=user)
    assert (ended.returncode, ended.stdout) == (125, b"")
    (line,) = ended.stderr.decode().splitlines()
    assert 'mkdir("/sys/fs/cgroup/' in line
    assert "run it with sudo" in line
    assert not abandoned_groups()


def test_an_ordinary_user_has_no_cable_to_slow_down(stage3: str, rootfs: Path) -> None:
    line = [stage3, "run", *OWN, "--net-rate", "8mbit", str(rootfs), "/bin/echo", "ran"]
    ended = run(line, user=ordinary_user())
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"say --net bridge, as root" in ended.stderr
