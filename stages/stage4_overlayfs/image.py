"""An image: a manifest, which names a configuration and the layers that make a root file system.

A layer is a tar of what changed against the layers below it. It has two digests: of the tar itself,
its diff_id, which the configuration lists; and of the blob, which may be that tar compressed, in
the manifest. Each of these documents is kept byte for byte as it came: its digest is its name.
"""

from __future__ import annotations

import io

from stages.light import later
from stages.stage4_overlayfs.more.shapes import (
    CONFIG,
    LAYER,
    LAYERS,
    MANIFEST,
    check_config,
    check_manifest,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib
    import json
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, BinaryIO

    from stages.stage4_overlayfs.more import compression
    from stages.stage4_overlayfs.store import Store

    Layer = tuple[str, str, str, int]
    """diff_id, digest of the blob, media type, bytes of the blob."""
else:
    compression = later("stages.stage4_overlayfs.more.compression")
    hashlib = later("hashlib")
    json = later("json")


class Image:
    """An image in a store: `config` and `manifest` as they were read, `layers` lowest first."""

    def __init__(self, store: Store, digest: str) -> None:
        """Read the two documents; raise OSError, or ValueError where they are not an image's."""
        self.store, self.digest = store, digest
        self.manifest = check_manifest(digest, store.read(digest))
        self.config_digest: str = self.manifest["config"]["digest"]
        self.config = check_config(self.config_digest, store.read(self.config_digest))
        diff_ids = self.config["rootfs"].get("diff_ids") or []
        if len(diff_ids) != len(self.manifest["layers"]):
            raise ValueError(
                f"{digest}: {len(self.manifest['layers'])} layers, and diff_ids for "
                f"{len(diff_ids)}: fetch the image again, or ask who made it"
            )
        self.layers: list[Layer] = [
            (diff_id, row["digest"], row["mediaType"], row["size"])
            for diff_id, row in zip(diff_ids, self.manifest["layers"], strict=True)
        ]

    def openers(self) -> list[tuple[str, Callable[[], BinaryIO]]]:
        """Return the diff_id of each layer, and what opens it: as a storage driver wants them."""
        return [(layer[0], self.opener(layer)) for layer in self.layers]

    def opener(self, layer: Layer) -> Callable[[], BinaryIO]:
        """Return what opens a layer's tar."""
        return lambda: open_layer(self.store, layer)

    def tag(self, reference: str) -> None:
        """Give it a name, once all that it refers to is there."""
        with self.store.locked(shared=True):
            for _, digest, _, _ in self.layers:
                self.store.open(digest).close()
            self.store.tag(reference, self.digest)


def new(store: Store, config: dict[str, Any] | bytes, layers: Sequence[Layer]) -> Image:
    """Make an image of layers that are in the store, lowest first, and return it, without a name.

    `config` is the configuration: its bytes, if they are to stay as they are, or an object, whose
    diff_ids are then written anew. The caller holds the store's lock, shared, until it has tagged.
    """
    if not isinstance(config, bytes):
        diff_ids = [diff_id for diff_id, _, _, _ in layers]
        config = encode({**config, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    digest, size = store.add([config])
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest, "size": size},
        "layers": [
            {"mediaType": kind, "digest": blob, "size": length} for _, blob, kind, length in layers
        ],
    }
    return Image(store, store.add([encode(manifest)])[0])


def encode(document: Any) -> bytes:
    """Return the one way to write a document: the same image has the same digest everywhere."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def add_layer(store: Store, chunks: Iterable[bytes]) -> Layer:
    """Keep an uncompressed tar as a layer: its two digests are one, and nobody waits for gzip."""
    digest, size = store.add(chunks)
    return digest, digest, LAYER, size


def open_layer(store: Store, layer: Layer) -> BinaryIO:
    """Return a layer's tar as a file, uncompressed; what comes out is checked at its end."""
    return io.BufferedReader(compression.Stream(tar_of(store, layer)), 1 << 20)


def tar_of(store: Store, layer: Layer) -> Iterator[bytes]:
    """Yield a layer's tar; raise OSError or ValueError, at its end, where its digests differ."""
    diff_id, digest, kind, _ = layer
    hashed = hashlib.sha256() if LAYERS[kind] else None
    for chunk in compression.inflate(store.chunks(digest), LAYERS[kind]):
        if hashed:
            hashed.update(chunk)
        yield chunk
    found = f"sha256:{hashed.hexdigest()}" if hashed else digest
    if found != diff_id:
        raise ValueError(f"{digest}: the layer in it is {found}, not {diff_id}: import it again")
