"""What the JSON of images has to look like, before anybody uses a word of it.

image-spec v1: descriptor.md, manifest.md, image-index.md, config.md; Docker's older media types
mean the same. A document is refused where two readers could take it for two different images.
"""

from __future__ import annotations

from stages.light import loads
from stages.stage4_overlayfs.more.names import check_digest, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_BYTES = 4 << 20
"""Bytes of a document: what distribution-spec has every registry take, and few take more."""
MOST_LAYERS = 500
"""OVL_MAX_STACK of the kernel's fs/overlayfs/params.c: the layers that overlay can stack."""

OCI, DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
MANIFEST, CONFIG, LAYER = f"{OCI}manifest.v1+json", f"{OCI}config.v1+json", f"{OCI}layer.v1.tar"
MANIFESTS = (MANIFEST, f"{DOCKER}distribution.manifest.v2+json")
INDEXES = (f"{OCI}index.v1+json", f"{DOCKER}distribution.manifest.list.v2+json")
CONFIGS = (CONFIG, f"{DOCKER}container.image.v1+json")
LAYERS = {
    # media type: how the tar in it is compressed
    **{LAYER + ending: kind for ending, kind in (("", ""), ("+gzip", "gzip"), ("+zstd", "zstd"))},
    f"{OCI}layer.nondistributable.v1.tar": "",
    f"{OCI}layer.nondistributable.v1.tar+gzip": "gzip",
    f"{OCI}layer.nondistributable.v1.tar+zstd": "zstd",
    f"{DOCKER}image.rootfs.diff.tar": "",
    f"{DOCKER}image.rootfs.diff.tar.gzip": "gzip",
    f"{DOCKER}image.rootfs.diff.tar.zstd": "zstd",
    f"{DOCKER}image.rootfs.foreign.diff.tar.gzip": "gzip",
}

TEXT, TEXTS, TABLE, FLAG = "a text", "a list of texts", "an object of texts", "true or false"
RUNNING = {
    # config.md, "Properties": what a container is started with
    **dict.fromkeys(("User", "WorkingDir", "StopSignal"), TEXT),
    **dict.fromkeys(("Env", "Cmd", "Entrypoint", "Shell", "OnBuild"), TEXTS),
    "Labels": TABLE,
    **dict.fromkeys(("ExposedPorts", "Volumes"), "an object"),
}
STEP = {
    **dict.fromkeys(("created", "author", "created_by", "comment"), TEXT),
    "empty_layer": FLAG,
}


def parse(what: str, data: bytes) -> Any:
    """Return a JSON document; raise ValueError, which begins with `what`, where it isn't one."""
    if len(data) > MOST_BYTES:
        raise refused(what, f"longer than {MOST_BYTES} bytes")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Of a key that is there twice some readers take the first and others the last.
        if len(table := dict(pairs)) != len(pairs):
            raise ValueError("a key is there twice")
        return table

    try:
        text = data.decode("utf-8")
        return loads(text, once)
    except RecursionError:
        raise refused(what, "nested too deeply") from None
    except ValueError as error:
        raise refused(what, f"not JSON, {error}") from None


def fits(value: Any, shape: str) -> bool:
    """Return whether a value has one of the shapes above; nothing at all always does."""
    if value is None:
        return True
    if shape in (TEXT, FLAG):
        return isinstance(value, str if shape is TEXT else bool)
    if shape is TEXTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    rows = value.values() if isinstance(value, dict) else [None]
    return isinstance(value, dict) and (
        shape is not TABLE or all(isinstance(row, str) for row in rows)
    )


def check_table(what: str, table: Any, shapes: dict[str, str]) -> dict[str, Any]:
    """Return an object whose members have these shapes, or raise ValueError."""
    if not isinstance(table, dict):
        raise refused(what, "not an object")
    for key, shape in shapes.items():
        if not fits(table.get(key), shape):
            raise refused(what, f"{key} is not {shape}")
    return table


def check_descriptor(what: str, value: Any) -> dict[str, Any]:
    """Return what points at a blob: an object with mediaType, digest, and size in bytes."""
    table = check_table(what, value, {"mediaType": TEXT, "digest": TEXT, "annotations": TABLE})
    if not isinstance(table.get("digest"), str) or not isinstance(table.get("mediaType"), str):
        raise refused(what, "a descriptor lacks its digest or mediaType")
    try:
        check_digest(table["digest"])
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    size = table.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise refused(what, f"the size of {table['digest']} is {shown(size)}")
    return table


def check_manifest(what: str, data: bytes) -> dict[str, Any]:
    """Return an image's manifest: an object with the descriptors `config` and `layers`."""
    table = check_table(what, parse(what, data), {"mediaType": TEXT})
    # CVE-2021-41190: a document that is an index to one reader and a manifest to another
    if "manifests" in table or table.get("mediaType") not in (None, *MANIFESTS):
        raise refused(what, "not an image's manifest")
    if check_descriptor(what, table.get("config"))["mediaType"] not in CONFIGS:
        kind = shown(table["config"]["mediaType"])
        raise refused(what, f"not a container's image, its configuration is {kind}")
    if not isinstance(layers := table.get("layers"), list) or len(layers) > MOST_LAYERS:
        raise refused(what, f"layers is not a list of at most {MOST_LAYERS}")
    for layer in layers:
        if (kind := check_descriptor(what, layer)["mediaType"]) not in LAYERS:
            raise refused(what, f"a layer is {shown(kind)}, not a tar, plain, gzip or zstd")
    return table


def check_index(what: str, data: bytes) -> list[dict[str, Any]]:
    """Return the descriptors of an index: the manifests, or further indexes, that it lists."""
    table = check_table(what, parse(what, data), {"mediaType": TEXT})
    if "layers" in table or "config" in table or table.get("mediaType") not in (None, *INDEXES):
        raise refused(what, "not an index of images")
    if not isinstance(rows := table.get("manifests"), list):
        raise refused(what, "manifests is not a list")
    for row in rows:
        check_descriptor(what, row)
        check_table(what, row.get("platform") or {}, {"os": TEXT, "architecture": TEXT})
    return rows


def check_config(what: str, data: bytes) -> dict[str, Any]:
    """Return an image's configuration: how it is run, `rootfs.diff_ids`, and its history."""
    shapes = dict.fromkeys(("created", "author", "architecture", "os", "variant"), TEXT)
    table = check_table(what, parse(what, data), shapes)
    if table.get("os", "linux") != "linux":
        raise refused(what, f"for {shown(table['os'])}, whose programs Linux can't run")
    check_table(f"{what}: config", table.get("config") or {}, RUNNING)
    root = check_table(f"{what}: rootfs", table.get("rootfs"), {"type": TEXT, "diff_ids": TEXTS})
    for digest in root.get("diff_ids") or []:
        try:
            check_digest(digest)
        except ValueError as error:
            raise ValueError(f"{what}: rootfs: {error}") from None
    if not isinstance(steps := table.get("history") or [], list):
        raise refused(what, "history is not a list")
    for step in steps:
        check_table(f"{what}: history", step, STEP)
    return table


def refused(what: str, why: str) -> ValueError:
    """Return the error for a document that is not what it should be."""
    return ValueError(f"{shown(what)}: {why}: fetch it again, or ask who made it")
