"""A container's root, for whoever copies from it or into it: of a live process, or mounted."""

from __future__ import annotations

import contextlib
import errno
import os

from stages import linux
from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.room import leave_room, look_up, make_room, mount_volume
from stages.stage5_container.more.lookup import find, made_again
from stages.stage5_container.more.rm import own_mounts
from stages.stage5_container.stack import Stack
from stages.stage5_container.state import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.state import State


@contextlib.contextmanager
def root_of(store: Store, word: str) -> Iterator[str]:
    """Give the path of a container's root: what it sees itself, where it runs."""
    state = find(store, word)
    facts = state.facts()
    if facts["status"] == "running" and is_alive(facts):
        top = linux.open_file(f"/proc/{facts['pid']}/root", linux.O_PATH | linux.O_CLOEXEC)
        try:
            # Its number may have become another's, before it was opened but not since.
            if not is_alive(facts):
                raise OSError(errno.ESRCH, "it has just ended: say it again", word)
            yield f"/proc/self/fd/{top}"
        finally:
            os.close(top)
        return
    with mounted(store, state) as root:
        yield root


@contextlib.contextmanager
def mounted(store: Store, state: State) -> Iterator[str]:
    """Mount what a container that doesn't run has written, with its volumes, for us alone."""
    own_mounts()
    # While we have it locked nobody starts it.
    lock = containers.occupy(state.folder)
    try:
        container = made_again(state)
        stack = Stack(container)
        with store.locked(shared=True):
            _, layers = stack.layers()
            stack.driver.prepare(layers)
            root = stack.driver.mount(state.id, layers)
        made = make_room(root, container)
        volumes = [one for one in container.volumes if one.source]
        top = linux.open_file(root, linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
        try:
            for one in volumes:
                mount_volume(top, one)
            yield root
        finally:
            # What was made to be mounted on can't be removed below a mount.
            for one in reversed(volumes):
                spot = look_up(top, one.target)
                linux.umount2(f"/proc/self/fd/{spot}", linux.MNT_DETACH)
                os.close(spot)
            os.close(top)
            leave_room(made)
            stack.driver.unmount(state.id)
    finally:
        os.close(lock)
