"""Who runs the command: names as the container's own /etc/passwd has them, read by ourselves.

libc's way from a name to a number (NSS) loads libraries, and inside the container those would be
the container's, run with the runtime's rights (CVE-2019-14271). And the files are the container's:
it may put a link, a device or a pipe in their place, at any moment.
"""

from __future__ import annotations

import errno
import os
import stat

from stages import linux

MOST_BYTES = 1 << 20
"""Bytes of a passwd or group file that are read."""
MOST_ID = (1 << 31) - 1
"""Docker's greatest uid (moby/sys/user, maxID)."""
INSIDE = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS


def identify(root: str, user: str) -> tuple[int, int, list[int]]:
    """Return uid, gid and supplementary groups of USER[:GROUP], names or numbers; "" is root.

    As Docker: a number needs no line in passwd, and then has group 0; without GROUP the user is in
    all groups that list it. `root` is the container's. Raises ValueError for unknown names.
    """
    name, colon, group = user.partition(":")
    # Docker's order: the line of that name, or of that number; without a word, of number 0.
    wanted = name or "0"
    rows = [row for row in lines(root, "etc/passwd") if len(row) > 3 and wanted in (row[0], row[2])]
    rows = [row for row in rows if row[2].isdecimal() and row[3].isdecimal()]
    if not rows and not wanted.isdecimal():
        raise ValueError(f"--user {user}: /etc/passwd inside has no {name}: say a number")
    login, _, uid, gid = rows[0][:4] if rows else ("", "", wanted, "0")
    groups = [row for row in lines(root, "etc/group") if len(row) > 3 and row[2].isdecimal()]
    if colon and group:
        found = [row[2] for row in groups if group in (row[0], row[2])]
        if not found and not group.isdecimal():
            raise ValueError(f"--user {user}: /etc/group inside has no {group}: say a number")
        gid, others = (found or [group])[0], []
    else:
        others = [row[2] for row in groups if login and login in row[3].split(",")]
    if max(int(uid), int(gid), *map(int, others)) > MOST_ID:
        raise ValueError(f"--user {user}: beyond the greatest number: say at most {MOST_ID}")
    # Its own group as well: a file may refuse a group what it allows to all others, and a process
    # that could leave the group would get in (CVE-2022-36109).
    return int(uid), int(gid), list(dict.fromkeys([int(gid), *map(int, others)]))


def lines(root: str, path: str) -> list[list[str]]:
    """Return the fields of a file such as /etc/passwd; none where there is no regular file."""
    content = read_inside(root, path)
    return [row.split(":") for row in content.decode("utf-8", "surrogateescape").splitlines()]


def read_inside(root: str, path: str) -> bytes:
    """Return the beginning of a regular file below `root`, whose links lead nowhere else."""
    top = linux.open_file(root, linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
    try:
        # To open a device starts its driver, and a pipe would have us wait. O_PATH opens neither,
        # and what it has found can't be exchanged any more.
        found = linux.openat2(top, path, linux.O_PATH | linux.O_CLOEXEC, INSIDE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return b""
        raise
    finally:
        os.close(top)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return b""
        flags = linux.O_RDONLY | linux.O_CLOEXEC
        with open(linux.open_file(f"/proc/self/fd/{found}", flags), "rb") as file:
            return file.read(MOST_BYTES)
    finally:
        os.close(found)
