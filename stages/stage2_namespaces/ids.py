"""Users: who root inside is outside."""

from __future__ import annotations

import os

from stages import linux

FIRST, COUNT = 100000, 65536
"""The users outside that 0 to 65535 inside stand for (CONTRACT)."""


def map_ids(child: int) -> None:
    """In the parent: say who the users of the child's user namespace are outside.

    Root lends it users that nobody has; an ordinary user has only itself to lend. Raises OSError:
    EPERM for users that aren't the caller's to lend. See user_namespaces(7).
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        linux.write_file(f"/proc/{child}/uid_map", f"0 {FIRST} {COUNT}")
        linux.write_file(f"/proc/{child}/gid_map", f"0 {FIRST} {COUNT}")
        return
    linux.write_file(f"/proc/{child}/uid_map", f"0 {uid} 1")
    # A file may be closed to one group and open to all others: who could leave that group would
    # get in. So an ordinary user gives up setgroups(2) first.
    linux.write_file(f"/proc/{child}/setgroups", "deny")
    linux.write_file(f"/proc/{child}/gid_map", f"0 {gid} 1")


def become_root(rootless: bool) -> None:
    """In the child: be user and group 0 of the user namespace. See setresuid(2)."""
    # The groups outside would still open doors; an ordinary user's can't be given up.
    if not rootless:
        linux.setgroups([])
    linux.setresgid(0, 0, 0)
    linux.setresuid(0, 0, 0)
