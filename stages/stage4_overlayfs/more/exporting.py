"""Images for elsewhere: OCI layouts and `docker save` tars, with the digests that they have here.

A tar for Docker is both: a layout, as Docker itself writes since version 25, with the manifest.json
beside it that older versions read. The same image is always the same bytes.
"""

from __future__ import annotations

import errno
import os
import shutil

from stages.stage4_overlayfs.image import encode
from stages.stage4_overlayfs.more.archive import entry, padding
from stages.stage4_overlayfs.more.layout import NAME, TAGGED
from stages.stage4_overlayfs.more.names import full_name
from stages.stage4_overlayfs.more.shapes import INDEXES, MANIFEST
from stages.stage4_overlayfs.store import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from stages.stage4_overlayfs.image import Image

    Part = tuple[str, int, Iterable[bytes]]
    """Name, size and bytes of a file."""


def export_tar(image: Image, file: BinaryIO, names: Sequence[str], *, docker: bool) -> None:
    """Write an image as a tar: an OCI layout, and with `docker` what `docker load` reads, too.

    `names` are those that it gets where it goes. Raises OSError, also for a damaged blob.
    """
    with image.store.locked(shared=True):
        for name in ("blobs/", "blobs/sha256/"):
            file.write(entry(name, 0))
        for name, size, chunks in parts(image, names, docker):
            file.write(entry(name, size))
            for chunk in chunks:
                file.write(chunk)
            file.write(padding(size))
        # Two blocks of zeros are the end, and tar(1) fills its record of 20 with them.
        file.write(bytes(2 * 512))


def export_layout(image: Image, directory: str, names: Sequence[str]) -> None:
    """Write an image as an OCI layout, a directory, which must not be there, or be empty."""
    making = f"{directory.rstrip('/')}.{os.urandom(4).hex()}"
    os.makedirs(f"{making}/blobs/sha256")
    try:
        with image.store.locked(shared=True):
            for name, _, chunks in parts(image, names, docker=False):
                with open(f"{making}/{name}", "xb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
        sync(f"{making}/blobs/sha256")
        os.rename(making, directory)
    except OSError as error:
        shutil.rmtree(making)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            why = "something is there already: name a directory that is new"
            raise OSError(error.errno, why, directory) from None
        raise


def parts(image: Image, names: Sequence[str], docker: bool) -> Iterator[Part]:
    """Yield the files of a layout, blobs first: what is cut off has no index."""
    store, manifest = image.store, image.manifest
    blobs = [(layer[1], layer[3]) for layer in image.layers]
    blobs.append((image.config_digest, manifest["config"]["size"]))
    blobs.append((image.digest, store.size(image.digest)))
    # An image may have the same layer twice.
    for digest, size in dict.fromkeys(blobs):
        yield blob_name(digest), size, store.chunks(digest)
    names = [full_name(name) for name in names]
    row = {
        "mediaType": manifest.get("mediaType", MANIFEST),
        "digest": image.digest,
        "size": blobs[-1][1],
    }
    rows = [{**row, "annotations": titles(name)} for name in names] or [row]
    index = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": rows}
    saved = {
        "Config": blob_name(image.config_digest),
        "RepoTags": names,
        "Layers": [blob_name(layer[1]) for layer in image.layers],
    }
    if docker:
        yield whole("manifest.json", encode([saved]))
    yield whole("index.json", encode(index))
    yield whole("oci-layout", encode({"imageLayoutVersion": "1.0.0"}))


def titles(name: str) -> dict[str, str]:
    """Return how a layout says what an image is called: containerd's way, and image-spec's."""
    return {NAME: name, TAGGED: name.rpartition(":")[2]}


def blob_name(digest: str) -> str:
    """Return where a layout has a blob."""
    return f"blobs/{digest.replace(':', '/')}"


def whole(name: str, data: bytes) -> Part:
    """Return a file that is at hand."""
    return name, len(data), [data]
