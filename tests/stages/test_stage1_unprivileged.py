"""Stage 1 without root: what it says, and that it runs nothing."""

from pathlib import Path

from tests.running import ordinary_user, run


def test_an_ordinary_user_is_told_what_it_takes(stage1: str) -> None:
    ended = run([stage1, "run", "/", "/bin/echo", "ran"], user=ordinary_user())
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert ended.stderr.decode().splitlines() == [
        'stage1: chroot("/"): Operation not permitted: '
        "a new root takes CAP_SYS_CHROOT, which root has: run it with sudo"
    ]


def test_a_command_line_that_is_off_is_2_for_everybody(stage1: str, tmp_path: Path) -> None:
    ended = run([stage1, "run", "--bogus", str(tmp_path), "/bin/true"], user=ordinary_user())
    assert ended.returncode == 2
