"""AUFS: the union that Docker began with, and whose whiteouts are in every image to this day.

Linux never took it in. Where a kernel has it nevertheless it is used; elsewhere a small union of
our own does the same with the same branches, through FUSE (`union.py`).
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from importlib.util import find_spec

from stages import linux
from stages.stage4_overlayfs.more.branches import AufsMarks
from stages.stage4_overlayfs.more.layered import Layered
from stages.stage4_overlayfs.more.places import take_away
from stages.stage4_overlayfs.whiteouts import AufsForm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.storage import Layer

PATIENCE = 5
"""Seconds that the union in user space is given to end."""


def in_kernel() -> bool:
    """Say whether this kernel has AUFS."""
    with open("/proc/filesystems", encoding="ascii") as file:
        return any(line.split()[-1] == "aufs" for line in file)


class Aufs(Layered):
    """The driver: each layer is a branch, and so is what the container writes."""

    # Beside the branch, so that it is a layer and nothing else; AUFS has the like inside, in
    # `.wh..wh.plnk` and `.wh..wh.orph`.
    upper, links, rest = "rw", "links", ("work", "orphans", "links")

    def __init__(self, root: str) -> None:
        """Take the store's folder."""
        super().__init__(root, "aufs", AufsForm(), AufsMarks())

    def mount(self, container: str, layers: Sequence[Layer]) -> str:
        """Mount the container's own branch on top of the layers; return where."""
        own = self.make_own(container, layers)
        mount = mount_in_kernel if in_kernel() else mount_in_user_space
        mount(own, self.below(self.places.noted(container)))
        return f"{own}/merged"

    def unmount(self, container: str) -> None:
        """Take the mount away, and wait for the process behind it; the branch stays."""
        own = self.places.own(container)
        end = time.monotonic() + PATIENCE
        while True:
            take_away(f"{own}/merged")
            # Where a runtime was killed as it mounted, its union may still be on the way there.
            try:
                os.close(lock(own))
                return
            except FileNotFoundError:
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.005)

    def remove(self, container: str) -> None:
        """Remove the branch, and with it all that the container wrote."""
        self.unmount(container)
        self.places.forget(container)


def mount_in_kernel(own: str, below: Sequence[str]) -> None:
    """Mount with AUFS itself, a branch at a time: the options of one mount(2) fit into a page."""
    merged = f"{own}/merged"
    linux.mount("none", merged, "aufs", 0, f"br={own}/rw=rw,dio,xino={own}/work/xino")
    try:
        for folder in below:
            # ro+wh: its whiteouts hide what is in the branches below it.
            linux.mount("none", merged, "aufs", linux.MS_REMOUNT, f"append:{folder}=ro+wh")
    except OSError:
        linux.umount2(merged, linux.MNT_DETACH)
        raise


def mount_in_user_space(own: str, below: Sequence[str]) -> None:
    """Start the union in user space; return when it is mounted."""
    os.close(linux.open_file("/dev/fuse", linux.O_RDWR | linux.O_CLOEXEC))
    if not find_spec("mfusepy"):
        raise OSError(errno.ENOENT, "there is no such Python library", "mfusepy")
    # The union's process inherits the lock, and with it the lock ends.
    held = lock(own, linux.O_CREAT)
    try:
        line = [sys.executable, "-m", "stages.stage4_overlayfs.more.union"]
        line += [own, f"{own}/merged", *below]
        linux.request("mfusepy: mount the union", run, line, held)
    finally:
        os.close(held)


def lock(own: str, flags: int = 0) -> int:
    """Lock a container's branch; raise BlockingIOError where there is a union of it."""
    flags |= linux.O_RDWR | linux.O_CLOEXEC
    fd = linux.open_file(f"{own}/alive", flags, 0o600)
    try:
        linux.flock(fd, linux.LOCK_EX | linux.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def run(line: list[str], held: int) -> None:
    """Run a program to its end; raise OSError with what it says where it fails."""
    # It is to find the modules that this program runs with, wherever they are.
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    ended = subprocess.run(
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=paths,
        pass_fds=[held],
        # Ctrl-C is for the command, and the mount outlives it.
        start_new_session=True,
    )
    if ended.returncode:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(errno.EIO, lines[-1] if lines else f"it ended with {ended.returncode}")
