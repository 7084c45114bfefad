"""The container's tree, as in stage 4, but one that is there again when it is started again."""

from __future__ import annotations

import errno
import os
import time

from stages.light import later
from stages.stage4_overlayfs import containers, stack
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.room import make_room
from stages.stage5_container.confine import identify
from stages.stage5_container.more.names import new_names
from stages.stage5_container.network import etc_files
from stages.stage5_container.process import home_of
from stages.stage5_container.state import State, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stages.stage5_container.more import volumes
    from stages.stage5_container.options import Contained
else:
    volumes = later("stages.stage5_container.more.volumes")


class Stack(stack.Stack):
    """A container's tree, at `root` as long as the block lasts; its `state` stays."""

    container: Contained
    state: State

    def __init__(self, container: Contained) -> None:
        """Open the store; nothing is mounted yet."""
        super().__init__(container)
        self.known = bool(container.id)
        self.config: dict[str, Any] = {}

    def make(self) -> None:
        """Make the container, or find it; and its tree, as it was left."""
        container, new = self.container, not self.known
        with self.store.locked(shared=True):
            manifest, layers = self.layers()
            if not container.image:
                container.follow({})
            if new:
                self.create(manifest)
            else:
                self.lock = self.occupy()
                self.id = container.id
                if container.remove:
                    # It was made with --rm, and wanted until now: it hadn't run.
                    containers.forsake(self.store, self.id)
            self.state = State(self.store, self.id)
            container.id, container.folder = self.id, self.state.folder
            container.settle(self.config)
            if new:
                container.add_volumes(self.config)
                self.record()
            self.state.begin()
            self.driver.fleeting = container.remove and not container.keep
            self.driver.prepare(layers)
            self.root = self.driver.mount(self.id, layers)
        container.identity = identify(self.root, container.user)
        container.environment.setdefault(b"HOME", home_of(self.root, container.identity[0]))
        if container.volumes or container.anonymous:
            volumes.fill(container.store, self.root, container.volumes, container.anonymous)
        container.volumes += etc_files(container, "")
        self.made = make_room(self.root, container)

    def occupy(self) -> int:
        """Return the lock of a container that is there; raise OSError, EBUSY, while it runs."""
        folder = f"{self.store.root}/containers/{self.container.id}"
        try:
            lock = containers.occupy(folder)
        except BlockingIOError:
            why = "it runs already, or somebody is just starting it"
            raise OSError(errno.EBUSY, why, self.container.name) from None
        if not os.path.exists(f"{folder}/config.json"):
            # The file that is locked is all there is, and nobody's but ours.
            os.unlink(f"{folder}/running")
            os.rmdir(folder)
            os.close(lock)
            raise FileNotFoundError(errno.ENOENT, "it has just been removed", self.container.name)
        return lock

    def create(self, manifest: str) -> None:
        """Make its folder; without a name it gets one."""
        container = self.container
        for name in [container.name] if container.name else new_names(self.store):
            try:
                fleeting = container.remove and not container.keep
                self.id, self.lock = containers.create(
                    self.store, name, manifest, fleeting=fleeting
                )
                container.name = name
                return
            except FileExistsError:
                # Another took it since: but one that was asked for has to be it.
                if container.name:
                    raise
        raise FileExistsError(errno.EEXIST, "say another", "--name")

    def record(self) -> None:
        """Write down how it was made."""
        container = self.container
        told = {"created": time.time_ns(), "image": container.image or container.root}
        told["command"] = [ascii(word)[1:-1] for word in container.command]
        write(f"{self.state.folder}/config.json", container.saved | told)
        if container.cidfile:
            with open(container.cidfile, "x", encoding="ascii") as file:
                file.write(self.id)

    def give_up(self, *, keep: bool) -> None:
        """Unmount, and with `keep` leave what the container wrote."""
        # One that was there before stays, also where it could not be started.
        keep |= self.container.keep or (self.known and not self.container.remove)
        super().give_up(keep=keep)
        if not keep:
            for name in self.container.anonymous:
                volumes.discard(self.store, name)

    def follow(self, image: Image) -> None:
        """Take from the image what the command line doesn't say."""
        self.config = image.config.get("config") or {}
        self.container.follow(self.config)


def config_of(state: State) -> dict[str, Any]:
    """Return what the image of a container says: none where it is of a directory."""
    try:
        with open(f"{state.folder}/image", encoding="ascii") as file:
            digest = file.read().strip()
    except FileNotFoundError:
        return {}
    return Image(state.store, digest).config.get("config") or {}
