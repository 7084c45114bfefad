"""A place for the runtime's own mounts, which nobody else sees, and which go when it goes."""

from __future__ import annotations

import errno
import os

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.options import Stacked


def step_aside(container: Stacked) -> None:
    """Have mounts of this process's own; an ordinary user is root of a user namespace from here on.

    The image's tree is mounted before there is a child, which finds it in its copy. However the
    runtime ends, the mounts end with the last process that sees them. See mount_namespaces(7).
    """
    if container.rootless:
        if "user" not in container.namespaces:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), 'mount("overlay")')
        own_users()
        # The child is in that namespace already, and root.
        container.entered = container.entered | {"user"}
    else:
        linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)


def own_users() -> None:
    """Enter a user namespace with its mounts, where the caller is root. See user_namespaces(7)."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
    linux.write_file("/proc/self/uid_map", f"0 {uid} 1")
    linux.write_file("/proc/self/setgroups", "deny")
    linux.write_file("/proc/self/gid_map", f"0 {gid} 1")
