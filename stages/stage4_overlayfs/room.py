"""Room for mounts: an image needs no /proc and no /data, the container's own layer has them."""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.stage4_overlayfs.more.paths import Tree
from stages.stage4_overlayfs.options import TMPFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.options import Stacked, Volume


def make_room(root: str, container: Stacked) -> list[tuple[int, str]]:
    """Make what is to be mounted on in the tree `root`; return what was made, the last one last.

    Each is a descriptor of the directory it is in, and its name. Raises OSError.
    """
    made: list[tuple[int, str]] = []
    if "mnt" not in container.namespaces:
        return made
    top = linux.open_file(root, linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
    try:
        for name in ("proc", "sys", "dev"):
            os.close(place(top, name, True, made))
        for one in container.volumes:
            if one.source and not os.path.exists(one.source):
                os.makedirs(one.source, 0o755)  # as Docker does
            os.close(spot_for(top, one, made))
    except BaseException:
        leave_room(made)
        raise
    finally:
        os.close(top)
    return made


def leave_room(made: list[tuple[int, str]]) -> None:
    """Remove again what is still empty: nobody asked for it, so it is no change of the container's.

    What has been filled or renamed meanwhile is the container's, and stays.
    """
    for folder, name in reversed(made):
        path = f"/proc/self/fd/{folder}/{name}"
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                linux.rmdir(path)
            elif os.path.isfile(path) and not os.path.getsize(path):
                linux.unlink(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise
        finally:
            os.close(folder)


def spot_for(top: int, one: Volume, made: list[tuple[int, str]]) -> int:
    """Return a descriptor of where a volume is to be: what is there has to be of its kind."""
    directory = not one.source or os.path.isdir(one.source)
    spot = place(top, one.target, directory, made)
    if os.path.isdir(f"/proc/self/fd/{spot}") != directory:
        os.close(spot)
        number = errno.ENOTDIR if directory else errno.EISDIR
        raise OSError(number, os.strerror(number), one.asked)
    return spot


def place(top: int, path: str, directory: bool, made: list[tuple[int, str]]) -> int:
    """Return a descriptor of what is at `path` below `top`, made step by step where nothing is.

    A link in an image leads inside the image, wherever it points: the kernel sees to that.
    """
    parts = Tree(f"/proc/self/fd/{top}").resolve(path).split("/")
    at = look_up(top, ".")
    for count, part in enumerate(parts, 1):
        above, whole = at, "/".join(parts[:count])
        try:
            try:
                at = look_up(top, whole)
            except FileNotFoundError:
                make(f"/proc/self/fd/{above}/{part}", count < len(parts) or directory)
                made.append((os.dup(above), part))
                at = look_up(top, whole)
        finally:
            os.close(above)
    return at


def make(path: str, directory: bool) -> None:
    """Make an empty directory, or an empty file."""
    if directory:
        linux.mkdir(path, 0o755)
    else:
        flags = linux.O_WRONLY | linux.O_CREAT | os.O_EXCL | linux.O_CLOEXEC
        os.close(linux.open_file(path, flags, 0o644))


def look_up(top: int, path: str) -> int:
    """Return a descriptor of a path below `top`; no link leads above it. See openat2(2)."""
    bounds = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    return linux.openat2(top, path, linux.O_PATH | linux.O_CLOEXEC, bounds)


def cover(container: Stacked) -> None:
    """In the child: mount the volumes in the root that we stand in, and close what is read-only."""
    top = linux.open_file(".", linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
    try:
        for one in container.volumes:
            mount_volume(top, one)
    finally:
        os.close(top)
    if container.read_only:
        # This mount alone: /dev, volumes and tmpfs are mounts of their own.
        linux.mount_setattr(".", 0, linux.MOUNT_ATTR_RDONLY)


def mount_volume(top: int, one: Volume) -> None:
    """Mount a volume, or an empty tmpfs."""
    # By its descriptor: between a look at a path and a mount there somebody could change a link.
    # The place may be in another volume: there it is made, and stays, as with Docker.
    spot = spot_for(top, one, [])
    try:
        if not one.source:
            linux.mount("tmpfs", f"/proc/self/fd/{spot}", "tmpfs", TMPFS, "mode=1777")
            return
        flags = linux.MS_BIND | linux.MS_REC
        linux.mount(one.source, f"/proc/self/fd/{spot}", None, flags)
    finally:
        os.close(spot)
    if one.read_only:
        # The descriptor still is what is below the mount: the path now leads to what is on top.
        spot = look_up(top, one.target)
        path, recursive = f"/proc/self/fd/{spot}", linux.AT_RECURSIVE
        linux.mount_setattr(path, recursive, linux.MOUNT_ATTR_RDONLY)
        os.close(spot)
