"""`top`: a container's processes, as the host sees them."""

from __future__ import annotations

import os
import pwd
import time

from stages.stage3_cgroups.more.files import entries
from stages.stage5_container.more.lookup import find, running
from stages.stage5_container.more.verb import Verb, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options


def top(store: Store, operands: Sequence[str], _: Options) -> int:
    """List them."""
    rows = [["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]]
    for pid in pids_of(running(find(store, operands[0]))):
        try:
            rows.append(row_of(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    table(rows, least=20)
    return 0


def pids_of(facts: Mapping[str, Any]) -> list[int]:
    """Return the pids of all processes in its control group, and in those it has made below."""
    groups = facts["groups"]
    path = groups.get("pids") or groups.get("freezer") or groups.get("")
    if not path:
        return [facts["pid"]]
    found: set[int] = set()
    for folder, _, _ in os.walk(path):
        found |= {int(pid) for pid in entries(f"{folder}/cgroup.procs")}
    return sorted(found - {0})


def row_of(pid: int) -> list[str]:
    """Return a process. See proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    fields = tail.split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) // ticks
    with open("/proc/uptime", encoding="ascii") as uptime:
        age = float(uptime.read().split()[0]) - int(fields[19]) / ticks
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").replace(b"\0", b" ")
    name = words or b"[" + head.partition(b"(")[2] + b"]"
    return [
        name_of(os.stat(f"/proc/{pid}").st_uid),
        str(pid),
        fields[1].decode(),
        str(int(100 * used / age) if age >= 1 else 0),
        time.strftime("%H:%M", time.localtime(time.time() - age)),
        terminal_of(int(fields[4])),
        f"{used // 3600:02}:{used // 60 % 60:02}:{used % 60:02}",
        name.decode("utf-8", "backslashreplace"),
    ]


def name_of(uid: int) -> str:
    """Return what the host calls a user: it is the host that sees them."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def terminal_of(number: int) -> str:
    """Return the name of a process's terminal, ? for none: 136 and more are /dev/pts."""
    major, minor = os.major(number), os.minor(number)
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else "?"


VERBS = {"top": Verb("CONTAINER", 1, 1, "its processes, as the host sees them", [], top)}
