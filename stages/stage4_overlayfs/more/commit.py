"""An image from a container: what it wrote becomes one more layer on the image's."""

from __future__ import annotations

import copy
import errno
import os
import re

from stages.stage4_overlayfs.image import Image, add_layer, new
from stages.stage4_overlayfs.more.build import stamp
from stages.stage4_overlayfs.more.copying import clamped
from stages.stage4_overlayfs.more.names import full_name, shown
from stages.stage4_overlayfs.more.settings import change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stages.stage4_overlayfs.storage import Driver
    from stages.stage4_overlayfs.store import Store


def commit(
    store: Store,
    driver: Driver,
    container: str,
    name: str = "",
    changes: Sequence[str] = (),
    *,
    created: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> Image:
    """Make an image of a container, give it a name, and return it.

    `changes` are instructions such as `CMD ["/bin/sh"]`; `created`, in seconds since 1970, is the
    image's time, and no file of the layer is younger: now, and any, by default; `notes` are of the
    history: `author`, `comment`. Raises ValueError
    for a bad name or change; OSError where there is no such container, or a file of it changes
    meanwhile (ESTALE): whoever wants a layer of one moment has it stand still.
    """
    if name:
        full_name(name)
    with store.locked(shared=True):
        base = Image(store, manifest_of(store, container))
        config = copy.deepcopy(base.config)
        # Docker's own notes on how it made the image: of the base, and no longer true.
        for key in ("container", "container_config", "docker_version"):
            config.pop(key, None)
        config["config"] = config.get("config") or {}
        told = " ".join([f"commit {container}", *change(config["config"], changes)])
        layer = add_layer(store, clamped(driver.commit(container), created))
        row = {"created": stamp(created), "created_by": told}
        row |= {key: text for key, text in (notes or {}).items() if text}
        config["history"] = [*(config.get("history") or []), row]
        image = new(store, {**config, "created": row["created"]}, [*base.layers, layer])
        if name:
            image.tag(name)
    return image


def manifest_of(store: Store, container: str) -> str:
    """Return the digest of the manifest that a container was made from."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", container):
        raise ValueError(f"{shown(container)}: not a container's name")
    path = f"{store.root}/containers/{container}/image"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except (FileNotFoundError, NotADirectoryError):
        why = "no container has this ID"
        if os.path.isdir(os.path.dirname(path)):
            why = "it was made from a directory, not from an image: `image import` makes one of it"
        raise FileNotFoundError(errno.ENOENT, why, shown(container)) from None
