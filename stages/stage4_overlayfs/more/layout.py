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
    from typing import Any

    from stages.stage4_overlayfs.more.incoming import Budget, Source
    from stages.stage4_overlayfs.store import Store

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
    chosen = choose(what, check_index(what, small(found, "index.json")), pick)
    for _ in range(DEEPEST):
        if chosen["mediaType"] not in INDEXES:
            break
        what = f"{found.what}: {chosen['digest']}"
        chosen = choose(what, check_index(what, document(found, chosen)), "")
    if chosen["mediaType"] not in MANIFESTS:
        raise refused(f"{found.what}: {chosen['digest']}", "not an image's manifest")
    data = document(found, chosen)
    manifest = check_manifest(f"{found.what}: {chosen['digest']}", data)
    config = document(found, manifest["config"])
    what = f"{found.what}: {manifest['config']['digest']}"
    diff_ids = check_config(what, config)["rootfs"].get("diff_ids") or []
    if len(diff_ids) != len(manifest["layers"]):
        raise refused(what, f"{len(manifest['layers'])} layers, but {len(diff_ids)} diff_ids")
    for diff_id, row in zip(diff_ids, manifest["layers"], strict=True):
        path = blob(found, row)
        keep_layer(store, found, path, LAYERS[row["mediaType"]], diff_id, budget, row["digest"])
    store.add([config], manifest["config"]["digest"])
    return Image(store, store.add([data], chosen["digest"])[0])


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


def blob(found: Source, row: dict[str, Any]) -> str:
    """Return where a layout has a blob; raise ValueError where its size is not what it should."""
    name = f"blobs/sha256/{check_digest(row['digest'])}"
    if (size := found.size(name)) != row["size"]:
        raise refused(f"{found.what}: {name}", f"{size} bytes, where {row['size']} are announced")
    return name


def document(found: Source, row: dict[str, Any]) -> bytes:
    """Return a document of a layout, once its size and its digest are right."""
    name = blob(found, row)
    data = small(found, name)
    if (digest := f"sha256:{hashlib.sha256(data).hexdigest()}") != row["digest"]:
        raise refused(f"{found.what}: {name}", f"its bytes have the digest {digest}")
    return data
