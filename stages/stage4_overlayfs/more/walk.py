"""The way from a directory to what is below it, and never out of it.

A check of a path and then its use would be two steps, and another process could exchange a
directory for a link in between. So there is no check: openat2(2) walks from the target's open
descriptor and refuses each link on the way itself; and a descriptor stays the directory that it
was, whatever has its name by then. (Whoever may move a directory out of the target takes along
what is unpacked into it from then on: the layer's own files, to where he could have copied them.)
"""

from __future__ import annotations

import os

from stages import linux

INSIDE = (
    linux.RESOLVE_BENEATH
    | linux.RESOLVE_NO_SYMLINKS
    | linux.RESOLVE_NO_MAGICLINKS
    | linux.RESOLVE_NO_XDEV
)
DIRECTORY = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_NOFOLLOW | linux.O_CLOEXEC


class Walk:
    """A directory, and the one below it that we are in."""

    def __init__(self, target: linux.StrPath) -> None:
        """Open the directory `target`, whose own path the caller answers for."""
        flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC
        self.root = self.fd = linux.open_file(target, flags)
        self.here = b""

    def open(self, path: bytes) -> int:
        """Return a descriptor of the directory `path`: it is open until the next is asked for."""
        # The entries of a directory come together: most ask for the same one as the last did.
        if path != self.here:
            fd = self.reach(path)
            if self.fd != self.root:
                os.close(self.fd)
            self.fd, self.here = fd, path
        return self.fd

    def reach(self, path: bytes) -> int:
        """Return a new descriptor of the directory `path`, which is the caller's to close.

        Raises OSError: ELOOP or ENOTDIR where a part of the path is no directory. See openat2(2).
        """
        return linux.openat2(self.root, path or b".", DIRECTORY, INSIDE)

    def close(self) -> None:
        """Close what is open."""
        for fd in {self.root, self.fd}:
            os.close(fd)
