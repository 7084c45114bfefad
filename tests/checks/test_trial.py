"""A trial: how a runtime's end is told from what it left running."""

import os
import signal
import subprocess

import pytest

from checks.trial import NotStarted, _outcome


def runtime(script: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(["/bin/sh", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe)


def test_what_a_runtime_leaves_running_may_hold_its_streams() -> None:
    ended = _outcome(runtime("sleep 60 & echo $!; exit 7"), b"", patience=0.5)
    os.kill(int(ended.stdout), signal.SIGKILL)
    assert (ended.status, ended.stderr) == (7, b"")


def test_a_runtime_that_hangs_is_no_such_thing() -> None:
    with pytest.raises(NotStarted):
        _outcome(runtime("exec sleep 60"), b"", patience=0.5)
