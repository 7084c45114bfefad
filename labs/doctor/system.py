"""Rows about the machine as a whole: kernel, user, capabilities, disk, what stands in the way."""

import ctypes
import os
import platform
import shutil
import sys
from pathlib import Path

from labs import paths
from labs.doctor.facts import Facts, as_root, install, output, program, read
from labs.doctor.row import Finding, State, words
from labs.rootfs import apt
from labs.rootfs import busybox as recipe

OLDEST_KERNEL = (5, 9)
"""close_range(2), with which every stage closes what it inherited."""
ROOTLESS_OVERLAY = (5, 11)
"""The first kernel on which overlay can be mounted in a user namespace."""

ENOUGH, SCARCE = 1024, 128
"""MiB free: stage 4 builds and unpacks images; a root file system alone is about 2 MiB."""

LIBSECCOMP = "libseccomp.so.2"
"""What stage 5 has a filter compiled by."""


def kernel(_: Facts) -> Finding:
    """Which kernel."""
    system = os.uname()
    version = tuple(int(part) for part in system.release.split("-")[0].split(".")[:2])
    places = {"system": system.sysname, "release": system.release}
    if version < OLDEST_KERNEL:
        return Finding(State.NO, words("kernel_old", **places), "uname(2)", words("vm"))
    if version < ROOTLESS_OVERLAY:
        return Finding(State.LIMITED, words("kernel_limited", **places), "uname(2)", words("vm"))
    return Finding(State.YES, words("kernel", **places), "uname(2)")


def arch(_: Facts) -> Finding:
    """Which processor."""
    name = os.uname().machine
    if name in ("x86_64", "aarch64"):
        return Finding(State.YES, words("arch", arch=name), "uname(2)")
    return Finding(State.LIMITED, words("arch_untested", arch=name), "uname(2)", words("vm"))


def python(_: Facts) -> Finding:
    """Which Python: one older than 3.11 doesn't come this far."""
    return Finding(State.YES, words("python", version=platform.python_version()), sys.executable)


def proc(facts: Facts) -> Finding:
    """How /proc is mounted: without one the doctor doesn't come this far. See proc(5)."""
    options = next((mount.options for mount in facts.mounts if mount.point == "/proc"), frozenset())
    hidden = next((option for option in options if option.startswith("hidepid=")), "hidepid=0")
    if hidden in ("hidepid=0", "hidepid=off"):
        return Finding(State.YES, words("proc"), "/proc/self/mountinfo")
    fact = words("proc_hidden", option=hidden)
    return Finding(State.LIMITED, fact, "/proc/self/mountinfo", words("proc_remedy"))


def root(facts: Facts) -> Finding:
    """Whether this is root, and whose."""
    if not facts.root:
        fact = words("root_no", uid=os.geteuid())
        return Finding(State.NO, fact, "geteuid(2)", words("again_as_root"))
    where = "geteuid(2), /proc/self/ns/user"
    if not facts.first_root:
        return Finding(State.LIMITED, words("root_of_a_namespace"), where, words("leave_namespace"))
    return Finding(State.YES, words("root"), where)


def capability(name: str, facts: Facts) -> Finding:
    """Whether this process has one capability."""
    where = "CapEff in /proc/self/status"
    if facts.capable(name):
        return Finding(State.YES, words("cap"), where)
    if not facts.root:
        return needs_root(words("cap_root"), where)
    return Finding(State.NO, words("cap_no"), where, words("outside"))


def needs_root(fact: str, where: str) -> Finding:
    """Return the answer to what only root can try."""
    return Finding(State.UNKNOWN, fact, where, words("again_as_root"))


def outermost(facts: Facts) -> Finding:
    """Whether a container or a chroot is already around this shell."""
    if facts.in_chroot:
        where = "/proc/self/mountinfo"
        return Finding(State.LIMITED, words("in_chroot"), where, words("leave_chroot"))
    where = "/proc/self/ns"
    if inner := facts.inner_namespaces:
        kind = facts.container_kind if "pid" in inner else ""
        fact = words("in_container", kinds=" ".join(inner), kind=f" ({kind})" if kind else "")
        return Finding(State.LIMITED, fact, where, words("outside_if"))
    return Finding(State.YES, words("no_container"), where)


def seccomp(facts: Facts) -> Finding:
    """Whether the kernel takes seccomp filters, what compiles them, and whether one is on us."""
    where = "Seccomp in /proc/self/status"
    if "Seccomp" not in facts.status:
        return Finding(State.NO, words("seccomp_no"), where, words("vm"))
    try:
        ctypes.CDLL(LIBSECCOMP)
    except OSError:
        return Finding(State.NO, words("libseccomp_no"), LIBSECCOMP, install("libseccomp2"))
    if facts.filtered:
        return Finding(State.LIMITED, words("seccomp_filtered"), where, words("outside"))
    return Finding(State.YES, words("seccomp"), where)


def lsm(_: Facts) -> Finding:
    """Whether AppArmor or SELinux holds this process."""
    enforcing = read("/sys/fs/selinux/enforce") == "1"
    label = read("/proc/self/attr/current").strip("\0")
    if enforcing:
        fact = words("selinux", label=label or "?")
        return Finding(State.LIMITED, fact, "/sys/fs/selinux/enforce", as_root("setenforce 0"))
    if read("/sys/module/apparmor/parameters/enabled") != "Y":
        where = "/sys/fs/selinux, /sys/module/apparmor"
        return Finding(State.YES, words("lsm_none"), where)
    where = "/proc/self/attr/current"
    if label and label != "unconfined":
        return Finding(State.LIMITED, words("apparmor_on", label=label), where, words("outside"))
    return Finding(State.YES, words("apparmor_off"), where)


def busybox(_: Facts) -> Finding:
    """What a root file system could be made of, in the order in which `labrun rootfs` looks."""
    package = recipe.PACKAGE
    unpacked = paths.cache() / "packages" / package
    cached = (unpacked / "bin/busybox", unpacked / "usr/bin/busybox")
    for path in (*map(Path, filter(None, map(program, recipe.NAMES))), *cached):
        if recipe.fit(path):
            return Finding(State.YES, words("busybox"), str(path))
    if not apt.have():
        return Finding(State.NO, words("busybox_no"), "PATH", install(package))
    where = f"apt-cache show {package}"
    if output(*where.split())[0] == 0:
        return Finding(State.YES, words("busybox_apt"), where)
    return Finding(State.LIMITED, words("busybox_lists"), where, as_root("apt-get update"))


def disk(_: Facts) -> Finding:
    """Whether the cache has room."""
    cache = paths.cache()
    folder = next(parent for parent in (cache, *cache.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free // 2**20
    fact = words("disk", free=f"{free:,}", folder=cache)
    if free >= ENOUGH:
        return Finding(State.YES, fact, "statfs(2)")
    state = State.LIMITED if free >= SCARCE else State.NO
    return Finding(state, fact, "statfs(2)", words("disk_remedy"))
