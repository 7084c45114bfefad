"""Images as files: the probes' own way to write a `docker save` tar, and to read what comes out.

Whoever is judged has no hand in it: digests are computed here, with hashlib.
See OCI's image-spec, and moby's image/spec/spec.md.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checks.bench import tree

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
WHEN = "2001-09-09T01:46:40Z"
TIME = 1_000_000_000
"""When everything in these images was made; the same, in seconds since 1970."""
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
PLAIN = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
)
GZIP = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


class Malformed(Exception):
    """What was exported is no image: why."""


def hexdigest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in 64 digits."""
    return hashlib.sha256(data).hexdigest()


def entry(name: str, content: bytes | None = b"", link: str = "", mode: int = 0o644) -> Any:
    """Return a file of a layer, with its content; a directory has None, and a link where to."""
    info = tarfile.TarInfo(name)
    info.mtime, info.mode, info.size = TIME, mode, len(content or b"")
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    if link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, link, 0o777
    return info, content or b""


def layer(*entries: Any) -> bytes:
    """Return the tar of a layer."""
    return _tar(entries)


def layer_of(folder: str) -> bytes:
    """Return a folder as the tar of a layer, without what is mounted in it."""
    packed = io.BytesIO()

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uname = info.gname = ""
        info.mtime = int(info.mtime)
        return info

    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in tree(folder):
            tar.add(os.path.join(folder, name), name, recursive=False, filter=anonymous)
    return packed.getvalue()


def _tar(entries: Sequence[Any]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def configuration(layers: Sequence[bytes], command: Sequence[str] = ()) -> bytes:
    """Return the configuration of an image with these layers, lowest first."""
    machine = os.uname().machine
    diff_ids = [f"sha256:{hexdigest(one)}" for one in layers]
    return json.dumps(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": WHEN,
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": WHEN, "created_by": f"layer {n}"} for n in range(len(layers))],
        }
    ).encode()


def saved(name: str, layers: Sequence[bytes], config: bytes | None = None) -> bytes:
    """Return an image as `docker save` writes it: a tar with its configuration and its layers.

    `config` is that of the layers that it ought to have.
    """
    config = config or configuration(layers)
    places = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{hexdigest(config)}.json", "RepoTags": [name], "Layers": places}]
    files = {f"{hexdigest(config)}.json": config, **dict(zip(places, layers, strict=True))}
    files["manifest.json"] = json.dumps(manifest).encode()
    folders = [entry(str(number), None) for number in range(len(layers))]
    return _tar([*folders, *(entry(place, data) for place, data in files.items())])


def files_of(archive: bytes) -> dict[str, bytes]:
    """Return the files of an exported tar by name. Raises Malformed."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for info in tar:
                if info.isfile() and (file := tar.extractfile(info)):
                    found[os.path.normpath(info.name)] = file.read()
    except (tarfile.TarError, zlib.error) as error:
        raise Malformed(str(error)) from None
    return found


def folder_files(folder: str) -> dict[str, bytes]:
    """Return the files of an exported layout, a directory, by name."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


@dataclass(frozen=True)
class Image:
    """An image as it was read: `form` is oci or docker, the manifest's digest is OCI's only."""

    form: str
    config: bytes
    layers: Sequence[bytes]
    """Uncompressed, lowest first."""
    manifest: str = ""

    @property
    def diff_ids(self) -> list[str]:
        """Return the digests of its layers."""
        return [f"sha256:{hexdigest(one)}" for one in self.layers]


def read(files: Mapping[str, bytes]) -> list[Image]:
    """Return the image that was exported, in each form in which it is there. Raises Malformed."""
    found = []
    if "index.json" in files:
        found.append(_read_layout(files))
    if "manifest.json" in files:
        found.append(_read_saved(files))
    if not found:
        raise Malformed(f"neither index.json nor manifest.json: {', '.join(sorted(files))}"[:200])
    return found


def _read_layout(files: Mapping[str, bytes]) -> Image:
    """Follow an OCI layout from its index, and check each size, digest and type on the way."""
    if _json(files, "oci-layout").get("imageLayoutVersion") != "1.0.0":
        raise Malformed("oci-layout: not of version 1.0.0")
    rows = _json(files, "index.json")["manifests"]
    if len({row["digest"] for row in rows}) != 1:
        raise Malformed(f"index.json: {len(rows)} images")
    manifest = json.loads(_blob(files, rows[0], MANIFESTS))
    config = _blob(files, manifest["config"], CONFIGS)
    layers = []
    for row in manifest["layers"]:
        data = _blob(files, row, (*PLAIN, *GZIP))
        layers.append(zlib.decompress(data, 31) if row["mediaType"] in GZIP else data)
    return _checked(Image("oci", config, layers, rows[0]["digest"]))


def _blob(files: Mapping[str, bytes], row: Mapping[str, Any], types: Sequence[str]) -> bytes:
    name = f"blobs/{row['digest'].replace(':', '/')}"
    if name not in files:
        raise Malformed(f"{name}: not there")
    data = files[name]
    if f"sha256:{hexdigest(data)}" != row["digest"]:
        raise Malformed(f"{name}: its bytes are sha256:{hexdigest(data)}")
    if len(data) != row["size"]:
        raise Malformed(f"{name}: {len(data)} bytes, and {row['size']} announced")
    if row["mediaType"] not in types:
        raise Malformed(f"{name}: of the type {row['mediaType']}")
    return data


def _read_saved(files: Mapping[str, bytes]) -> Image:
    """Read what `docker save` writes: the name of the configuration is its digest."""
    rows = _json(files, "manifest.json")
    if len(rows) != 1:
        raise Malformed(f"manifest.json: {len(rows)} images")
    lacking = [name for name in (rows[0]["Config"], *rows[0]["Layers"]) if name not in files]
    if lacking:
        raise Malformed(f"{lacking[0]}: not there")
    config = files[rows[0]["Config"]]
    if hexdigest(config) not in rows[0]["Config"]:
        raise Malformed(f"{rows[0]['Config']}: its bytes are sha256:{hexdigest(config)}")
    layers = [files[name] for name in rows[0]["Layers"]]
    layers = [zlib.decompress(one, 31) if one[:2] == b"\x1f\x8b" else one for one in layers]
    return _checked(Image("docker", config, layers))


def _checked(image: Image) -> Image:
    """Return the image; raise Malformed where its layers aren't those of its configuration."""
    wanted = json.loads(image.config)["rootfs"]["diff_ids"]
    if image.diff_ids != wanted:
        raise Malformed(f"{image.form}: the layers are {image.diff_ids}, not {wanted}")
    return image


def _json(files: Mapping[str, bytes], name: str) -> Any:
    if name not in files:
        raise Malformed(f"{name}: not there")
    try:
        return json.loads(files[name])
    except ValueError as error:
        raise Malformed(f"{name}: {error}") from None


def entries(one: bytes) -> dict[str, tarfile.TarInfo]:
    """Return what is in a layer, by path. Raises Malformed."""
    try:
        with tarfile.open(fileobj=io.BytesIO(one)) as tar:
            return {os.path.normpath(info.name): info for info in tar}
    except tarfile.TarError as error:
        raise Malformed(str(error)) from None


def spoiled(archive: bytes, part: bytes) -> bytes:
    """Return an archive in which one byte in the middle of `part` is another."""
    at = archive.index(part) + len(part) // 2
    return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]
