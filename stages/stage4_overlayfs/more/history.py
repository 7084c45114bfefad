"""What is known of an image, as data: how it was made, step by step, and what it is."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stages.stage4_overlayfs.image import Image


def history(image: Image) -> list[dict[str, Any]]:
    """Return the steps that made an image, the first one first, as `docker history` has them.

    Each has `created`, `created_by`, `comment`, `empty`, and the `diff_id`, `digest` and `size`,
    in bytes, of the layer it made; "" and 0 where it made none. Layers of which no step tells
    come last: nobody has to write a history.
    """
    layers = list(image.layers)
    rows = []
    for step in image.config.get("history") or []:
        empty = bool(step.get("empty_layer")) or not layers
        rows.append(row(step, None if empty else layers.pop(0)))
    return rows + [row({}, layer) for layer in layers]


def row(step: dict[str, Any], layer: tuple[str, str, str, int] | None) -> dict[str, Any]:
    """Return one step, with the layer that it made."""
    diff_id, digest, _, size = layer or ("", "", "", 0)
    told = {key: step.get(key) or "" for key in ("created", "created_by", "comment")}
    return {**told, "empty": layer is None, "diff_id": diff_id, "digest": digest, "size": size}


def inspect(image: Image, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return what an image is, in the words of `docker image inspect`; `Size` in bytes, stored."""
    config = image.config
    return {
        "Id": image.config_digest,
        "Digest": image.digest,
        "RepoTags": sorted(names),
        "Created": config.get("created") or "",
        "Author": config.get("author") or "",
        "Architecture": config.get("architecture") or "",
        "Os": config.get("os") or "",
        "Config": config.get("config") or {},
        # The same layer twice is one blob.
        "Size": sum(size for _, size in {(layer[1], layer[3]) for layer in image.layers}),
        "RootFS": {"Type": "layers", "Layers": [layer[0] for layer in image.layers]},
        "Layers": [
            {"DiffId": diff_id, "Digest": digest, "MediaType": kind, "Size": size}
            for diff_id, digest, kind, size in image.layers
        ],
    }
