"""An OCI image layout: index.json, perhaps an index in it, a manifest, its layers bottom up.

See the OCI image specification: image-layout.md, image-index.md, manifest.md, layer.md.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labs.errors import CANNOT, Refused
from labs.rootfs import archive, progress
from labs.rootfs.interrupts import Interrupts
from labs.texts import say

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
JSON_AT_MOST = 4 << 20
"""Bytes: the limit that the distribution specification gives for a manifest."""
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
NESTED_AT_MOST = 4
# Go's names of the machines, as `platform.architecture` has them, by uname's.
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}


def is_layout(directory: Path) -> bool:
    """Tell whether `directory` is an image layout."""
    return (directory / "index.json").is_file() and (directory / "blobs").is_dir()


def unpack(layout: Path, root: Path, interrupts: Interrupts, *, name: str) -> list[str]:
    """Unpack the image in `layout` for this machine into `root`, each digest verified.

    Returns remarks for the reader; raises Refused.
    """
    try:
        index = _read(layout / "index.json", name)
        manifest = _manifest(layout, index, name)
        notes: list[str] = []
        for layer in manifest["layers"]:
            doing = say("rootfs.unpacking", name=f"{name} {str(layer['digest'])[:19]}")
            pieces = progress.bar(doing, _blob(layout, layer, name), layer["size"])
            notes += archive.unpack(pieces, root, interrupts, name=name, layer=True)
        return notes
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(name, say("rootfs.bad_json", name=repr(error))) from None


def _manifest(layout: Path, index: Any, name: str, depth: int = 0) -> Any:
    found = [each for each in index["manifests"] if _is_for_this_machine(each)]
    if not found:
        there = ", ".join(sorted({_platform(each) for each in index["manifests"]}))
        raise Refused(
            name,
            say("rootfs.no_platform", there=archive.printable(there), here=_here()),
            status=CANNOT,
        )
    if len(found) > 1 and len({each["digest"] for each in found}) > 1:
        raise Refused(name, say("rootfs.several_images", count=len(found)))
    document = _document(layout, found[0], name)
    if found[0].get("mediaType") in INDEXES or "manifests" in document:
        if depth == NESTED_AT_MOST:
            raise Refused(name, say("rootfs.bad_json", name="index in index in index …"))
        return _manifest(layout, document, name, depth + 1)
    # An index need not say for which platform a manifest is; the image's configuration does.
    config = _document(layout, document["config"], name)
    architecture = config.get("architecture", "")
    if architecture and architecture != _here():
        there = archive.printable(f"linux/{architecture}")
        raise Refused(name, say("rootfs.no_platform", there=there, here=_here()), status=CANNOT)
    return document


def _here() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def _platform(descriptor: Any) -> str:
    platform_ = descriptor.get("platform", {})
    return f"{platform_.get('os', '?')}/{platform_.get('architecture', '?')}"


def _is_for_this_machine(descriptor: Any) -> bool:
    return not descriptor.get("platform") or _platform(descriptor) == f"linux/{_here()}"


def _read(path: Path, name: str) -> Any:
    with path.open("rb") as file:
        text = file.read(JSON_AT_MOST + 1)
    return _parsed(text, path.name, name)


def _parsed(text: bytes, what: str, name: str) -> Any:
    try:
        if len(text) > JSON_AT_MOST:
            raise ValueError(f"> {JSON_AT_MOST} bytes")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(name, say("rootfs.bad_json", name=f"{what}: {error}")) from None


def _document(layout: Path, descriptor: Any, name: str) -> Any:
    if descriptor["size"] > JSON_AT_MOST:
        raise Refused(name, say("rootfs.bad_json", name=f"{descriptor['digest']}: size"))
    return _parsed(b"".join(_blob(layout, descriptor, name)), descriptor["digest"], name)


def _blob(layout: Path, descriptor: Any, name: str) -> Iterator[bytes]:
    """Yield the blob; at its end raise Refused unless size and digest are as described."""
    digest, size = descriptor["digest"], descriptor["size"]
    # Not a digest, not a path: `sha256:../../etc/shadow` goes nowhere.
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Refused(name, say("rootfs.bad_digest", name=archive.printable(str(digest))))
    algorithm, _, value = digest.partition(":")
    path = layout / "blobs" / algorithm / value
    if not path.is_file():
        raise Refused(name, say("rootfs.no_blob", name=digest))
    hashed, read = hashlib.new(algorithm), 0
    for piece in archive.chunks(path):
        hashed.update(piece)
        read += len(piece)
        if read > size:
            break
        yield piece
    if read != size or hashed.hexdigest() != value:
        raise Refused(name, say("rootfs.wrong_digest", name=digest))
