"""Storage drivers: one seam, and behind it four ways to give each container files of its own.

A layer is what one step of an image changed. It is unpacked once, into `layers/DRIVER/NAME/`, and
stays as it is. What a container writes is in `containers/ID/DRIVER/`. How the two become one tree
is what the drivers differ in.
"""

from __future__ import annotations

import errno

from stages.light import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO, Protocol

    Layer = tuple[str, Callable[[], BinaryIO]]
    """Its diff_id and what opens its tar, uncompressed; or a directory's path, used as it is."""

    class Driver(Protocol):
        """The seam: what the rest asks of a driver. Layers are listed from the lowest up."""

        fleeting: bool
        """Whether nothing that a container writes needs to reach the disk."""

        def prepare(self, layers: Sequence[Layer]) -> None:
            """Unpack the layers that are not there yet."""

        def mount(self, container: str, layers: Sequence[Layer]) -> str:
            """Make the container's tree in this mount namespace, again or new; return its path."""

        def unmount(self, container: str) -> None:
            """Take the tree away; what was written stays. No error where there is none."""

        def diff(self, container: str) -> list[tuple[str, str]]:
            """Return what it changed: "A"dded, "C"hanged or "D"eleted, and the path, sorted."""

        def commit(self, container: str) -> Iterator[bytes]:
            """Yield what it changed as a layer's tar."""

        def remove(self, container: str) -> None:
            """Remove what it wrote, mounted or not. No error where there is nothing."""

        def names(self, layers: Sequence[Layer]) -> list[str]:
            """Return what the layers are called below `layers/DRIVER/`."""

        def discard(self, name: str) -> None:
            """Remove one of those, which no container and no image uses any more."""


DRIVERS = {
    "overlay": "stages.stage4_overlayfs.overlay:Overlay",
    "vfs": "stages.stage4_overlayfs.more.vfs:Vfs",
    "aufs": "stages.stage4_overlayfs.more.aufs:Aufs",
    "devicemapper": "stages.stage4_overlayfs.more.devicemapper:DeviceMapper",
}

CAUSES = {
    # how the call begins, errno: what it means here, and the remedy
    ('mount("overlay"', errno.ENODEV): "this kernel has no overlay file system: `modprobe overlay`,"
    " or say --storage-driver vfs",
    ('mount("overlay"', errno.EPERM): "it takes CAP_SYS_ADMIN: run it with sudo, or add user to "
    "--namespaces (Linux 5.11)",
    ('mount("overlay"', errno.EINVAL): "the store's file system can't carry an upper layer (an "
    "overlay can't, nor can NFS), or there are more than 500 layers, or something is mounted in an "
    "ordinary user's ROOT: keep the store elsewhere, or say --storage-driver vfs",
    ('mount("overlay"', errno.EBUSY): "the container's upper layer is mounted already: end what "
    "runs in it first",
    ('mount("overlay"', errno.ESTALE): "a layer below was replaced since the container was made: "
    "remove the container and make it again",
    (
        "mknod",
        errno.EPERM,
    ): "the store's file system takes no whiteouts (an overlay takes none), or "
    "a devices cgroup forbids them: keep the store elsewhere, or say --storage-driver vfs",
    ("--volume", errno.ENOTDIR): "SRC is a directory, and DST is a file there: name another DST",
    ("--volume", errno.EISDIR): "SRC is a file, and DST is a directory there: name another DST",
    ("--tmpfs", errno.ENOTDIR): "DST is a file there: name another",
    ("openat2", errno.ENOTDIR): "a part of DST, the path inside, is a file there: name another DST",
    ('mkdir("/proc/self/fd', errno.EROFS): "DST is to be in a volume that is read-only: make it "
    "there first, outside",
    ("mount", errno.ENOSPC): "the limit of mounts is reached: see fs.mount-max",
    ("dmsetup targets", errno.EIO): "this kernel has no device mapper "
    "(CONFIG_BLK_DEV_DM): `modprobe dm-mod`, or say --storage-driver overlay",
    ("modprobe dm-thin-pool", errno.EIO): "this kernel has no thin snapshots of devices "
    "(CONFIG_DM_THIN_PROVISIONING): say --storage-driver overlay",
    ("dmsetup create", errno.EPERM): "devices are for root alone: run it with sudo, or say "
    "--storage-driver overlay",
    ("dmsetup", errno.ENOENT): "install dmsetup, or say --storage-driver overlay",
    ("mkfs.ext4", errno.ENOENT): "install e2fsprogs, or say --storage-driver overlay",
    ("losetup", errno.ENOENT): "install util-linux, or say --storage-driver overlay",
    ("mfusepy", errno.ENOENT): "the union in user space needs the library mfusepy and libfuse: "
    "`pip install mfusepy`, and the package libfuse3-3 or fuse3; or say --storage-driver overlay",
    ("flock", errno.EAGAIN): "the container's branch is mounted already: end what runs in it first",
    ('open("/dev/fuse"', errno.ENOENT): "this kernel has no FUSE: `modprobe fuse`, or say "
    "--storage-driver overlay",
}


def choose(name: str, root: str) -> Driver:
    """Return the driver `name` for the store below `root`; ValueError where there is none such."""
    if name not in DRIVERS:
        raise ValueError(f"no storage driver is called {name}: choose {', '.join(DRIVERS)}")
    # What is not chosen is not loaded either. The parent chooses, long before there is another
    # root in which an import could look for its file.
    module, _, kind = DRIVERS[name].partition(":")
    driver: Driver = getattr(import_module(module), kind)(root)
    return driver


def why(error: OSError) -> str:
    """Return the cause of a driver's failed call and the remedy, "" where we know no more."""
    words = str(error.filename)
    for (call, number), cause in CAUSES.items():
        if words.startswith(call) and number == error.errno:
            return cause
    # A file's name, where a kernel's call has its arguments.
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and "(" not in words:
        return "make room where the store is: `image prune` removes what nobody needs"
    return ""
