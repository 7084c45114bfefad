"""The container's tree: an image's layers, or a directory, and on top what the container writes."""

from __future__ import annotations

import errno
import os

from stages.stage4_overlayfs import containers, storage
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.interrupts import stoppable, unstoppable
from stages.stage4_overlayfs.more.paths import Tree, owner_of
from stages.stage4_overlayfs.room import leave_room, make_room
from stages.stage4_overlayfs.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, Self

    from stages.stage4_overlayfs.options import Stacked
    from stages.stage4_overlayfs.storage import Layer


class Stack:
    """A container's tree, at `root` as long as the block lasts."""

    def __init__(self, container: Stacked) -> None:
        """Open the store; nothing is mounted yet."""
        self.container = container
        self.store = Store(container.store)
        self.driver = storage.choose(container.driver, container.store)
        self.root = self.id = self.user = ""
        self.made: list[tuple[int, str]] = []

    def __enter__(self) -> Self:
        """Make the container, unpack what was never unpacked, and mount it all."""
        try:
            with stoppable():
                self.make()
        except BaseException:
            self.give_up(keep=False)
            raise
        return self

    def make(self) -> None:
        """Make the container, and its tree."""
        # prune holds this lock alone: it sees the image used, or it comes before us.
        with self.store.locked(shared=True):
            manifest, layers = self.layers()
            name, fleeting = self.container.name, self.container.remove
            self.id, self.lock = containers.create(self.store, name, manifest, fleeting=fleeting)
            self.driver.prepare(layers)
            self.root = self.driver.mount(self.id, layers)
        self.container.user = user_of(self.root, self.user)
        self.made = make_room(self.root, self.container)

    def __exit__(self, *_: object) -> None:
        """Take the tree away; what was written stays, but for --rm."""
        self.give_up(keep=not self.container.remove)

    def give_up(self, *, keep: bool) -> None:
        """Unmount, and with `keep` leave what the container wrote."""
        if not self.id:
            return
        with unstoppable():
            try:
                leave_room(self.made)
                self.driver.unmount(self.id)
                if not keep:
                    containers.erase(self.store, self.id)
            finally:
                os.close(self.lock)

    def layers(self) -> tuple[str, Sequence[Layer]]:
        """Return the manifest's digest, "" for a directory, and the layers from the lowest up."""
        if not self.container.image:
            root = os.path.realpath(self.container.root)
            if not os.path.isdir(root):
                number = errno.ENOTDIR if os.path.exists(root) else errno.ENOENT
                call = f'chroot("{self.container.root}")'
                raise OSError(number, os.strerror(number), call)
            return "", [(root, unopened)]
        image = Image(self.store, self.resolve())
        self.follow(image)
        return image.digest, image.openers()

    def resolve(self) -> str:
        """Return the digest of the image's manifest."""
        name = self.container.image
        try:
            return self.store.resolve(name)
        except FileNotFoundError as error:
            if not os.path.isdir(name):
                raise
            why = f"no image has this name: for the directory say ./{name}"
            raise FileNotFoundError(errno.ENOENT, why, error.filename) from None

    def follow(self, image: Image) -> None:
        """Take from the image what the command line doesn't say: command, directory and user."""
        config = image.config.get("config") or {}
        if not self.container.command:
            words = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
            if not words:
                raise ValueError(f"{self.container.image}: the image has no command: say one")
            self.container.command = words
        self.user = config.get("User") or ""
        self.container.workdir = self.container.workdir or config.get("WorkingDir") or ""


def user_of(root: str, text: str) -> tuple[int, int] | None:
    """Return the uid and gid of an image's user; None for root."""
    return owner_of(Tree(root), text) if text not in ("", "0", "root") else None


def unopened() -> BinaryIO:
    """Be the opener of a directory, which has no tar."""
    raise AssertionError("a directory is used as it is")
