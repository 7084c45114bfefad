"""Rows about cgroups: the version, and where each controller is and who may use it.

Nothing is tried here: a group made for a trial would be seen by the whole machine. What is read
is where the controller's tree is mounted, this process's own group in it, and who may write.
"""

import os
from pathlib import Path, PurePosixPath

from labs import machine
from labs.doctor.facts import Facts, as_root, read
from labs.doctor.row import Finding, State, words
from labs.doctor.system import needs_root

TREE = "/sys/fs/cgroup"
V1_NAMES = {"io": "blkio"}
WITHOUT_CONTROLLER = ("devices", "freezer")
"""What v2 does without a controller, where it is not beside a v1 that has one."""


def version(facts: Facts) -> Finding:
    """Which cgroup version controls this machine."""
    where = "/proc/self/mountinfo"
    found = machine.cgroup_version(facts.cgroups)
    if found == "none":
        return Finding(State.NO, words("cgroup_none"), where, _remedy("memory", facts))
    return Finding(State.YES, words(f"cgroup_{found}"), where)


def own_group(mount: machine.Mount, controller: str = "") -> Path:
    """Return the folder of this process's own group in one mounted tree.

    /proc/self/cgroup gives the path from the tree's root; a container may have mounted only a part
    of the tree. Where the two don't fit, the mount's own top is the best that can be named.
    """
    for line in read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            inside, root = PurePosixPath(path), PurePosixPath(mount.root)
            if inside.is_relative_to(root):
                return Path(mount.point) / inside.relative_to(root)
    return Path(mount.point)


def controller(name: str, facts: Facts) -> Finding:
    """Where one controller is, and whether this process may use it."""
    v1 = V1_NAMES.get(name, name)
    pure = machine.cgroup_version(facts.cgroups) == "v2"
    for mount in facts.cgroups:
        if mount.type == "cgroup" and v1 in mount.options:
            return _usable(own_group(mount, v1), mount, facts)
    for mount in facts.cgroups:
        if mount.type == "cgroup2" and (name not in WITHOUT_CONTROLLER or pure):
            return _on_v2(name, mount, facts) or _missing(name, v1, facts)
    return _missing(name, v1, facts)


def _usable(group: Path, mount: machine.Mount, facts: Facts) -> Finding:
    """Say whether groups may be made below `group`."""
    if "rw" not in mount.options:
        fact = words("controller_ro", folder=mount.point)
        remedy = as_root(f"mount -o remount,bind,rw {mount.point}")
        return Finding(State.NO, fact, "/proc/self/mountinfo", remedy)
    if os.access(group, os.W_OK):
        return Finding(State.YES, words("controller"), str(group))
    if facts.root:
        return Finding(State.NO, words("controller_denied"), str(group), words("leave_namespace"))
    return needs_root(words("controller_root"), str(group))


def _on_v2(name: str, mount: machine.Mount, facts: Facts) -> Finding | None:
    """Say where a controller is in the one tree of v2, or None where it isn't there."""
    top = Path(mount.point)
    group = top if facts.root else own_group(mount)
    if name == "freezer":
        # Since Linux 5.2 every group but the first has cgroup.freeze.
        return _usable(group, mount, facts)
    if name == "devices":
        fact, where = words("devices_v2"), str(top)
        if not facts.root:
            return needs_root(fact, where)
        return Finding(State.LIMITED, fact, where, words("devices_v2_remedy"))
    file = group / "cgroup.controllers"
    if name not in read(file).split():
        if not facts.root and name in read(top / "cgroup.controllers").split():
            where = str(file)
            return Finding(State.UNKNOWN, words("not_delegated"), where, words("delegate"))
        return None
    usable = _usable(group, mount, facts)
    if usable.state is not State.YES:
        return usable
    # A group with processes can't hand controllers to children; only the first group may, and
    # it alone has no cgroup.events. See "No Internal Process Constraint" in the kernel's cgroup-v2.
    enabled = name in read(group / "cgroup.subtree_control").split()
    first = not (group / "cgroup.events").exists()
    if facts.root and not enabled and not first and read(group / "cgroup.procs"):
        fact = words("internal_processes", folder=group)
        return Finding(State.LIMITED, fact, str(file), words("outside"))
    return Finding(State.YES, words("controller"), str(file))


def _missing(name: str, v1: str, facts: Facts) -> Finding:
    """Say why a controller is in no mounted tree: not mounted, switched off, or not in the kernel.

    See proc_cgroups(5): name, hierarchy, groups, and whether the command line left it on.
    """
    where = "/proc/cgroups"
    row = _known().get(v1)
    if row is None:
        return Finding(State.NO, words("controller_absent"), where, words("vm"))
    if row[3] == "0":
        return Finding(State.NO, words("controller_off"), where, words("boot", name=v1))
    return Finding(State.NO, words("controller_unmounted"), where, _remedy(v1, facts))


def _known() -> dict[str, list[str]]:
    """Return the lines of /proc/cgroups by controller."""
    return {line.split()[0]: line.split() for line in read("/proc/cgroups").splitlines()}


def _remedy(v1: str, facts: Facts) -> str:
    """Return how to mount a controller: alone on v1 where v1 is in use, else v2's one tree."""
    if not any(row[1] not in ("0", "hierarchy") for row in _known().values()):
        return as_root(f"mount -t cgroup2 none {TREE}")
    mount = f"mkdir -p {TREE}/{v1} && mount -t cgroup -o {v1} {v1} {TREE}/{v1}"
    return mount if facts.root else f"sudo sh -c '{mount}'"


def swap(facts: Facts) -> Finding:
    """Whether swap is counted with memory: where it isn't, a memory limit can be swapped around."""
    for mount in facts.cgroups:
        if mount.type == "cgroup" and "memory" in mount.options:
            file = own_group(mount, "memory") / "memory.memsw.limit_in_bytes"
            if file.exists():
                return Finding(State.YES, words("swap"), str(file))
            return Finding(State.NO, words("swap_no"), str(file), words("boot_swap"))
    for mount in facts.cgroups:
        if mount.type == "cgroup2":
            # The first group has no limits; any other shows whether the kernel has this one.
            groups = (own_group(mount), *Path(mount.point).glob("*/"))
            files = [group / "memory.swap.max" for group in groups]
            shown = [file for file in files if file.exists()]
            if shown:
                return Finding(State.YES, words("swap"), str(shown[0]))
            return Finding(State.UNKNOWN, words("swap_unknown"), str(files[0]), words("boot_swap"))
    return Finding(State.NO, words("cgroup_none"), "/proc/self/mountinfo", words("vm"))
