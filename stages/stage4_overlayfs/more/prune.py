"""Garbage collection: what no name and no container leads to goes, and so do leftovers.

It has the lock alone. Whoever adds to the store shares the lock from the first blob until a name
leads to the last, so that what looks unused here is not on its way to be used.
"""

from __future__ import annotations

import os
import shutil

from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.cache import unneeded
from stages.stage4_overlayfs.more.names import is_hex, shown
from stages.stage4_overlayfs.more.verify import references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stages.stage4_overlayfs.store import Store


class Pruned:
    """What was removed; `layers` are unpacked ones as (driver, diff_id), `size` is in bytes.

    `steps` are what builds remember: they keep no blob, and go with the first that they need.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.blobs: list[str] = []
        self.layers: list[tuple[str, str]] = []
        self.leftovers: list[str] = []
        self.steps: list[str] = []
        self.size = 0


def prune(
    store: Store, remove_layer: Callable[[str, str], None] | None = None, *, dry_run: bool = False
) -> Pruned:
    """Remove what nobody needs, and return what that was; with `dry_run`, only return it.

    `remove_layer(driver, diff_id)` removes a layer as its storage driver has unpacked it; without
    it those stay. Raises ValueError, or OSError, where an image can't be read: nobody knows then
    what it needs, and nothing is removed.
    """
    with store.locked(shared=False):
        blobs, layers = needed(store)
        gone = Pruned()
        for driver, diff_id in unpacked(store) if remove_layer else ():
            if diff_id not in layers:
                gone.layers.append((driver, diff_id))
                if remove_layer and not dry_run:
                    remove_layer(driver, diff_id)
        for path in list(unneeded(store, blobs)):
            gone.steps.append(os.path.basename(path))
            remove(path, gone, dry_run)
        for entry in sorted(os.listdir(f"{store.root}/blobs/sha256")):
            if is_hex(entry) and f"sha256:{entry}" not in blobs:
                gone.blobs.append(f"sha256:{entry}")
                remove(f"{store.root}/blobs/sha256/{entry}", gone, dry_run)
        for entry in sorted(os.listdir(f"{store.root}/tmp")):
            gone.leftovers.append(entry)
            remove(f"{store.root}/tmp/{entry}", gone, dry_run)
    return gone


def needed(store: Store) -> tuple[set[str], set[str]]:
    """Return the digests of the blobs, and the diff_ids of the layers, that are in use."""
    blobs: set[str] = set()
    layers: set[str] = set()
    for who, digest in references(store):
        if digest in blobs:
            continue
        try:
            image = Image(store, digest)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ValueError(
                f"{shown(who)}: {why}: nothing is removed before `image verify` has no faults"
            ) from None
        blobs |= {digest, image.config_digest, *(layer[1] for layer in image.layers)}
        layers |= {layer[0] for layer in image.layers}
    return blobs, layers


def unpacked(store: Store) -> Iterator[tuple[str, str]]:
    """Yield the layers that a storage driver has unpacked: the driver, and the diff_id."""
    for driver in sorted(os.listdir(f"{store.root}/layers")):
        for entry in sorted(os.listdir(f"{store.root}/layers/{driver}")):
            if is_hex(entry):
                yield driver, f"sha256:{entry}"


def remove(path: str, gone: Pruned, dry_run: bool) -> None:
    """Count a file or a directory, and remove it."""
    gone.size += os.lstat(path).st_size
    if dry_run:
        return
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
