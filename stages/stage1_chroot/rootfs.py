"""A root directory of its own: where `/` leads, and where the process stands."""

from __future__ import annotations

from stages import linux


def enter_root(root: str) -> None:
    """Make the directory `root` what `/` means, and stand in it.

    Raises OSError: ENOENT or ENOTDIR for `root`, EPERM without CAP_SYS_CHROOT. See chroot(2).
    """
    # Path look-ups that begin with / now begin at root; `..` stops there.
    linux.chroot(root)
    # The working directory is still the caller's, outside, and from there `..` leads to the host.
    linux.chdir("/")


def enter_workdir(directory: str) -> None:
    """Stand in `directory`, a path inside the root, and make sure that it is inside.

    Raises OSError: ENOENT for a directory that is missing or lies outside. See getcwd(3).
    """
    linux.chdir(directory)
    # A link such as /proc/self/fd/0 leads anywhere at all (CVE-2024-21626). Outside its root a
    # process has no path to where it stands, and getcwd says so.
    linux.getcwd()
