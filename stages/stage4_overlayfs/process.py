"""The last steps of the child where an image says which user runs the command."""

from __future__ import annotations

from stages import linux


def close_all_but(kept: int) -> None:
    """Close all descriptors but stdin, stdout, stderr, and one that execve(2) itself closes.

    The barrier's: that the runtime lives can be asked only after the change of user, since that
    undoes what prctl(2) has set, PR_SET_PDEATHSIG; and the way to `--workdir` must lead through no
    open directory before.
    """
    if kept > 3:
        linux.close_range(3, kept - 1)
    linux.close_range(kept + 1, 0xFFFFFFFF)


def become(uid: int, gid: int) -> None:
    """Be a user, and in no group but its own. See setresuid(2)."""
    linux.setgroups([])
    linux.setresgid(gid, gid, gid)
    linux.setresuid(uid, uid, uid)
