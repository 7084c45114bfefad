"""What the runtimes share and keep from run to run: a bridge and a lock, both tagged as ours.

A bridge is ours by its name and by the group that it was made with; one that has a container's
cable plugged in is in use, and stays.

And what only a runtime leaves that was killed together with its keeper: control groups, which are
ours by a name that nobody else gives, and in use as long as there is a process in them; and what
stage 5's networks need of the host, by the notes of them: a table of rules, links that forward.
"""

import contextlib
import re
import time
from pathlib import Path

from checks.cgroup import BENCH
from stages import netlink
from stages.netlink import Netlink
from stages.stage2_namespaces.more.bridge import BRIDGE, LOCK, TAG, Lock
from stages.stage3_cgroups.more.find import cgroup_mounts
from stages.stage5_container.more import switchboard

GROUP = netlink.number(TAG)
RUN = re.compile("labrun-run-[0-9a-f]{8}")
"""What a container's control group is called."""
STARTING = 1.0
"""Seconds after which a group without a process is none that a runtime has made a moment ago."""


def unused() -> list[str]:
    """Return what could be removed now."""
    with Netlink() as route:
        found = [BRIDGE] if _has_idle_bridge(route) else []
    found += switchboard.left()
    if Path(LOCK).exists() and (found or not _has_bridge()):
        found.append(LOCK)
    return found


def remove() -> None:
    """Remove it, and keep runtimes from using it meanwhile."""
    if not unused():
        return
    with Lock(), Netlink() as route:
        switchboard.settle(route)
        # A container may have come since.
        if _has_idle_bridge(route):
            route.delete_link(BRIDGE)
        if not _has_bridge():
            # Whoever waits for it sees that it is gone, and makes another.
            Path(LOCK).unlink(missing_ok=True)
    # It may hold the pages of runs that live.
    with contextlib.suppress(OSError):
        Path(LOCK).parent.rmdir()


def empty_groups() -> list[str]:
    """Return the control groups of containers that have had no process for a while.

    None of a bench's: its judge is just about to see that one was left, and when the judge is dead
    they go with the bench.
    """
    first = _groups_without_processes()
    if not first:
        return []
    time.sleep(STARTING)  # before its first process a group looks as it does after its last
    return sorted(first & _groups_without_processes())


def _groups_without_processes() -> set[str]:
    found = set()
    for _, _, point, _ in cgroup_mounts():
        for group in Path(point).rglob("labrun-run-*/"):
            with contextlib.suppress(OSError):  # it may go at any time
                judged = any(above.name.startswith(f"{BENCH}-") for above in group.parents)
                busy = [below for below in group.rglob("cgroup.procs") if below.read_text()]
                if RUN.fullmatch(group.name) and not judged and not busy:
                    found.add(str(group))
    return found


def _has_bridge() -> bool:
    with Netlink() as route, contextlib.suppress(OSError):
        return route.get_link(BRIDGE)[1].get(netlink.IFLA_GROUP) == GROUP
    return False


def _has_idle_bridge(route: Netlink) -> bool:
    """Return whether there is a bridge of ours without a single port."""
    links = route.links()
    ours = [
        index
        for index, facts in links
        if facts[netlink.IFLA_IFNAME] == netlink.string(BRIDGE)
        and facts.get(netlink.IFLA_GROUP) == GROUP
    ]
    ports = [facts.get(netlink.IFLA_MASTER) for _, facts in links]
    return bool(ours) and netlink.number(ours[0]) not in ports
