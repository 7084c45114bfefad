"""How the tests run things: the commands of this environment, and what the machine holds."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.cgroup import own_directories
from labs import paths

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
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": False}
    return subprocess.run(
        argv,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env={**os.environ, "LABRUN_CACHE": str(paths.cache()), **(environment or {})},
        **(settings | more),
    )


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

    Other tests run beside this one, so what has no tag of ours is looked up by what is ours: mounts
    and cgroups under names that nobody else has.
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    groups = [d for parent in own_directories() for d in parent.glob("labrun-*")]
    segments = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    return {
        "mounts": sorted(" ".join(line.split()[2:]) for line in mounts),
        "cgroups": sorted(map(str, groups)),
        "host name": os.uname().nodename,
        "segments": sorted(row.split()[1] for row in segments),
        "links": sorted(os.listdir("/sys/class/net")),
        "routes": Path("/proc/net/route").read_text(encoding="ascii"),
        "ledger": sorted(os.listdir("/run/labrun")) if os.path.isdir("/run/labrun") else [],
    }
