"""What overlay and AUFS have in common: layers stay apart, and so does what a container writes.

Each is a directory by itself. How they are put together differs, and how a deletion is written.
"""

from __future__ import annotations

import os

from stages.light import later
from stages.stage4_overlayfs.more.branches import Union
from stages.stage4_overlayfs.more.copies import copy_metadata
from stages.stage4_overlayfs.more.places import Places, digits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stages.stage4_overlayfs import pack
    from stages.stage4_overlayfs.more import changes, indexed
    from stages.stage4_overlayfs.more.branches import Marks
    from stages.stage4_overlayfs.more.changes import Comparison
    from stages.stage4_overlayfs.more.indexed import Index
    from stages.stage4_overlayfs.storage import Layer
    from stages.stage4_overlayfs.whiteouts import Form
else:
    pack = later("stages.stage4_overlayfs.pack")
    changes = later("stages.stage4_overlayfs.more.changes")
    indexed = later("stages.stage4_overlayfs.more.indexed")


class Layered:
    """A driver with a directory for each layer; it has to say how to mount them."""

    fleeting = False
    upper, merged = "upper", "merged"
    """What holds the container's changes, and where all is seen together."""
    links = ""
    """Where files are that were copied up under one of several names."""
    rest: tuple[str, ...] = ()
    """What else there is in a container's folder."""

    def __init__(self, root: str, name: str, form: Form, marks: Marks) -> None:
        """Take the store's folder, and how deletions are written."""
        self.places, self.form, self.marks = Places(root, name), form, marks

    def prepare(self, layers: Sequence[Layer]) -> None:
        """Unpack the layers that are not there yet."""
        for count, (name, opener) in enumerate(layers):
            if not name.startswith("/"):
                below = Union(self.below([name for name, _ in layers[:count]]), self.marks)
                self.places.unpack(digits(name), opener, self.form, below)

    def below(self, names: Sequence[str]) -> list[str]:
        """Return the layers' directories from the top down, as a union lists its branches."""
        layers = self.places.layers
        return [
            name if name.startswith("/") else f"{layers}/{digits(name)}/diff"
            for name in reversed(names)
        ]

    def make_own(self, container: str, layers: Sequence[Layer]) -> str:
        """Return the container's folder, made where there is none yet."""
        names = [name for name, _ in layers]

        def fill(draft: str) -> None:
            for name in (self.upper, self.merged, *self.rest):
                os.mkdir(f"{draft}/{name}", 0o755)
            self.places.note(draft, names)
            # The root is a directory like any other: as the image has it.
            for root in self.below(names)[:1]:
                copy_metadata(root, f"{draft}/{self.upper}", self.marks.attribute)

        own = self.places.own(container)
        self.places.appear(own, fill)
        return own

    def diff(self, container: str) -> list[tuple[str, str]]:
        """Return what the container changed, read from its own directory."""
        return self.compared(container, self.index(container)).listed()

    def commit(self, container: str) -> Iterator[bytes]:
        """Yield that directory as a layer's tar: it is one already, as a rule."""
        upper, index = self.places.own(container, self.upper), self.index(container)
        # What was renamed, or is another name of a file that was copied up, is not in there.
        if index or indexed.has_redirect(upper, self.marks):
            return changes.pack_changes(self.compared(container, index), self.places)
        return pack.pack(upper, self.form)

    def index(self, container: str) -> Index:
        """Return which files with several names were copied up under one of them."""
        return indexed.Index(self.places.own(container, self.links))

    def compared(self, container: str, index: Index) -> Comparison:
        """Compare the tree as it is now with the image's; mounted or not, it is all on the disk."""
        upper = self.places.own(container, self.upper)
        below = self.below(self.places.noted(container))
        now = Union([upper, *below], self.marks, index.find)
        # A file's other name may be anywhere; else only what is in that directory can differ.
        return changes.Comparison(Union(below, self.marks), now, guide="" if index else upper)

    def names(self, layers: Sequence[Layer]) -> list[str]:
        """Return the layers' names on the disk: their own, since each is unpacked by itself."""
        return [digits(name) for name, _ in layers if not name.startswith("/")]

    def discard(self, name: str) -> None:
        """Remove an unpacked layer that nothing uses."""
        self.places.vanish(f"{self.places.layers}/{name}")
