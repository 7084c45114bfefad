"""Plain copies: what a union file system saves us from.

A layer's tree is its parent's, copied, with the layer applied to it; a container's is a copy of the
topmost layer's. Each costs the whole image again, in bytes and in time.
"""

from __future__ import annotations

import os

from stages.stage4_overlayfs.more.branches import NoMarks, Union
from stages.stage4_overlayfs.more.changes import Comparison
from stages.stage4_overlayfs.more.copies import Copies
from stages.stage4_overlayfs.more.places import Places, chain
from stages.stage4_overlayfs.whiteouts import ApplyForm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stages.stage4_overlayfs.storage import Layer


class Vfs:
    """The driver: no mount and no layers on the disk, only whole trees."""

    fleeting = False

    def __init__(self, root: str) -> None:
        """Take the store's folder."""
        self.places = Places(root, "vfs")

    def prepare(self, layers: Sequence[Layer]) -> None:
        """Make the tree of each layer with all that is below it, where it isn't there yet."""
        below = None
        for name, (plain, opener) in zip(self.chain(layers), layers, strict=True):
            if not plain.startswith("/"):
                self.places.unpack(name, opener, ApplyForm(), below)
            below = Union([self.tree(name)], NoMarks())

    def chain(self, layers: Sequence[Layer]) -> list[str]:
        """Return what stands for each layer and all below it: a name, or a directory's path."""
        if layers and layers[0][0].startswith("/"):
            if len(layers) > 1:
                raise ValueError(f"vfs has no layers on a directory: {layers[0][0]}: import it")
            return [layers[0][0]]
        return chain(layers)

    def tree(self, name: str) -> str:
        """Return the path of a layer's tree."""
        return name if name.startswith("/") else f"{self.places.layers}/{name}/diff"

    def mount(self, container: str, layers: Sequence[Layer]) -> str:
        """Copy the topmost layer's tree for the container, unless it has one; return where."""

        def fill(draft: str) -> None:
            names = self.chain(layers)[-1:]
            self.places.note(draft, names)
            os.mkdir(f"{draft}/tree", 0o755)
            if names:
                with Copies(f"{draft}/tree") as copies:
                    copies.tree(self.tree(names[0]))
            self.places.stamp(draft)

        self.places.appear(self.places.own(container), fill)
        return self.places.own(container, "tree")

    def unmount(self, container: str) -> None:
        """Nothing: nothing is mounted."""

    def compared(self, container: str) -> Comparison:
        """Compare the copy with what it was made of."""
        names = self.places.noted(container)
        before = Union([self.tree(name) for name in names], NoMarks())
        after = Union([self.places.own(container, "tree")], NoMarks())
        return Comparison(before, after, self.places.stamped(container))

    def diff(self, container: str) -> list[tuple[str, str]]:
        """Return what the container changed: every file of both trees has to be looked at."""
        return self.compared(container).listed()

    def commit(self, container: str) -> Iterator[bytes]:
        """Yield that as a layer's tar."""
        return self.compared(container).packed()

    def remove(self, container: str) -> None:
        """Remove the copy."""
        self.places.forget(container)

    def names(self, layers: Sequence[Layer]) -> list[str]:
        """Return the names of the trees: each stands for a layer with all below it."""
        return [name for name in self.chain(layers) if not name.startswith("/")]

    def discard(self, name: str) -> None:
        """Remove a tree that nothing uses; what was copied from it stays whole."""
        self.places.vanish(f"{self.places.layers}/{name}")
