"""Owners: whom this process may give a file to."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.more.tar import Entry


class Owners:
    """The ids that an entry may have here; the rest become this process's own.

    Root has those of its user namespace, of which a rootless one may have only one. An ordinary
    user has his own, and his groups. See user_namespaces(7), chown(2).
    """

    def __init__(self) -> None:
        """Ask the kernel."""
        self.uid, self.gid = os.geteuid(), os.getegid()
        if self.uid == 0:
            self.uids, self.gids = _mapped("uid_map"), _mapped("gid_map")
        else:
            self.uids = [range(self.uid, self.uid + 1)]
            self.gids = [range(gid, gid + 1) for gid in {self.gid, *os.getgroups()}]

    def of(self, entry: Entry) -> tuple[int, int, bool]:
        """Return uid, gid, and whether one of them is not the entry's."""
        uid = entry.uid if any(entry.uid in ids for ids in self.uids) else self.uid
        gid = entry.gid if any(entry.gid in ids for ids in self.gids) else self.gid
        return uid, gid, (uid, gid) != (entry.uid, entry.gid)


def _mapped(name: str) -> list[range]:
    """Return the ids that have a meaning in this user namespace."""
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        rows = [row.split() for row in file]
    return [range(int(first), int(first) + int(count)) for first, _, count in rows]
