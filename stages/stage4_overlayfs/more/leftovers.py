"""What processes that were killed have left in a store, and nobody can want.

Containers that were to be removed at their end, or were never mounted; those that a build ran its
steps in; files that were being written. With the store's lock alone there is nobody who writes.
"""

from __future__ import annotations

import os

from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.more.build import PREFIX, sweep
from stages.stage4_overlayfs.more.places import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.store import Store


def leftovers(store: Store) -> list[str]:
    """Return the paths of what is left."""
    with store.locked(shared=False):
        folder = f"{store.root}/containers"
        names = {*containers.abandoned(store), *builds(store)}
        files = [f"{store.root}/tmp/{name}" for name in sorted(os.listdir(f"{store.root}/tmp"))]
        return [f"{folder}/{name}" for name in sorted(names)] + files


def remove_leftovers(store: Store) -> list[str]:
    """Remove it, mounts and all; return the containers' names. Raises OSError."""
    with store.locked(shared=False):
        gone = containers.abandoned(store)
        for identity in gone:
            containers.erase(store, identity)
        for name in builds(store):
            if driver := containers.driver_of(store, name):
                gone += sweep(store, driver)
        for name in os.listdir(f"{store.root}/tmp"):
            path = f"{store.root}/tmp/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                remove_tree(path)
            else:
                os.unlink(path)
    return sorted({*gone})


def builds(store: Store) -> list[str]:
    """Return the names of the containers that builds have left."""
    return [one for one in os.listdir(f"{store.root}/containers") if one.startswith(PREFIX)]
