"""Images in OCI layouts: their documents are kept byte for byte, and so are the digests.

See image-layout.md of OCI's image-spec.
"""

from __future__ import annotations

import hashlib
import os

from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.incoming import keep_layer, small
from stages.stage4_overlayfs.more.names import check_digest, shown
from stages.stage4_overlayfs.more.shapes import (
    INDEXES,
    LAYERS,
    MANIFESTS,
    TEXT,
    check_config,
    check_index,
    check_manifest,
    check_table,
    parse,
    refused,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol

    from stages.stage4_overlayfs.more.incoming import Budget, Source
    from stages.stage4_overlayfs.store import Store

    class Blobs(Protocol):
        """Where an image comes from, a layout or a registry: what it has by what points at it."""

        what: str

        def document(self, row: dict[str, Any]) -> bytes:
            """Return a document, once its size and its digest are right."""

        def layer(self, row: dict[str, Any]) -> Iterable[bytes]:
            """Return the bytes of a layer, whose digest has to be checked."""


DEEPEST = 4
"""Indexes inside of each other: one for the layout, one for the platforms, and some to spare."""
NAME, TAGGED = "io.containerd.image.name", "org.opencontainers.image.ref.name"
"""Annotations of a layout that name an image; the second is image-spec's, annotations.md."""
PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}
"""What OCI calls the machines that uname(2) knows."""


def from_layout(store: Store, found: Source, pick: str, budget: Budget) -> Image:
    """Read an image of an OCI layout: its documents are kept as they are, so are its digests."""
    what = f"{found.what}: oci-layout"
    version = check_table(
        what, parse(what, small(found, "oci-layout")), {"imageLayoutVersion": TEXT}
    )
    if version.get("imageLayoutVersion") != "1.0.0":
        raise refused(what, f"of version {shown(version.get('imageLayoutVersion'))}, not 1.0.0")
    what = f"{found.what}: index.json"
    row = choose(what, check_index(what, small(found, "index.json")), pick)
    blobs = Layout(found)
    return from_manifest(store, blobs, for_this_machine(blobs, row), budget)


def for_this_machine(blobs: Blobs, row: dict[str, Any]) -> dict[str, Any]:
    """Return what points at a manifest, through the indexes that are in front of it."""
    for _ in range(DEEPEST):
        if row["mediaType"] not in INDEXES:
            break
        what = f"{blobs.what}: {row['digest']}"
        row = choose(what, check_index(what, blobs.document(row)), "")
    if row["mediaType"] not in MANIFESTS:
        raise refused(f"{blobs.what}: {row['digest']}", "not an image's manifest")
    return row


def from_manifest(store: Store, blobs: Blobs, row: dict[str, Any], budget: Budget) -> Image:
    """Read the image of a manifest: whatever is in the store is as it was in the manifest."""
    data = blobs.document(row)
    manifest = check_manifest(f"{blobs.what}: {row['digest']}", data)
    config = blobs.document(manifest["config"])
    what = f"{blobs.what}: {manifest['config']['digest']}"
    diff_ids = check_config(what, config)["rootfs"].get("diff_ids") or []
    if len(diff_ids) != len(manifest["layers"]):
        raise refused(what, f"{len(manifest['layers'])} layers, but {len(diff_ids)} diff_ids")
    for diff_id, one in zip(diff_ids, manifest["layers"], strict=True):
        what, kind = f"{blobs.what}: {one['digest']}", LAYERS[one["mediaType"]]
        *_, size = keep_layer(store, what, blobs.layer(one), kind, diff_id, budget, one["digest"])
        if size != one["size"]:
            raise refused(what, f"{size} bytes, where {one['size']} are announced")
    store.add([config], manifest["config"]["digest"])
    return Image(store, store.add([data], row["digest"])[0])


def choose(what: str, rows: list[dict[str, Any]], pick: str) -> dict[str, Any]:
    """Return the one of an index's rows that is meant: by its name, and for this machine."""
    meant = [row for row in rows if not pick or is_called(row, pick)]
    if pick and len(meant) == 1:
        return meant[0]
    machine = os.uname().machine
    # Beside an image there may be statements about it, whose platform is "unknown".
    own = [row for row in meant if platform(row) in ("", PLATFORMS.get(machine, machine))]
    if len({row["digest"] for row in own}) == 1:
        return own[0]
    known = {title or platform(row) for row in rows for title in titles(row) or [""]}
    if own:
        why = "several images"
    else:
        why = f"no image {shown(pick)}" if pick else "no image for this machine"
    raise ValueError(f"{what}: {why}: pick one of {shown(', '.join(sorted(known)) or 'none')}")


def titles(row: dict[str, Any]) -> list[str]:
    """Return the names that an index gives to one of its rows."""
    notes = row.get("annotations") or {}
    return [notes[key] for key in (TAGGED, NAME) if key in notes]


def is_called(row: dict[str, Any], name: str) -> bool:
    """Return whether a row has this name, with or without the registry in front of it."""
    return any(title == name or title.endswith(f"/{name}") for title in titles(row))


def platform(row: dict[str, Any]) -> str:
    """Return the machine that a row of an index is for; "" where it doesn't say."""
    place = row.get("platform") or {}
    if place.get("os") not in (None, "linux"):
        return shown(place["os"])
    return place.get("architecture") or ""


class Layout:
    """The documents and layers of a layout, by what points at them."""

    def __init__(self, found: Source) -> None:
        """Take what the layout comes in."""
        self.found, self.what = found, found.what

    def path(self, row: dict[str, Any]) -> str:
        """Return where a blob is; raise ValueError where its size is not what it should be."""
        name = f"blobs/sha256/{check_digest(row['digest'])}"
        if (size := self.found.size(name)) != row["size"]:
            raise refused(
                f"{self.what}: {name}", f"{size} bytes, where {row['size']} are announced"
            )
        return name

    def document(self, row: dict[str, Any]) -> bytes:
        """Return a document, once its size and its digest are right."""
        name = self.path(row)
        data = small(self.found, name)
        if (digest := f"sha256:{hashlib.sha256(data).hexdigest()}") != row["digest"]:
            raise refused(f"{self.what}: {name}", f"its bytes have the digest {digest}")
        return data

    def layer(self, row: dict[str, Any]) -> Iterator[bytes]:
        """Return the bytes of a layer, whose size is right, and whose digest has to be checked."""
        return self.found.chunks(self.path(row))
