"""Images that `docker save` wrote: a configuration, layers, and manifest.json about both.

There is no manifest of OCI's in there: one is made, always the same for the same image.
"""

from __future__ import annotations

import hashlib
import os

from stages.stage4_overlayfs.image import new
from stages.stage4_overlayfs.more.compression import kind_of
from stages.stage4_overlayfs.more.incoming import keep_layer, small
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.shapes import (
    MOST_LAYERS,
    TEXT,
    TEXTS,
    check_config,
    check_table,
    parse,
    refused,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stages.stage4_overlayfs.image import Image
    from stages.stage4_overlayfs.more.incoming import Budget, Source
    from stages.stage4_overlayfs.store import Store


def from_docker(store: Store, found: Source, pick: str, budget: Budget) -> Image:
    """Read an image of `docker save`: a configuration, layers, and manifest.json about both."""
    what = f"{found.what}: manifest.json"
    row = chosen_row(what, parse(what, small(found, "manifest.json")), pick)
    config = small(found, row["Config"])
    what = f"{found.what}: {shown(row['Config'])}"
    diff_ids = check_config(what, config)["rootfs"].get("diff_ids") or []
    # The file is named after its digest, which is what Docker calls the image's id.
    told = os.path.basename(row["Config"]).removesuffix(".json")
    if (digest := hashlib.sha256(config).hexdigest()) != told and len(told) == 64:
        raise refused(what, f"its bytes have the digest sha256:{digest}")
    if len(diff_ids) != len(row["Layers"]) or len(diff_ids) > MOST_LAYERS:
        raise refused(what, f"{len(row['Layers'])} layers, but {len(diff_ids)} diff_ids")
    layers = []
    for diff_id, name in zip(diff_ids, row["Layers"], strict=True):
        head = next(found.chunks(name), b"")[:8]
        what, chunks = f"{found.what}: {shown(name)}", found.chunks(name)
        layers.append(keep_layer(store, what, chunks, kind_of(head), diff_id, budget))
    return new(store, config, layers)


def chosen_row(what: str, rows: Any, pick: str) -> dict[str, Any]:
    """Return the one of manifest.json's rows that is meant; raise ValueError if not one is."""
    if not isinstance(rows, list):
        raise refused(what, "not a list")
    for row in rows:
        check_table(what, row, {"Config": TEXT, "RepoTags": TEXTS, "Layers": TEXTS})
        if not row.get("Config") or row.get("Layers") is None:
            raise refused(what, "a row lacks its Config or Layers")
    own = [row for row in rows if not pick or pick in (row.get("RepoTags") or [])]
    if len(own) == 1:
        return dict(own[0])
    known = sorted({tag for row in rows for tag in row.get("RepoTags") or []})
    why = f"no image {shown(pick)}" if pick and not own else f"{len(own)} images"
    raise ValueError(f"{what}: {why}: pick one of {shown(', '.join(known)) or 'none'}")
