"""What a build's steps made, by what they were made of: cache/HEX in the store.

The key of a step is the SHA-256 of its parent's key and of all that it depends on; so a step that
differs changes the key of each that follows. An entry keeps nothing alive: it counts as long as
the blobs are there that the image up to its step needs, and prune takes it away with the first of
them, or at once where it needs none.
"""

from __future__ import annotations

import hashlib
import json
import os

from stages.stage4_overlayfs.image import encode
from stages.stage4_overlayfs.more.names import check_digest, is_hex
from stages.stage4_overlayfs.store import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import Any

    from stages.stage4_overlayfs.image import Layer
    from stages.stage4_overlayfs.store import Store

FORM = 1
"""The form of entries, and what goes into their keys: older ones are not found any more."""
LONGEST = 1 << 20
"""Bytes of an entry."""


def key_of(parent: str, *facts: object) -> str:
    """Return the key of a step: 64 digits."""
    return hashlib.sha256(encode([FORM, parent, *facts])).hexdigest()


class Step:
    """What a step made: a layer or none, and the line of the image's history."""

    def __init__(self, layer: Layer | None, history: dict[str, Any]) -> None:
        """Take both."""
        self.layer, self.history = layer, history


def find(store: Store, key: str) -> Step | None:
    """Return what the step with this key made, if all of it is still there."""
    table = read(f"{folder(store)}/{key}")
    if table is None or not all(map(store.has, table["needs"])):
        return None
    return Step(tuple(table["layer"]) if table["layer"] else None, table["history"])


def keep(store: Store, key: str, step: Step, needs: Sequence[str]) -> None:
    """Note what a step made; `needs` are the digests of the blobs up to it, its own included."""
    entry = {"needs": list(needs), "layer": step.layer, "history": step.history}
    with store.locked(shared=True), store.writing() as (file, temporary):
        file.write(encode(entry))
        file.flush()
        os.fsync(file.fileno())
        os.rename(temporary, f"{folder(store)}/{key}")
        sync(folder(store))


def unneeded(store: Store, blobs: Collection[str]) -> Iterator[str]:
    """Yield the paths of the entries that are of no use once only these blobs are there."""
    for name in sorted(os.listdir(folder(store))):
        path = f"{folder(store)}/{name}"
        table = read(path) if is_hex(name) else None
        if table is None or not table["needs"] or not all(one in blobs for one in table["needs"]):
            yield path


def folder(store: Store) -> str:
    """Return where the entries are."""
    path = f"{store.root}/cache"
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def read(path: str) -> dict[str, Any] | None:
    """Return an entry; None where there is none, or what is there is damaged."""
    try:
        with open(path, "rb") as file:
            table = json.loads(file.read(LONGEST))
        for digest in [*table["needs"], *(table["layer"] or [])[:2]]:
            check_digest(digest)
        if table["layer"] and [type(part) for part in table["layer"]] != [str, str, str, int]:
            return None
        told = table["history"]
        whole = isinstance(told["created"], str) and isinstance(told["created_by"], str)
        return table if whole else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
