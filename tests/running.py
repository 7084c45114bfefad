"""How the tests run things: the commands of this environment, and what the machine holds."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from checks import ledger
from labs import paths
from stages.stage2_namespaces.more import bridge

BIN = Path(sys.executable).parent
LABRUN = str(BIN / "labrun")
NOBODY = 65534


def run(
    argv: Sequence[str | bytes],
    *,
    user: int | None = None,
    environment: Mapping[str, str] | None = None,
    **more: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, with nothing on stdin, and return what it said."""
    settings: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "check": False,
        "env": {**os.environ, "LABRUN_CACHE": str(paths.cache()), **(environment or {})},
    }
    return subprocess.run(
        argv,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        **(settings | more),
    )


def ordinary_user() -> int | None:
    """Return the `user` to give to run() for an ordinary user; None where we are one.

    Skips where that user may not enter this checkout or Python: `labrun test --all` runs the same
    tests as an ordinary user in a copy that it may enter.
    """
    if os.geteuid() != 0:
        return None
    try:
        run([LABRUN, "--help"], user=NOBODY)
    except PermissionError:
        pytest.skip("cannot: an ordinary user may not enter this checkout, or use this Python")
    return NOBODY


def check(runtime: str, *arguments: str, user: int | None = None) -> tuple[int, dict[str, Any]]:
    """Return exit status and report of `labrun check --runtime RUNTIME ARGUMENTS`."""
    ended = run(
        [LABRUN, "check", *arguments, "--runtime", runtime, "--json", "-", "--no-input"], user=user
    )
    assert ended.stdout, ended.stderr.decode()
    report: dict[str, Any] = json.loads(ended.stdout)
    return ended.returncode, report


def results(report: dict[str, Any], result: str) -> set[str]:
    """Return the ids of the checks with that result."""
    return {row["id"] for row in report["checks"] if row["result"] == result}


def machine() -> dict[str, object]:
    """Return what a careless run would leave on this machine.

    Other tests run beside this one, so what a living run keeps in its ledger is not counted, nor a
    segment that will go with its process (SHM_DEST in its mode).
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    segments = [
        row.split()[1:3]
        for row in Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    ]
    with ledger.abandoned() as pages:
        left = [str(path) for page in pages for _, path in page.left()]
    return {
        "mounts": sorted(" ".join(line.split()[2:]) for line in mounts),
        "left by a dead run": left,
        "host name": os.uname().nodename,
        "segments": [id_ for id_, mode in segments if not int(mode, 8) & 0o1000],
        "links": sorted(set(os.listdir("/sys/class/net")) - links_of_runtimes()),
        "routes": [
            row
            for row in Path("/proc/net/route").read_text(encoding="ascii").splitlines()
            if row.split()[0] != bridge.BRIDGE
        ],
    }


def links_of_runtimes() -> set[str]:
    """Return the links that runtimes have made: by their group, whatever they are called."""
    found = set()
    for link in Path("/sys/class/net").glob("*/netdev_group"):
        with contextlib.suppress(OSError):  # it may go at any time
            if int(link.read_text(encoding="ascii")) == bridge.TAG:
                found.add(link.parent.name)
    return found
