"""The kernel's overlay: an image's layers, read-only, below an upper directory of the container's.

A file that is written is first copied up, whole; one that is deleted leaves a whiteout in the upper
directory. Nothing below ever changes, so any number of containers share it.
See the kernel's filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os

from stages import linux
from stages.stage4_overlayfs.more.branches import OverlayMarks
from stages.stage4_overlayfs.more.layered import Layered
from stages.stage4_overlayfs.more.places import remove_tree, take_away
from stages.stage4_overlayfs.more.short import shorten
from stages.stage4_overlayfs.whiteouts import OverlayForm, in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.storage import Layer


class Overlay(Layered):
    """The driver: layers are directories, and the kernel puts them together."""

    # The work directory is overlay's own: a file is copied up there, and then renamed, so that
    # half a file is never seen. Both are of one container only: what two mounts do to one upper
    # directory at once is undefined.
    links, rest = "work/index", ("work", "none")

    def __init__(self, root: str) -> None:
        """Take the store's folder."""
        form = OverlayForm()
        super().__init__(root, "overlay", form, OverlayMarks(form.prefix))
        self.short = f"{self.places.layers}/l"

    def prepare(self, layers: Sequence[Layer]) -> None:
        """Unpack the layers that are not there yet."""
        # Where a layer was unpacked, that has been tried; nobody has tried a directory's.
        if not all(map(self.is_there, (name for name, _ in layers))):
            self.try_whiteout()
        super().prepare(layers)

    def is_there(self, name: str) -> bool:
        """Return whether a layer is unpacked; a directory is none."""
        return not name.startswith("/") and os.path.isdir(*self.below([name]))

    def mount(self, container: str, layers: Sequence[Layer]) -> str:
        """Put the layers and the container's upper directory together; return where."""
        own = self.make_own(container, layers)
        lower = ":".join(self.lower(container))
        # All names have to fit into one page, so they are short, and relative to one directory.
        here = linux.open_file(".", linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
        linux.chdir(self.short)
        try:
            upper = f"upperdir={self.own(container)}/upper,workdir={self.own(container)}/work"
            options = f"{self.unsaved(container)}{features()},{upper},lowerdir={lower}"
            linux.mount("overlay", f"{own}/merged", "overlay", 0, options)
        finally:
            os.fchdir(here)
            os.close(here)
        return f"{own}/merged"

    def unsaved(self, container: str) -> str:
        """Return how nothing is saved to the disk, where nobody wants it afterwards.

        To unmount an overlay is to sync all of the file system below it, unless it is volatile.
        """
        if not self.fleeting or too_old():
            return ""
        # The kernel mounts such a one once, and never again while its mark is there, for something
        # may be lost since: after a kill of the runtime nothing is, unless the machine was off.
        if os.path.isdir(mark := self.places.own(container, "work/work/incompat")):
            remove_tree(mark)
        return "volatile,"

    def lower(self, container: str) -> list[str]:
        """Return the names of the directories below, from the top down."""
        os.makedirs(self.short, 0o710, exist_ok=True)
        names = []
        for folder in self.below(self.places.noted(container)):
            # A colon parts names, and a comma options: a link to a directory has neither.
            if folder.startswith(f"{self.places.layers}/"):
                names.append(shorten(folder, self.short))
            else:
                names.append(f"{self.own(container)}/{shorten(folder, self.places.own(container))}")
        return names or [f"{self.own(container)}/none"]

    def own(self, container: str) -> str:
        """Return the container's folder as seen from the directory of short names."""
        return f"../../../containers/{container}/overlay"

    def try_whiteout(self) -> None:
        """See whether the store is where a whiteout can be; raise OSError (EPERM) if not."""
        draft = self.places.draft()
        try:
            linux.mknod(f"{draft}/whiteout", linux.S_IFCHR, 0, 0)
        finally:
            self.places.drop(draft)

    def unmount(self, container: str) -> None:
        """Take the mount away; the upper directory stays."""
        take_away(self.places.own(container, "merged"))

    def remove(self, container: str) -> None:
        """Remove the upper directory, and with it all that the container wrote."""
        self.unmount(container)
        self.places.forget(container)

    def discard(self, name: str) -> None:
        """Remove an unpacked layer that nothing uses, and its short name."""
        if os.path.isdir(self.short):
            short = shorten(f"{self.places.layers}/{name}/diff", self.short)
            os.unlink(f"{self.short}/{short}")
        super().discard(name)


def too_old() -> bool:
    """Return whether this kernel knows no volatile overlay: it is before Linux 5.10."""
    major, minor = os.uname().release.split("-")[0].split(".")[:2]
    return (int(major), int(minor)) < (5, 10)


def features() -> str:
    """Return the options without which a union is less than an ordinary file system."""
    # Attributes named trusted. take CAP_SYS_ADMIN of the whole machine. With those named user.,
    # which anybody may write, the kernel finds no file by its handle, and follows no redirect.
    if in_user_namespace():
        return "userxattr"
    # index: hard links stay links when one of them is copied up. redirect_dir: a directory can be
    # renamed, else rename(2) fails with EXDEV. metacopy: a file is copied up whole, not its
    # status alone.
    return "index=on,redirect_dir=on,metacopy=off"
