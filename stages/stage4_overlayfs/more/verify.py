"""Whether a store is what it says: each blob's bytes, each image whole, each name one.

What is unfinished in tmp/, and blobs that nobody refers to, are no faults: they are what prune is
for. A fault is what no use of the store, ended at whatever moment, can have left.
"""

from __future__ import annotations

import os

from stages.stage4_overlayfs.image import Image, tar_of
from stages.stage4_overlayfs.more.names import check_digest, file_name, is_hex, reference_of, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage4_overlayfs.image import Layer
    from stages.stage4_overlayfs.store import Store


def verify(store: Store) -> list[str]:
    """Return the faults, none in a store that is whole: each a line of what, why and remedy."""
    with store.locked(shared=True):
        faults = dict.fromkeys(damaged_blobs(store))
        layers: dict[Layer, str] = {}
        for who, digest in references(store):
            faults.update(dict.fromkeys(faults_of(store, who, digest, layers)))
    return list(faults)


def references(store: Store) -> Iterator[tuple[str, str]]:
    """Yield all that needs an image, a name or a container, with the digest of its manifest."""
    for entry in sorted(os.listdir(f"{store.root}/names")):
        try:
            with open(f"{store.root}/names/{entry}", encoding="utf-8", errors="replace") as file:
                yield f"names/{entry}", file.read(256).strip()
        except FileNotFoundError:  # forgotten since
            continue
    for entry in sorted(os.listdir(f"{store.root}/containers")):
        path = f"{store.root}/containers/{entry}/image"
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                yield f"containers/{entry}", file.read(256).strip()
        except (FileNotFoundError, NotADirectoryError):  # removed since, or of a plain directory
            continue


def damaged_blobs(store: Store) -> Iterator[str]:
    """Yield a line for each blob whose bytes are not those of its name."""
    directory = f"{store.root}/blobs/sha256"
    for entry in sorted(os.listdir(directory)):
        path = f"{directory}/{shown(entry)}"
        if not is_hex(entry) or not is_regular(f"{directory}/{entry}"):
            yield f"{path}: not a blob of the store: remove it"
            continue
        try:
            for _ in store.chunks(f"sha256:{entry}"):
                continue
        except OSError as error:
            yield line_of(error)


def faults_of(store: Store, who: str, digest: str, layers: dict[Layer, str]) -> Iterator[str]:
    """Yield a line for all that is wrong with one image; `layers` keeps what others found out."""
    kind, _, name = who.partition("/")
    remedy = f"`image rm {shown(reference_of(name))}`" if kind == "names" else f"`rm {shown(name)}`"
    try:
        if kind == "names" and file_name(reference_of(name)) != name:
            raise ValueError("not an image's name with its tag")
        check_digest(digest)
        image = Image(store, digest)
        for layer in image.layers:
            if layer not in layers:
                layers[layer] = why_not_whole(store, layer)
            if layers[layer]:
                yield f"{shown(who)}: {layers[layer]}"
        if image.manifest["config"]["size"] != store.size(image.config_digest):
            raise ValueError(f"{image.config_digest}: not of the size that the manifest says")
    except (OSError, ValueError) as error:
        yield f"{shown(who)}: {line_of(error)}; or {remedy}"


def why_not_whole(store: Store, layer: Layer) -> str:
    """Return what is wrong with a layer, or "": its size, and the digest of the tar in it."""
    try:
        if (size := store.size(layer[1])) != layer[3]:
            return f"{layer[1]}: {size} bytes, where the manifest says {layer[3]}: import it again"
        # An uncompressed one that has the right digest was read with all blobs.
        for _ in tar_of(store, layer) if layer[0] != layer[1] else ():
            continue
    except (OSError, ValueError) as error:
        return line_of(error)
    return ""


def is_regular(path: str) -> bool:
    """Return whether a path is a file, and no link to one."""
    return os.path.isfile(path) and not os.path.islink(path)


def line_of(error: OSError | ValueError) -> str:
    """Return an error as the line that a person reads."""
    if isinstance(error, OSError):
        return f"{shown(error.filename)}: {error.strerror}"
    return str(error)
