"""What the machine is, in the few words that every report begins with."""

import os

from checks.mounts import Mount, own, parse

__all__ = ["Mount", "cgroup_version", "cgroups", "host", "mounts"]


def mounts(table: str | None = None) -> list[Mount]:
    """Return this process's mounts, in the order in which they were made.

    `table` is read instead of /proc/self/mountinfo. Raises OSError where there is no /proc.
    """
    return parse(own() if table is None else table)


def cgroups(mounted: list[Mount]) -> list[Mount]:
    """Return the cgroup trees among the mounts, of either version, that can be reached."""
    return [mount for mount in mounted if mount.type in ("cgroup", "cgroup2") and mount.visible]


def cgroup_version(trees: list[Mount]) -> str:
    """Return `v1`, `v2`, `hybrid` (controllers on v1 beside a cgroup2), or `none`.

    A hierarchy that has only a name (systemd's `name=systemd`) controls nothing and isn't counted.
    """
    one = any(
        mount.type == "cgroup" and not any(option.startswith("name=") for option in mount.options)
        for mount in trees
    )
    two = any(mount.type == "cgroup2" for mount in trees)
    if one and two:
        return "hybrid"
    return "v1" if one else "v2" if two else "none"


def host() -> dict[str, object]:
    """Return the facts that reports carry: `kernel`, `arch`, `cgroup`, `root`.

    `cgroup` is `none` where no cgroup file system is mounted, or where there is no /proc.
    """
    try:
        trees = cgroups(mounts())
    except OSError:
        trees = []
    system = os.uname()
    return {
        "kernel": system.release,
        "arch": system.machine,
        "cgroup": cgroup_version(trees),
        "root": os.geteuid() == 0,
    }
