"""A profile of the user's own: `--security-opt seccomp=FILE`, in Docker's format.

See docs.docker.com, engine/security/seccomp, and the OCI runtime-spec, config-linux.md, "Seccomp".
"""

from __future__ import annotations

import errno
import json
import os

from stages.stage5_container.more.capabilities import named
from stages.stage5_container.more.profile import Rule
from stages.stage5_container.more.seccomp import ALLOW, COMPARED, REFUSE, Profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_ERRNO": REFUSE,
    "SCMP_ACT_LOG": "log",
    "SCMP_ACT_TRAP": "trap",
    "SCMP_ACT_KILL": "kill_thread",
    "SCMP_ACT_KILL_THREAD": "kill_thread",
    "SCMP_ACT_KILL_PROCESS": "kill_process",
}
"""All but TRACE and NOTIFY, which ask another process: there is none."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What Go calls a machine, where uname(2) calls it otherwise."""
MOST = 1 << 20
"""Bytes of a profile: Docker's own has 17,000."""


def load(file: str) -> Profile:
    """Return the profile in a file; raise ValueError where it is none, OSError."""
    with open(file, "rb") as opened:
        text = opened.read(MOST + 1)
    try:
        if len(text) > MOST:
            raise ValueError(f"more than {MOST} bytes")
        content = json.loads(text)
        action, number = action_of(content, "defaultAction", "defaultErrnoRet")
        rows = content.get("syscalls") or []
        return Profile([rule for row in rows for rule in rules(row)], action, number)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else "it lacks a part, or has another"
        raise ValueError(f"--security-opt seccomp={file}: no profile: {why}") from None


def rules(row: dict[str, Any]) -> list[Rule]:
    """Return what one entry of `syscalls` says: none where it is for older kernels."""
    names = row.get("names") or [row["name"]]
    action, number = action_of(row, "action", "errnoRet")
    arguments = [
        (int(one["index"]), compared(one["op"]), int(one["value"]), int(one.get("valueTwo") or 0))
        for one in row.get("args") or ()
    ]
    includes, excludes = row.get("includes") or {}, row.get("excludes") or {}
    if kernel_before(includes.get("minKernel")) or not kernel_before(
        excludes.get("minKernel"), unsaid=True
    ):
        return []
    # libseccomp takes one comparison an argument. Of several with one, runc makes rules, of which
    # any may hold (libcontainer/seccomp, matchCall).
    several = len({position for position, *_ in arguments}) < len(arguments)
    return [
        Rule(
            tuple(map(str, names)),
            action,
            number,
            together,
            having=tuple(sorted(named("caps", includes.get("caps") or ()))),
            lacking=tuple(sorted(named("caps", excludes.get("caps") or ()))),
            machines=tuple(MACHINES.get(name, name) for name in includes.get("arches") or ()),
            others=tuple(MACHINES.get(name, name) for name in excludes.get("arches") or ()),
        )
        for together in ([(one,) for one in arguments] if several else [tuple(arguments)])
    ]


def action_of(row: dict[str, Any], action: str, number: str) -> tuple[str, int]:
    """Return an action and its error, EPERM where none is said."""
    if row[action] not in ACTIONS:
        raise ValueError(f"{row[action]}: say one of {', '.join(ACTIONS)}")
    found = row.get(number)
    value = errno.EPERM if found is None else int(found)
    if not 0 <= value < 4096:
        raise ValueError(f"{number} {value}: not an error's number")
    return ACTIONS[row[action]], value


def compared(word: str) -> str:
    """Return how an argument is compared."""
    how = word.removeprefix("SCMP_CMP_")
    if how not in COMPARED:
        raise ValueError(f"{word}: not a comparison")
    return how


def kernel_before(version: str | None, *, unsaid: bool = False) -> bool:
    """Return whether this kernel is older than a version such as `4.8`."""
    if not version:
        return unsaid
    ours = os.uname().release.replace("-", ".").split(".")
    return [int(part) for part in ours[:2]] < [int(part) for part in version.split(".")[:2]]
