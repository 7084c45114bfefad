"""How the tests run things: the commands of this environment, and what the machine holds."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from checks import ledger, mounts
from labs import paths
from labs.doctor.storage import has_libfuse
from stages.stage2_namespaces.more import bridge

BIN = Path(sys.executable).parent
LABRUN = str(BIN / "labrun")
NOBODY = 65534
DEAD_CHECKS = "left by a dead run"
"""What machine() finds in the ledger: the benches of checks that were killed."""


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


def cannot(reason: str) -> NoReturn:
    """Skip a test for what is not installed here; in CI, where all of it was installed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(f"cannot: {reason}")


def has_fuse() -> bool:
    """Return whether file systems in user space can be had: by the kernel, and by libfuse."""
    return os.path.exists("/dev/fuse") and has_libfuse()


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
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    segments = [
        row.split()[1:3]
        for row in Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    ]
    with ledger.abandoned() as pages:
        left = [str(path) for page in pages for _, path in page.left()]
    return {
        "mounts": sorted(" ".join(line.split()[2:]) for line in table),
        DEAD_CHECKS: left,
        "host name": os.uname().nodename,
        "segments": [id_ for id_, mode in segments if not int(mode, 8) & 0o1000],
        "links": sorted(name for name, group in links().items() if group != bridge.TAG),
        "routes": [
            row
            for row in Path("/proc/net/route").read_text(encoding="ascii").splitlines()
            if row.split()[0] != bridge.BRIDGE
        ],
        "groups": abandoned_groups(),
    }


def assert_unchanged(before: dict[str, object], patience: float = 20) -> None:
    """Assert that the machine is as it was before.

    Other tests run beside this one, and some kill what they run: what they had left goes, and
    comes, and is cleared away by them. So what is new is waited for.
    """
    until = time.monotonic() + patience
    while (faults := _differences(before)) and time.monotonic() < until:
        time.sleep(0.5)
    assert not faults


def _differences(before: dict[str, object]) -> dict[str, object]:
    """Return what is otherwise on this machine than before, and new among what dead runs left."""
    after = machine()
    known, now = before.get(DEAD_CHECKS), after.pop(DEAD_CHECKS)
    assert isinstance(now, list)
    faults: dict[str, object] = {
        key: (before[key], value) for key, value in after.items() if value != before[key]
    }
    new = [path for path in now if path not in known] if isinstance(known, list) else []
    return faults | ({DEAD_CHECKS: new} if new else {})


def groups(mark: str = "labrun-run-") -> set[Path]:
    """Return the control groups of runtimes: on v1 one a hierarchy for each container."""
    tops = [mount for mount in mounts.parse(mounts.own()) if mount.type in ("cgroup", "cgroup2")]
    found = set()
    for top in tops:
        for folder, below, _ in os.walk(top.point):
            found |= {Path(folder, name) for name in below if name.startswith(mark)}
    return found


def empty(group: Path) -> bool:
    """Return whether no process is in a group, or in one below it; a group that is gone isn't."""
    try:
        lists = [Path(folder, "cgroup.procs").read_bytes() for folder, _, _ in os.walk(group)]
    except OSError:
        return False
    return bool(lists) and not any(lists)


def abandoned_groups(patience: float = 10) -> set[Path]:
    """Return the control groups that nobody is in, and that nobody removes either.

    Other tests run beside this one. A living run's group is empty for a moment only.
    """
    left = set(filter(empty, groups()))
    until = time.monotonic() + patience
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left = {group for group in left if group.exists() and empty(group)}
    return left


def processes(mark: str) -> list[str]:
    """Return the processes that have `mark` in their command lines, but for this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                found.append(entry.parent.name)
    return found


def links() -> dict[str, int]:
    """Return the links of this machine, each with its group."""
    found = {}
    for link in Path("/sys/class/net").glob("*/netdev_group"):
        # It may go at any time: one that other tests' runtimes had is no link that was missed.
        with contextlib.suppress(OSError):
            found[link.parent.name] = int(link.read_text(encoding="ascii"))
    return found


def links_of_runtimes() -> set[str]:
    """Return the links that runtimes have made: by their group, whatever they are called."""
    return {name for name, group in links().items() if group == bridge.TAG}
