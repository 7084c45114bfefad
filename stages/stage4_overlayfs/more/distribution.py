"""Images from a registry, and to one, byte for byte: on the way no digest becomes another.

`tell(what, digest, done, size)` hears how far each blob is, in bytes: FETCH or SEND as it moves,
THERE, once, for what needn't.
"""

from __future__ import annotations

import hashlib
from functools import partial

from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.importing import LIMIT
from stages.stage4_overlayfs.more.incoming import Budget
from stages.stage4_overlayfs.more.layout import for_this_machine, from_manifest
from stages.stage4_overlayfs.more.names import full_name
from stages.stage4_overlayfs.more.references import reference_to
from stages.stage4_overlayfs.more.registry import Registry
from stages.stage4_overlayfs.more.shapes import INDEXES, MANIFEST, MANIFESTS, MOST_BYTES, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from stages.stage4_overlayfs.store import Store

    Tell = Callable[[str, str, int, int], object]

FETCH, SEND, THERE = "fetch", "send", "there"


def silent(what: str, digest: str, done: int, size: int) -> None:
    """Tell nobody."""


def pull(store: Store, name: str, *, tell: Tell = silent, limit: int = LIMIT) -> Image:
    """Fetch an image, give it the name it was asked for by, and return it.

    `limit` is in bytes, of all layers when uncompressed. Raises OSError where the registry can't be
    reached, or refuses, and ValueError where what it sends is not what it should be; the store then
    has no new name.
    """
    reference = reference_to(name)
    if not reference.tag:
        raise ValueError(f"{name}: no tag, so it would have no name here: say NAME:TAG@DIGEST")
    remote = Remote(store, Registry(reference), tell, limit)
    with store.locked(shared=True):
        row = for_this_machine(remote, remote.row(reference.meant))
        if is_here(store, row["digest"]):
            image = Image(store, row["digest"])
            for digest, size in blobs_of(image):
                tell(THERE, digest, size, size)
        else:
            image = from_manifest(store, remote, row, Budget(limit))
        image.tag(full_name(name.partition("@")[0]))
    return image


def is_here(store: Store, digest: str) -> bool:
    """Return whether the store has an image: a name, and all that it leads to."""
    # Without a name it may be what a killed prune has left; with one, all of it was checked once.
    if digest not in store.names().values():
        return False
    try:
        return all(store.has(blob) for blob, _ in blobs_of(Image(store, digest)))
    except OSError:
        return False


def push(store: Store, name: str, target: str = "", *, tell: Tell = silent) -> str:
    """Send an image to where `target`, or its own name, leads; return its digest.

    Raises OSError where the registry can't be reached, or refuses, or where a blob of the store's
    is damaged, and ValueError for what is no name; the registry then has no new tag.
    """
    reference = reference_to(target or name)
    if reference.digest:
        raise ValueError(f"{target or name}: a digest is what comes of it: say a tag, NAME:TAG")
    with store.locked(shared=True):
        image = Image(store, store.resolve(name))
        registry = Registry(reference, push=True)
        for digest, size in blobs_of(image):
            if registry.has(digest):
                tell(THERE, digest, size, size)
            else:
                registry.send(digest, size, partial(told, store, digest, size, tell))
        # Last: whoever can fetch this can fetch all that it names.
        kind = image.manifest.get("mediaType", MANIFEST)
        return registry.send_manifest(reference.tag, kind, store.read(image.digest))


def blobs_of(image: Image) -> list[tuple[str, int]]:
    """Return digest and size of an image's layers and configuration, none of them twice."""
    blobs = {layer[1]: layer[3] for layer in image.layers}
    return [*blobs.items(), (image.config_digest, image.manifest["config"]["size"])]


def told(store: Store, digest: str, size: int, tell: Tell) -> Iterator[bytes]:
    """Yield a blob's bytes, and say how far it is."""
    done = 0
    for chunk in store.chunks(digest):
        yield chunk
        done += len(chunk)
        tell(SEND, digest, done, size)


class Remote:
    """A registry as a source of images: its documents and layers, by what points at them."""

    def __init__(self, store: Store, registry: Registry, tell: Tell, limit: int) -> None:
        """Take the registry; what the store has already is not fetched again."""
        self.store, self.registry, self.tell, self.left = store, registry, tell, limit
        self.what = registry.what
        self.manifests: dict[str, bytes] = {}

    def row(self, meant: str) -> dict[str, Any]:
        """Return what points at the manifest, or index, that a tag or a digest leads to."""
        kind, data = self.registry.manifest(meant)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.manifests[digest] = data
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def document(self, row: dict[str, Any]) -> bytes:
        """Return a manifest, an index or a configuration, once its size and digest are right."""
        digest, size = row["digest"], row["size"]
        what = f"{self.what}: {digest}"
        if size > MOST_BYTES:
            raise refused(what, f"longer than {MOST_BYTES} bytes")
        if row["mediaType"] in (*MANIFESTS, *INDEXES):
            data = self.manifests.get(digest) or self.registry.manifest(digest)[1]
            self.manifests[digest] = data
        else:
            data = b"".join(self.layer(row))
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest or len(data) != size:
            raise refused(what, f"it is {len(data)} bytes with the digest {found}")
        return data

    def layer(self, row: dict[str, Any]) -> Iterable[bytes]:
        """Return the bytes of a layer: those of the store, where it has them."""
        digest, size = row["digest"], row["size"]
        # gzip may be much longer than what is in it, too.
        self.left -= size
        if self.left < 0:
            raise refused(f"{self.what}: {digest}", "more bytes than an image may have")
        if self.store.has(digest):
            self.tell(THERE, digest, size, size)
            return self.store.chunks(digest)
        return self.fetched(digest, size)

    def fetched(self, digest: str, size: int) -> Iterator[bytes]:
        """Yield a blob's bytes, and say how far it is."""
        done = 0
        for chunk in self.registry.blob(digest, size):
            done += len(chunk)
            self.tell(FETCH, digest, done, size)
            yield chunk
