"""Confinement: until it is there, the user alone."""

from __future__ import annotations

from stages import linux
from stages.stage2_namespaces.mounts import furnish
from stages.stage4_overlayfs.more.paths import Tree, owner_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage3_cgroups.cgroup import ControlGroup
    from stages.stage5_container.options import Contained

__all__ = ["confine", "device_rules", "furnish", "identify"]


def identify(root: str, user: str) -> tuple[int, int, list[int]]:
    """Return uid, gid and groups of a user in the tree `root`."""
    uid, gid = owner_of(Tree(root), user) if user else (0, 0)
    return uid, gid, []


def device_rules(group: ControlGroup) -> None:
    """Let the group's processes open only a container's devices."""


def confine(container: Contained) -> None:
    """Be the container's user."""
    uid, gid, groups = container.identity
    if not container.rootless:
        linux.setgroups(groups)
    linux.setresgid(gid, gid, gid)
    linux.setresuid(uid, uid, uid)
