"""Files of /proc and /sys that tell of the whole machine, or change it: hidden, or read-only.

No namespace has these files for itself: what a container wrote there, it would write to all.
"""

from __future__ import annotations

import errno
import os
import stat

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MASKED = (
    # Docker's: moby, daemon/pkg/oci/defaults.go, defaultMaskedPaths. Those that aren't there on a
    # machine need no mask.
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
)
THROTTLES = "sys/devices/system/cpu"
"""Below it each CPU has a thermal_throttle, whose counters tell what others do; also Docker's."""
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")
"""Docker's, defaultReadonlyPaths; all of /sys is read-only anyway."""
NULL = (1, 3)
BENEATH = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
EMPTY = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def mask(top: int) -> None:
    """Hide what tells too much, below the open root `top`."""
    null = verified_null(top)
    empty = -1
    try:
        for path in (*MASKED, *throttles(top)):
            spot = look_up(top, path)
            if spot is None:
                continue
            if not stat.S_ISDIR(os.fstat(spot).st_mode):
                bind(null, spot)
            elif empty < 0:
                # One empty file system for all of them.
                linux.mount("tmpfs", f"/proc/self/fd/{spot}", "tmpfs", EMPTY, "size=4k,nr_inodes=1")
                empty = look_up(top, path) or -1
            else:
                bind(empty, spot)
            os.close(spot)
    finally:
        for fd in {null, empty} - {-1}:
            os.close(fd)


def verified_null(top: int) -> int:
    """Return a descriptor of the root's /dev/null, which really is that device.

    Were it a link to a file of the image's, its content would be on all masked files, to be
    written as well (CVE-2025-31133). What was looked at and what is mounted are one descriptor.
    """
    fd = look_up(top, "dev/null")
    if fd is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), 'mask("/dev/null")')
    status = os.fstat(fd)
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    if not stat.S_ISCHR(status.st_mode) or number != NULL:
        os.close(fd)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), 'mask("/dev/null")')
    return fd


def make_read_only(top: int) -> None:
    """Let nobody write below the paths that change the kernel."""
    for path in READ_ONLY:
        spot = look_up(top, path)
        if spot is None:
            continue
        bind(spot, spot)
        os.close(spot)
        # That descriptor is what is below the mount; the path now leads to what is on top.
        spot = look_up(top, path)
        assert spot is not None
        attributes = linux.MOUNT_ATTR_RDONLY
        linux.mount_setattr(f"/proc/self/fd/{spot}", linux.AT_RECURSIVE, attributes)
        os.close(spot)


def bind(source: int, target: int) -> None:
    """Mount one open file or directory on another."""
    flags = linux.MS_BIND | linux.MS_REC
    linux.mount(f"/proc/self/fd/{source}", f"/proc/self/fd/{target}", None, flags)


def look_up(top: int, path: str) -> int | None:
    """Return a descriptor of a path below `top`, None where there is none; a link is an error."""
    try:
        return linux.openat2(top, path, linux.O_PATH | linux.O_CLOEXEC, BENEATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def throttles(top: int) -> Iterator[str]:
    """Yield the paths of the CPUs' thermal_throttle that are there."""
    spot = look_up(top, THROTTLES)
    if spot is None:
        return
    try:
        names = os.listdir(f"/proc/self/fd/{spot}")
    finally:
        os.close(spot)
    for name in sorted(names):
        if name.startswith("cpu") and name[3:].isdecimal():
            yield f"{THROTTLES}/{name}/thermal_throttle"
