"""Stage 2 without root: a container of one's own, or one sentence why not."""

import os
from pathlib import Path

import pytest

from tests.running import ordinary_user, run

OWN = ["--namespaces", "user,pid,mnt,uts,ipc"]


@pytest.mark.parametrize("options", [OWN, [*OWN, "--net", "none"]], ids=["host's net", "own"])
def test_an_ordinary_user_has_a_container(stage2: str, rootfs: Path, options: list[str]) -> None:
    user = ordinary_user()
    script = "id -u; echo $$; ls /dev; cat /proc/self/uid_map; echo x >/dev/null && echo done"
    line = [stage2, "run", *options, str(rootfs), "/bin/sh", "-c", script]
    ended = run(line, user=user)
    if b" decides" in ended.stderr:
        pytest.skip(f"cannot: {ended.stderr.decode().strip()}")
    assert (ended.returncode, ended.stderr) == (0, b"")
    words = ended.stdout.decode().split()
    assert words[:2] == ["0", "1"]
    assert words[-4:] == ["0", str(os.geteuid() if user is None else user), "1", "done"]
    assert {"null", "zero", "urandom", "pts", "shm"} <= set(words)


def test_without_a_user_namespace_an_ordinary_user_is_told_what_it_takes(
    stage2: str, rootfs: Path
) -> None:
    ended = run([stage2, "run", str(rootfs), "/bin/echo", "ran"], user=ordinary_user())
    assert (ended.returncode, ended.stdout) == (125, b"")
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 1
    assert "add user to --namespaces" in lines[0]


def test_an_ordinary_user_gets_no_bridge(stage2: str, rootfs: Path) -> None:
    line = [stage2, "run", "--namespaces", "user,pid,mnt,net", "--net", "bridge", str(rootfs)]
    ended = run([*line, "/bin/echo", "ran"], user=ordinary_user())
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"say --net none" in ended.stderr
