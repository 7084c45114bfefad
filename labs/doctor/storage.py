"""Rows about file systems: overlay, its rivals, and the devices that a lesson needs."""

import os
from ctypes.util import find_library
from pathlib import Path

from checks import kernel
from labs.doctor import attempt
from labs.doctor.facts import Facts, as_root, install, program, read
from labs.doctor.row import Finding, State, words
from labs.doctor.system import needs_root


def write_through_overlay() -> None:
    """Mount an overlay on a private tmpfs and see where a write goes.

    Raises OSError where it can't be mounted, or where the lower layer changed.
    """
    place = Path(attempt.private_tmpfs())
    lower, upper, work, merged = (place / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    (lower / "file").write_text("as it was")
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    kernel.mount("overlay", str(merged), "overlay", 0, layers)
    (merged / "file").write_text("changed")
    if (read(lower / "file"), read(upper / "file")) != ("as it was", "changed"):
        raise OSError(5, "the write did not go to the upper layer", str(merged / "file"))


def overlay(facts: Facts) -> Finding:
    """Whether overlay can be mounted, and copies on write."""
    if not facts.root:
        if "overlay" in facts.filesystems:
            return needs_root(words("overlay_root"), "/proc/filesystems")
        return needs_root(words("overlay_module"), "/proc/filesystems")

    def trial() -> str:
        attempt.unshare("mnt")
        write_through_overlay()
        return ""

    tried = attempt.attempt(trial)
    if tried.ok:
        return Finding(State.YES, words("overlay"), "mount(2)")
    if "overlay" not in facts.filesystems:
        remedy = module("overlay")
        return Finding(State.NO, words("overlay_missing"), "/proc/filesystems", remedy)
    return Finding(State.NO, words("tried", said=tried.said), "mount(2)", words("outside"))


def overlay_rootless(facts: Facts) -> Finding:
    """Whether overlay can be mounted in a user namespace."""
    if not facts.rootless.ok:
        where = "unshare(2)"
        return Finding(State.NO, words("overlay_no_userns"), where, words("see_rootless"))

    def trial() -> str:
        attempt.become_ordinary()
        attempt.enter_user_namespace("mnt")
        write_through_overlay()
        return ""

    tried = attempt.attempt(trial)
    if tried.ok:
        return Finding(State.YES, words("overlay"), "unshare(2), mount(2)")
    return Finding(State.NO, words("tried", said=tried.said), "mount(2)", words("vm"))


def module(name: str) -> str:
    """Return the command that loads a kernel module, or the way out where there is none."""
    folder = Path("/lib/modules", os.uname().release)
    return as_root(f"modprobe {name}") if folder.is_dir() else words("vm")


def aufs(facts: Facts) -> Finding:
    """Whether the kernel has AUFS, which mainline never had."""
    if "aufs" in facts.filesystems:
        return Finding(State.YES, words("aufs"), "/proc/filesystems")
    return Finding(State.NO, words("aufs_no"), "/proc/filesystems", words("aufs_remedy"))


def devicemapper(_: Facts) -> Finding:
    """Whether the kernel maps devices, and what stage 4 starts for it is there."""
    if "device-mapper" not in read("/proc/misc"):
        return Finding(State.NO, words("dm_no"), "/proc/misc", module("dm_thin_pool"))
    for name, package in (("dmsetup", "dmsetup"), ("mkfs.ext4", "e2fsprogs")):
        if not program(name):
            return Finding(State.NO, words("dm_program_no", name=name), "PATH", install(package))
    return Finding(State.YES, words("dm"), f"/proc/misc, {program('dmsetup')}")


def fuse(facts: Facts) -> Finding:
    """Whether a file system in user space can be mounted, and the library for that is there."""
    found = device("/dev/fuse", "fuse", facts)
    if found.state is State.YES and not has_libfuse():
        return Finding(State.NO, words("libfuse_no"), "ldconfig(8)", install("fuse3"))
    return found


def has_libfuse() -> bool:
    """Whether there is a library for it, by one of the names that mfusepy asks for."""
    return any(map(find_library, ("fuse3", "fuse")))


def device(path: str, name: str, facts: Facts) -> Finding:
    """Whether a device of the kernel's can be opened here: /dev/fuse, /dev/loop-control."""
    if not os.path.exists(path):
        return Finding(State.NO, words("device_missing", path=path), path, module(name))
    if os.access(path, os.R_OK | os.W_OK):
        # Opening either of the two changes nothing; a container's device rules show only here.
        opened = attempt.attempt(lambda: str(os.open(path, os.O_RDWR | os.O_CLOEXEC)))
        if opened.ok:
            return Finding(State.YES, words("device", path=path), path)
        fact = words("tried", said=opened.said)
        return Finding(State.NO, fact, path, words("outside") if facts.root else module(name))
    if facts.root:
        return Finding(State.NO, words("device_denied", path=path), path, words("outside"))
    return needs_root(words("device_root", path=path), path)


def mqueue(facts: Facts) -> Finding:
    """Whether POSIX message queues can be mounted for a container."""
    if "mqueue" in facts.filesystems:
        return Finding(State.YES, words("in_kernel"), "/proc/filesystems")
    return Finding(State.NO, words("not_in_kernel"), "/proc/filesystems", words("vm"))
