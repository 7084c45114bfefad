"""The image store of stage 4: what comes in is whole, or it doesn't come in."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.stage4_overlayfs import image as images
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more import compression, names
from stages.stage4_overlayfs.more.archive import Archive
from stages.stage4_overlayfs.more.exporting import export_layout, export_tar
from stages.stage4_overlayfs.more.history import history, inspect
from stages.stage4_overlayfs.more.importing import import_image
from stages.stage4_overlayfs.more.layout import PLATFORMS
from stages.stage4_overlayfs.more.prune import prune
from stages.stage4_overlayfs.more.shapes import CONFIG, INDEXES, LAYER, MANIFEST
from stages.stage4_overlayfs.more.verify import verify
from stages.stage4_overlayfs.store import Store

MACHINE = PLATFORMS.get(os.uname().machine, os.uname().machine)

NOON = "2024-02-29T12:00:00Z"

# ---- images, as others would write them


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of regular files, as another program writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


LOWER = tar({"bin/true": b"#!/bin/sh\n" * 500, "etc/who": b"lower\n"})
UPPER = tar({"etc/who": b"upper\n", "etc/.wh.gone": b""})


def config_of(layers: list[bytes], **more: Any) -> bytes:
    """Return a configuration; its blanks are those of no canonical JSON, and have to stay."""
    table = {
        "architecture": MACHINE,
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in layers]},
        "history": [
            {"created": NOON, "created_by": "ADD lower"},
            {"created": NOON, "created_by": "ENV A=1", "empty_layer": True},
            {"created": NOON, "created_by": "ADD upper"},
        ],
        **more,
    }
    return json.dumps(table, indent=3).encode()


def descriptor(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": sha(data), "size": len(data), **more}


Packed = Callable[[bytes], bytes]


class Layout:
    """An OCI layout that is about to be written: a test may change any of it first."""

    def __init__(self, packed: Packed = bytes, ending: str = "") -> None:
        self.layers = [LOWER, UPPER]
        self.blobs: dict[str, bytes] = {}
        self.config = config_of(self.layers)
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "config": self.add(CONFIG, self.config),
            "layers": [self.add(LAYER + ending, packed(layer)) for layer in self.layers],
        }
        self.index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.row: dict[str, Any] = {}

    def add(self, kind: str, data: bytes, **more: Any) -> dict[str, Any]:
        self.blobs[f"blobs/sha256/{sha(data)[7:]}"] = data
        return descriptor(kind, data, **more)

    def all(self) -> dict[str, bytes]:
        """Return every file of it."""
        if not self.index["manifests"]:
            data = json.dumps(self.manifest, indent=1).encode()
            self.index["manifests"] = [{**self.add(MANIFEST, data), **self.row}]
        index = json.dumps(self.index).encode()
        return {"index.json": index, **self.files, **self.blobs}

    def write(self, directory: Path) -> str:
        for name, data in self.all().items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
        return str(directory)

    @property
    def digest(self) -> str:
        self.all()
        return str(self.index["manifests"][0]["digest"])


def saved(layers: list[bytes], tag: str = "saved:1") -> dict[str, bytes]:
    """Return the files of a `docker save`, as Docker wrote it before version 25."""
    config = config_of(layers)
    names = [f"{sha(layer)[7:]}/layer.tar" for layer in layers]
    row = {"Config": f"{sha(config)[7:]}.json", "RepoTags": [tag], "Layers": names}
    files = dict(zip(names, layers, strict=True))
    return {f"{sha(config)[7:]}.json": config, **files, "manifest.json": json.dumps([row]).encode()}


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "other"))


def zstd(data: bytes) -> bytes:
    try:
        return bytes(compression.zstd().compress(data))
    except ValueError as error:
        pytest.skip(f"cannot: {error}")


PACKED: dict[str, Packed] = {"": bytes, "+gzip": gzip.compress, "+zstd": zstd}


def blobs(root: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(root, "blobs/sha256").iterdir()}


# ---- coming in, and going out again


@pytest.mark.parametrize("ending", PACKED)
def test_a_layout_comes_out_as_it_came_in(store: Store, tmp_path: Path, ending: str) -> None:
    layout = Layout(PACKED[ending], ending)
    image = import_image(store, layout.write(tmp_path / "in"), "a/b:1")
    assert (image.digest, image.config_digest) == (layout.digest, sha(layout.config))
    export_layout(image, str(tmp_path / "out"), ["a/b:1"])
    assert blobs(str(tmp_path / "out")) == blobs(str(tmp_path / "in")) == blobs(store.root)
    again = import_image(Store(str(tmp_path / "again")), str(tmp_path / "out"), "c")
    assert (again.digest, again.layers) == (image.digest, image.layers)
    assert not verify(store)


@pytest.mark.parametrize("ending", PACKED)
def test_what_docker_loads_has_the_digests_of_the_layout(
    store: Store, other: Store, tmp_path: Path, ending: str
) -> None:
    image = import_image(store, Layout(PACKED[ending], ending).write(tmp_path / "in"), "a")
    with open(tmp_path / "a.tar", "wb") as file:
        export_tar(image, file, ["a"], docker=True)
    for form in ("", "oci", "docker"):
        again = import_image(other, str(tmp_path / "a.tar"), "b", form=form, pick="a:latest")
        assert again.config_digest == image.config_digest
        assert [layer[:2] for layer in again.layers] == [layer[:2] for layer in image.layers]
        assert form == "docker" or again.digest == image.digest


def test_a_docker_save_keeps_its_id_and_layers_on_the_way_through_a_layout(
    store: Store, other: Store, tmp_path: Path
) -> None:
    image = import_image(store, write(tmp_path / "s.tar", tar(saved([LOWER, UPPER]))), "a")
    assert image.config_digest == sha(config_of([LOWER, UPPER]))
    assert [layer[0] for layer in image.layers] == [sha(LOWER), sha(UPPER)]
    export_layout(image, str(tmp_path / "out"), [])
    there = import_image(other, str(tmp_path / "out"), "a")
    with open(tmp_path / "back.tar", "wb") as file:
        export_tar(there, file, ["a"], docker=True)
    back = import_image(other, str(tmp_path / "back.tar"), "back", form="docker")
    assert back.digest == there.digest == image.digest
    with tarfile.open(tmp_path / "back.tar") as archive:
        (row,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert row["RepoTags"] == ["a:latest"]
        layers = [archive.extractfile(name) for name in row["Layers"]]
        assert [layer.read() for layer in layers if layer] == [LOWER, UPPER]


def test_the_same_image_is_exported_as_the_same_bytes(store: Store, tmp_path: Path) -> None:
    image = import_image(store, Layout().write(tmp_path / "in"), "a")
    first, second = io.BytesIO(), io.BytesIO()
    export_tar(image, first, ["a"], docker=True)
    export_tar(image, second, ["a"], docker=True)
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstd])
def test_a_root_file_system_is_an_image_of_one_layer(
    store: Store, tmp_path: Path, packed: Packed
) -> None:
    image = import_image(store, write(tmp_path / "root.tar", packed(LOWER)), "root")
    assert image.layers == [(sha(LOWER), sha(LOWER), LAYER, len(LOWER))]
    ((diff_id, opener),) = image.openers()
    assert (diff_id, opener().read()) == (sha(LOWER), LOWER)
    assert image.config["architecture"] == MACHINE


def test_an_image_comes_through_a_pipe(store: Store) -> None:
    reading, writing = os.pipe()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=writing) as cat:
        os.close(writing)
        assert cat.stdin
        cat.stdin.write(gzip.compress(tar(saved([LOWER, UPPER]))))
        cat.stdin.close()
        with os.fdopen(reading, "rb") as file:
            image = import_image(store, file, "piped")
    assert image.config_digest == sha(config_of([LOWER, UPPER]))
    assert os.listdir(f"{store.root}/tmp") == []


def test_a_directory_is_packed_by_whoever_knows_how(store: Store, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    image = import_image(store, str(tmp_path / "root"), "root", pack=lambda _: [LOWER])
    assert image.layers[0][0] == sha(LOWER)
    with pytest.raises(ValueError, match="no OCI layout"):
        import_image(store, str(tmp_path / "root"), "root")


def test_old_dockers_link_a_layer_that_they_have_already(store: Store, tmp_path: Path) -> None:
    files = saved([LOWER, UPPER])
    _, second = json.loads(files["manifest.json"])[0]["Layers"]
    del files[second]
    out = io.BytesIO(tar({**files, "other/layer.tar": UPPER}))
    with tarfile.open(fileobj=out, mode="a") as archive:
        link = tarfile.TarInfo(second)
        link.type, link.linkname = tarfile.SYMTYPE, "../other/layer.tar"
        archive.addfile(link)
    image = import_image(store, write(tmp_path / "s.tar", out.getvalue()), "a")
    assert [layer[0] for layer in image.layers] == [sha(LOWER), sha(UPPER)]


def test_of_several_images_one_is_picked(store: Store, tmp_path: Path) -> None:
    one, two = saved([LOWER], "one:1"), saved([LOWER, UPPER], "two:1")
    rows = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    files = {**one, **two, "manifest.json": json.dumps(rows).encode()}
    path = write(tmp_path / "s.tar", tar(files))
    assert len(import_image(store, path, "a", pick="two:1").layers) == 2
    for pick in ("", "three:1"):
        with pytest.raises(ValueError, match="pick one of one:1, two:1"):
            import_image(store, path, "a", pick=pick)


def test_an_index_of_platforms_gives_that_of_this_machine(store: Store, tmp_path: Path) -> None:
    layout = Layout()
    data = json.dumps(layout.manifest).encode()
    mine = layout.add(MANIFEST, data, platform={"os": "linux", "architecture": MACHINE})
    other = layout.add(MANIFEST, b"{}", platform={"os": "linux", "architecture": "vax"})
    told = layout.add(MANIFEST, b"{ }", platform={"os": "unknown", "architecture": "unknown"})
    inner = json.dumps({"schemaVersion": 2, "manifests": [other, mine, told]}).encode()
    layout.index["manifests"] = [layout.add(INDEXES[0], inner)]
    assert import_image(store, layout.write(tmp_path / "in"), "a").digest == sha(data)


def run(*line: str) -> None:
    subprocess.run(line, check=True, capture_output=True, timeout=60)


@pytest.mark.peers
def test_skopeo_and_umoci_read_what_we_write_and_the_reverse(
    store: Store, other: Store, tmp_path: Path
) -> None:
    layout = Layout(gzip.compress, "+gzip")
    image = import_image(store, layout.write(tmp_path / "in"), "a:1")
    export_layout(image, str(tmp_path / "out"), ["a:1"])
    run("umoci", "stat", "--image", f"{tmp_path}/out:1")
    run("skopeo", "copy", f"oci:{tmp_path}/out:1", f"docker-archive:{tmp_path}/d.tar:a:1")
    there = import_image(other, str(tmp_path / "d.tar"), "b")
    assert there.config_digest == image.config_digest
    with open(tmp_path / "e.tar", "wb") as file:
        export_tar(image, file, ["a:1"], docker=True)
    run("skopeo", "copy", f"docker-archive:{tmp_path}/e.tar:a:1", f"oci:{tmp_path}/back:1")
    back = import_image(other, str(tmp_path / "back"), "c")
    assert [layer[0] for layer in back.layers] == [layer[0] for layer in image.layers]
    run("skopeo", "copy", f"oci-archive:{tmp_path}/e.tar:1", f"oci:{tmp_path}/same:1")
    assert import_image(other, str(tmp_path / "same"), "d").digest == image.digest


# ---- what comes in hostile


BOMB = gzip.compress(bytes(64 << 20))


def changed(change: Callable[[Layout], object]) -> Callable[[], dict[str, bytes]]:
    def build() -> dict[str, bytes]:
        layout = Layout(gzip.compress, "+gzip")
        change(layout)
        return layout.all()

    return build


def with_config(**more: Any) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        data = config_of(layout.layers, **more)
        layout.manifest["config"] = layout.add(CONFIG, data)

    return change


def with_layer(data: bytes, ending: str = "+gzip") -> Callable[[Layout], object]:
    return lambda layout: layout.manifest["layers"].__setitem__(0, layout.add(LAYER + ending, data))


def without_layer(layout: Layout) -> None:
    del layout.blobs[f"blobs/sha256/{layout.manifest['layers'][0]['digest'][7:]}"]


def rotten_layer(layout: Layout) -> None:
    name = f"blobs/sha256/{layout.manifest['layers'][0]['digest'][7:]}"
    layout.blobs[name] = layout.blobs[name][:-1] + b"\xff"


def raw_manifest(data: bytes) -> Callable[[Layout], object]:
    return lambda layout: layout.index["manifests"].append(layout.add(MANIFEST, data))


def deep_index(layout: Layout) -> None:
    row = layout.add(MANIFEST, json.dumps(layout.manifest).encode())
    for _ in range(9):
        row = layout.add(INDEXES[0], json.dumps({"manifests": [row]}).encode())
    layout.index["manifests"] = [row]


def rotten_index(layout: Layout) -> None:
    row = layout.add(MANIFEST, json.dumps(layout.manifest).encode())
    row = layout.add(INDEXES[0], json.dumps({"manifests": [row]}).encode())
    name = f"blobs/sha256/{row['digest'][7:]}"
    layout.blobs[name] = layout.blobs[name].replace(b": [", b":\n[")
    layout.index["manifests"] = [row]


HOSTILE: dict[str, tuple[Callable[[Layout], object], str]] = {
    "size-lies": (
        lambda layout: layout.manifest["layers"][0].update(size=7),
        "where 7 are announced",
    ),
    "size-negative": (lambda layout: layout.manifest["layers"][0].update(size=-1), "size of"),
    "size-text": (lambda layout: layout.manifest["layers"][0].update(size="9"), "size of"),
    "size-true": (lambda layout: layout.manifest["config"].update(size=True), "size of"),
    "digest-leaves": (
        lambda layout: layout.manifest["layers"][0].update(digest="sha256:../../../etc/passwd"),
        "not a digest",
    ),
    "digest-of-md5": (
        lambda layout: layout.manifest["config"].update(digest=f"md5:{'0' * 32}"),
        "not a digest",
    ),
    "digest-number": (lambda layout: layout.manifest["config"].update(digest=5), "digest"),
    "no-digest": (lambda layout: layout.manifest["config"].pop("digest"), "lacks its digest"),
    "layer-missing": (without_layer, "no file blobs/sha256/"),
    "layer-rotten": (rotten_layer, "damaged gzip"),
    "layer-another": (with_layer(gzip.compress(b"another")), "the layer in it is"),
    "layer-cut-off": (with_layer(gzip.compress(LOWER)[:-30]), "ends too early"),
    "layer-with-a-tail": (with_layer(gzip.compress(LOWER) + b"tail"), "damaged gzip"),
    "layer-no-gzip": (with_layer(LOWER), "damaged gzip"),
    "layer-plain-another": (with_layer(UPPER, ""), "not compressed"),
    "layer-bomb": (with_layer(BOMB), "more than 1048576 bytes"),
    "layer-of-music": (
        lambda layout: layout.manifest["layers"][0].update(mediaType="audio/ogg"),
        "audio/ogg, not a tar",
    ),
    "layers-missing": (lambda layout: layout.manifest.pop("layers"), "not a list"),
    "layers-a-text": (lambda layout: layout.manifest.update(layers="x"), "not a list"),
    "layers-of-texts": (lambda layout: layout.manifest.update(layers=["x"]), "not an object"),
    "layers-too-many": (
        lambda layout: layout.manifest.update(layers=layout.manifest["layers"] * 300),
        "at most 500",
    ),
    "layers-one-less": (lambda layout: layout.manifest["layers"].pop(), "1 layers, but 2"),
    "manifest-also-an-index": (lambda layout: layout.manifest.update(manifests=[]), "not an image"),
    "manifest-of-another-type": (
        lambda layout: layout.manifest.update(mediaType=INDEXES[0]),
        "not an image",
    ),
    "manifest-a-list": (raw_manifest(b"[]"), "not an object"),
    "manifest-a-number": (raw_manifest(b"7"), "not an object"),
    "manifest-no-json": (raw_manifest(b"{"), "not JSON"),
    "manifest-nan": (raw_manifest(b'{"config": NaN}'), "not JSON"),
    "manifest-no-utf8": (raw_manifest(b'"\xff"'), "not JSON"),
    "manifest-a-key-twice": (raw_manifest(b'{"layers": [], "layers": []}'), "twice"),
    "manifest-deep": (raw_manifest(b"[" * 100_000), "nested too deeply"),
    "manifest-long": (raw_manifest(b" " * (5 << 20)), "longer than"),
    "manifest-many-digits": (raw_manifest(b"1" * 100_000), "not JSON"),
    "config-of-an-artifact": (
        lambda layout: layout.manifest["config"].update(mediaType="application/vnd.cncf.helm"),
        "not a container's image",
    ),
    "config-for-windows": (with_config(os="windows"), "for windows"),
    "config-no-rootfs": (with_config(rootfs=None), "not an object"),
    "config-diff-ids": (with_config(rootfs={"diff_ids": ["x", "y"]}), "not a digest"),
    "config-diff-ids-text": (with_config(rootfs={"diff_ids": "xy"}), "not a list of texts"),
    "config-env": (with_config(config={"Env": {"A": "1"}}), "Env is not a list of texts"),
    "config-env-numbers": (with_config(config={"Env": [1]}), "Env is not a list of texts"),
    "config-cmd": (with_config(config={"Cmd": "/bin/true"}), "Cmd is not a list of texts"),
    "config-user": (with_config(config={"User": 0}), "User is not a text"),
    "config-labels": (with_config(config={"Labels": {"a": 1}}), "Labels is not an object of texts"),
    "config-volumes": (with_config(config={"Volumes": ["/a"]}), "Volumes is not an object"),
    "config-history": (with_config(history={"a": 1}), "history is not a list"),
    "config-history-text": (with_config(history=["a"]), "not an object"),
    "index-deep": (deep_index, "not an image's manifest"),
    "index-rotten": (rotten_index, "its bytes have the digest"),
    "index-empty": (
        lambda layout: layout.files.update({"index.json": b'{"manifests": []}'}),
        "pick one of none",
    ),
    "index-an-image": (
        lambda layout: layout.files.update({"index.json": b'{"manifests": [], "layers": []}'}),
        "not an index",
    ),
    "layout-of-the-future": (
        lambda layout: layout.files.update({"oci-layout": b'{"imageLayoutVersion": "9"}'}),
        "of version 9",
    ),
    "platform-a-text": (lambda layout: layout.row.update(platform="linux"), "not an object"),
    "annotations-a-text": (lambda layout: layout.row.update(annotations="x"), "annotations"),
    "another-machine": (
        lambda layout: layout.row.update(platform={"os": "linux", "architecture": "vax"}),
        "no image for this machine",
    ),
}


def check_refused(store: Store, source: str, words: str, **how: Any) -> None:
    """Import what has to be refused, in one line that says where, and nothing is to be left."""
    with pytest.raises((ValueError, OSError), match=words) as caught:
        import_image(store, source, "hostile", **how)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 1000
    if isinstance(caught.value, ValueError):
        assert source in line
        assert line.count(": ") >= 2
    assert store.names() == {}
    assert os.listdir(f"{store.root}/tmp") == []
    assert not verify(store)


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("packed", [False, True], ids=["directory", "tar"])
def test_a_hostile_layout_is_refused(store: Store, tmp_path: Path, case: str, packed: bool) -> None:
    change, words = HOSTILE[case]
    layout = Layout(gzip.compress, "+gzip")
    change(layout)
    source = str(tmp_path / "in")
    if packed:
        write(tmp_path / "in", tar(layout.all()))
    else:
        layout.write(tmp_path / "in")
        words = words.replace("no file blobs", "No such file|blobs")
    check_refused(store, source, words, limit=1 << 20)


def hostile_save(case: str) -> dict[str, bytes]:
    """Return a `docker save` with something wrong in it."""
    files = saved([LOWER, UPPER])
    (row,) = json.loads(files["manifest.json"])
    _, second = row["Layers"]
    if case == "layer-another":
        files[second] = LOWER
    elif case == "layer-missing":
        del files[second]
    elif case == "layer-bomb":
        files[second] = BOMB
    elif case == "layer-too-long":
        files[second] = bytes(2 << 20)
    elif case == "config-another":
        files[row["Config"]] += b" "
    elif case == "config-outside":
        row["Config"] = "../../../../etc/passwd"
    elif case == "config-a-number":
        row["Config"] = 7
    elif case == "no-layers":
        row["Layers"] = []
    elif case == "layers-a-text":
        row["Layers"] = "abc"
    elif case == "no-config":
        del row["Config"]
    rows = {"no-list": {"a": row}, "of-numbers": [7], "none": []}.get(case, [row])
    return {**files, "manifest.json": json.dumps(rows).encode()}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("layer-another", "digest"),
        ("layer-missing", "no file"),
        ("layer-bomb", "more than 1048576 bytes"),
        ("layer-too-long", "more than 1048576 bytes"),
        ("config-another", "its bytes have the digest"),
        ("config-outside", "no file"),
        ("config-a-number", "Config is not a text"),
        ("no-layers", "0 layers, but 2"),
        ("layers-a-text", "not a list of texts"),
        ("no-config", "lacks its Config"),
        ("no-list", "not a list"),
        ("of-numbers", "not an object"),
        ("none", "0 images"),
    ],
)
def test_a_hostile_docker_save_is_refused(
    store: Store, tmp_path: Path, case: str, words: str
) -> None:
    path = write(tmp_path / "s.tar", tar(hostile_save(case)))
    check_refused(store, path, words, limit=1 << 20)


def forged(**fields: bytes) -> bytes:
    """Return a header with these fields, and a checksum that is right."""
    places = {"name": 0, "size": 124, "kind": 156, "link": 157}
    block = bytearray(tar({"manifest.json": b""})[:512])
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


ARCHIVES = {
    "nothing": (b"", "empty"),
    "a-text": (b"what is this?\n" * 100, "not a tar"),
    "a-short-text": (b"what", "not a tar"),
    "cut-off": (LOWER[:2000], "ends in the middle"),
    "size-negative": (forged(size=b"\xff" * 12) + bytes(1024), "not a tar"),
    "size-huge": (forged(size=b"\x80" + b"\xff" * 11) + bytes(1024), "ends in the middle"),
    "size-letters": (forged(size=b"0x000000000\0") + bytes(1024), "not a tar"),
    "checksum": (b"x" + LOWER[1:], "not a tar"),
    "long-name-huge": (forged(kind=b"L", size=b"77777777777\0") + bytes(1024), "ends in the"),
    "extended-huge": (forged(kind=b"x", size=b"00010000000\0") + bytes(3 << 20), "extended header"),
    "extended-zero": (
        forged(kind=b"x", size=b"00000000010\0") + b"0 a=b\n\0\0".ljust(512, b"\0"),
        "extended header",
    ),
    "extended-size": (
        forged(kind=b"x", size=b"00000000013\0") + b"11 size=-5\n".ljust(512, b"\0"),
        "extended header",
    ),
    "gzip-cut-off": (gzip.compress(LOWER)[:-9], "ends too early"),
    "gzip-bomb": (BOMB, "more than 1048576 bytes"),
    "twice": (tar({"manifest.json": b"[]"})[:1024] + tar(saved([LOWER])), "in it twice"),
    "link-in-a-circle": (
        forged(kind=b"2", link=b"manifest.json\0") + bytes(1024),
        "no file manifest.json",
    ),
    "link-outside": (
        forged(kind=b"2", link=b"../../../../etc/passwd\0") + bytes(1024),
        "no file manifest.json",
    ),
    "escapes-of-a-terminal": (
        tar({"manifest.json": b'[{"Config": "\\u001b[2J\\n", "Layers": []}]'}),
        r"no file \\x1b\[2J\\n",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_hostile_archive_is_refused(store: Store, tmp_path: Path, case: str) -> None:
    data, words = ARCHIVES[case]
    check_refused(store, write(tmp_path / "s.tar", data), words, limit=1 << 20)


def test_a_link_or_a_pipe_in_a_layout_is_not_read(store: Store, tmp_path: Path) -> None:
    source = Layout().write(tmp_path / "in")
    index = tmp_path / "in/index.json"
    index.rename(tmp_path / "secret")
    index.symlink_to(tmp_path / "secret")
    check_refused(store, source, "a link")
    index.unlink()
    os.mkfifo(index)
    check_refused(store, source, "not a regular file")
    index.unlink()
    (tmp_path / "secret").rename(index)
    (tmp_path / "in/blobs").rename(tmp_path / "blobs")
    (tmp_path / "in/blobs").symlink_to(tmp_path / "blobs")
    check_refused(store, source, "a link")


def test_names_of_every_form_of_tar_are_read(tmp_path: Path) -> None:
    long = f"{'d' * 90}/{'e' * 150}"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO(tar({long: b"abc", "./b": b"de"}, form))
        archive = Archive(file, "a tar")
        assert [b"".join(archive.chunks(name)) for name in (long, "b")] == [b"abc", b"de"]
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as out:
        for piece in range(40):
            out.seek(piece << 17)
            out.write(b"x")
    after = tmp_path / "zz"
    after.write_bytes(b"after")
    run("tar", "-C", str(tmp_path), "--sparse", "-cf", f"{tmp_path}/s.tar", "sparse", "zz")
    with open(tmp_path / "s.tar", "rb") as reading:
        assert b"".join(Archive(reading, "a tar").chunks("zz")) == b"after"


def test_whatever_is_changed_in_an_image_it_is_refused_or_whole(
    store: Store, tmp_path: Path
) -> None:
    chance = random.Random(8)
    layout = tar(Layout(gzip.compress, "+gzip").all())
    for n in range(150):
        data = bytearray(chance.choice([layout, tar(saved([LOWER, UPPER]))]))
        for _ in range(chance.choice([1, 4, 30])):
            at = chance.randrange(len(data))
            data[at] = chance.choice([0, 0xFF, ord("7"), chance.randrange(256)])
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        with contextlib.suppress(ValueError):
            import_image(store, write(tmp_path / "s.tar", bytes(data)), f"n:{n}", limit=1 << 20)
    assert verify(store) == []
    assert os.listdir(f"{store.root}/tmp") == []


def test_a_full_disk_is_named_and_the_store_stays_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="image prune") as caught:
            import_image(store, Layout().write(tmp_path / "in"), "a")
    assert caught.value.filename == store.root
    assert os.listdir(f"{store.root}/tmp") == []
    assert verify(store) == []


# ---- compression


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_what_is_compressed_in_several_pieces_comes_out_whole(kind: str) -> None:
    packed = {"gzip": gzip.compress, "zstd": zstd}[kind]
    plain = random.Random(4).randbytes(3 << 20) + bytes(5 << 20)
    data = packed(plain[: 1 << 20]) + packed(b"") + packed(plain[1 << 20 :])
    data += bytes(700) if kind == "gzip" else b""
    for step in (1 << 20, 4097):
        pieces = (data[at : at + step] for at in range(0, len(data), step))
        out = list(compression.inflate(pieces, kind))
        assert b"".join(out) == plain
        assert max(map(len, out)) <= 1 << 20
    with pytest.raises(ValueError, match="ends too early"):
        list(compression.inflate([packed(plain)[:-5]], kind))


def test_without_zstd_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ValueError, match=r"pip install backports\.zstd"):
        list(compression.inflate([b""], "zstd"))


# ---- names


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("a", "a:latest"),
        ("a:1", "a:1"),
        ("a.b/c_d/e__f--g:A_b.c-D", "a.b/c_d/e__f--g:A_b.c-D"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("Host.example/a", "Host.example/a:latest"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b"),
    ],
)
def test_a_name_of_oci_leads_to_its_image(store: Store, said: str, full: str) -> None:
    digest, _ = store.add([b"{}"])
    store.tag(said, digest)
    assert store.names() == {full: digest}
    assert store.resolve(said) == store.resolve(full) == digest
    store.untag(said)
    with pytest.raises(FileNotFoundError, match="no image has this name"):
        store.resolve(said)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "..",
            "../a",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "-a",
            "A",
            "a b",
            "a\n",
            "a:",
            ":a",
        ),
        *("a:b:c", "a~b", "a\0b", "ä", "a:-b", "a@b", "a" * 256, "a:" + "b" * 129, "sha256:abc"),
        *("a/" * 127 + "a" * 20, "a" * 250, "a\x1b[2J"),
    ],
)
def test_any_other_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    digest, _ = store.add([b"{}"])
    uses: list[Callable[[], None]] = [
        lambda: store.tag(name, digest),
        lambda: store.untag(name),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="say") as caught:
            use()
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
    assert store.names() == {}


def test_only_a_digest_is_one(store: Store) -> None:
    for text in ("", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64):
        with pytest.raises(ValueError, match="not a digest"):
            store.open(text)
    with pytest.raises(FileNotFoundError, match="no such blob"):
        store.open("sha256:" + "a" * 64)
    with pytest.raises(FileNotFoundError):
        store.tag("a", "sha256:" + "a" * 64)
    assert names.full_name("a") == "a:latest"


# ---- the store itself


def test_a_blob_is_kept_once_and_checked_when_it_is_read(store: Store) -> None:
    digest, size = store.add([b"one ", b"two"])
    before = os.stat(store.path(digest))
    assert (digest, size) == (sha(b"one two"), 7)
    assert store.add([b"one two"]) == (digest, size)
    assert os.stat(store.path(digest)) == before
    assert store.read(digest) == b"one two"
    with pytest.raises(ValueError, match="have the digest"):
        store.add([b"three"], digest)
    Path(store.path(digest)).write_bytes(b"one owt")
    with pytest.raises(OSError, match="damaged"):
        store.read(digest)
    assert os.listdir(f"{store.root}/tmp") == []


def test_a_layer_that_rots_is_found_by_whoever_reads_it(store: Store, tmp_path: Path) -> None:
    image = import_image(store, Layout(gzip.compress, "+gzip").write(tmp_path / "in"), "a")
    path = Path(store.path(image.layers[0][1]))
    path.write_bytes(gzip.compress(UPPER))
    with pytest.raises(OSError, match="damaged"):
        image.openers()[0][1]().read()
    with pytest.raises(OSError, match="damaged"):
        export_tar(image, io.BytesIO(), ["a"], docker=True)


def test_only_its_owner_may_look_into_a_store(store: Store) -> None:
    for part in ("blobs", "names", "tmp", "layers", "containers"):
        assert os.stat(f"{store.root}/{part}").st_mode & 0o777 == 0o700
    assert os.stat(store.root).st_mode & 0o777 == 0o710


def test_who_shares_the_lock_cant_have_it_alone(store: Store) -> None:
    with (
        store.locked(shared=True),
        store.locked(shared=True),
        pytest.raises(OSError, match="deadlock"),
        store.locked(shared=False),
    ):
        pass
    with store.locked(shared=False), store.locked(shared=True):
        store.add([b"x"])


def test_layers_of_our_own_make_an_image(store: Store) -> None:
    with store.locked(shared=True):
        layer = images.add_layer(store, [LOWER])
        image = images.new(store, {"os": "linux", "architecture": MACHINE}, [layer, layer])
        image.tag("own")
    assert store.resolve("own") == image.digest
    assert Image(store, image.digest).layers == [layer, layer]
    # An object in another order is the same image.
    assert images.new(store, {"architecture": MACHINE, "os": "linux"}, [layer, layer]).digest == (
        image.digest
    )
    assert not verify(store)


def test_an_image_tells_its_history(store: Store, tmp_path: Path) -> None:
    image = import_image(store, Layout().write(tmp_path / "in"), "a")
    rows = history(image)
    assert [row["created_by"] for row in rows] == ["ADD lower", "ENV A=1", "ADD upper"]
    assert [row["empty"] for row in rows] == [False, True, False]
    assert [row["size"] for row in rows] == [len(LOWER), 0, len(UPPER)]
    told = inspect(image, ["a:latest"])
    assert told["Id"] == image.config_digest
    assert told["Config"]["Cmd"] == ["/bin/true"]
    assert told["RootFS"]["Layers"] == [sha(LOWER), sha(UPPER)]
    assert told["Size"] == len(LOWER) + len(UPPER)
    image.config["history"] = None
    assert [row["created_by"] for row in history(image)] == ["", ""]


# ---- verify


def spoil_blob(store: Store, image: Image) -> None:
    with open(store.path(image.layers[0][1]), "r+b") as file:
        file.write(b"\0\0\0")


def spoil_diff_id(store: Store, image: Image) -> None:
    data = config_of([UPPER, LOWER])
    other = images.new(store, data, image.layers)
    store.tag("a", other.digest)


def spoil_size(store: Store, image: Image) -> None:
    manifest = json.loads(store.read(image.digest))
    manifest["layers"][0]["size"] = manifest["config"]["size"] = 3
    store.tag("a", store.add([json.dumps(manifest).encode()])[0])


def spoil_container(store: Store, image: Image) -> None:
    Path(store.root, "containers/c").mkdir()
    Path(store.root, "containers/c/image").write_text("sha256:" + "0" * 64)


SPOILT: dict[str, tuple[Callable[[Store, Image], object], str]] = {
    "a-blob": (spoil_blob, "damaged"),
    "a-diff-id": (spoil_diff_id, "not sha256"),
    "sizes": (spoil_size, "where the manifest says 3"),
    "no-layer": (lambda store, image: os.unlink(store.path(image.layers[1][1])), "no such blob"),
    "no-config": (lambda store, image: os.unlink(store.path(image.config_digest)), "no such blob"),
    "no-manifest": (lambda store, image: os.unlink(store.path(image.digest)), "no such blob"),
    "a-name": (
        lambda store, image: Path(store.root, "names/a:latest").write_text("what?"),
        "not a digest",
    ),
    "an-empty-name": (lambda store, image: Path(store.root, "names/b:1").touch(), "not a digest"),
    "a-name-of-none": (
        lambda store, image: Path(store.root, "names/B").write_text(image.digest),
        "not an image's name",
    ),
    "a-name-of-a-layer": (lambda store, image: store.tag("b", image.layers[0][1]), "not JSON"),
    "a-stranger": (lambda store, image: Path(store.root, "blobs/sha256/x").touch(), "not a blob"),
    "a-container": (
        spoil_container,
        "containers/c",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_verify_finds(store: Store, tmp_path: Path, case: str) -> None:
    image = import_image(store, Layout(gzip.compress, "+gzip").write(tmp_path / "in"), "a")
    assert not verify(store)
    spoil, words = SPOILT[case]
    spoil(store, image)
    faults = verify(store)
    assert any(words in fault for fault in faults), faults
    assert not any("\n" in fault for fault in faults)


# ---- prune


def test_prune_takes_what_nobody_needs_and_no_more(store: Store, tmp_path: Path) -> None:
    kept = import_image(store, Layout().write(tmp_path / "in"), "kept")
    alone = import_image(store, write(tmp_path / "b.tar", tar({"b": b"b"})), "b")
    held = import_image(store, write(tmp_path / "c.tar", tar({"c": b"c"})), "c")
    for image, name in ((kept, "ovl"), (alone, "ovl"), (held, "vfs")):
        os.makedirs(f"{store.root}/layers/{name}/{image.layers[0][0][7:]}")
    os.mkdir(f"{store.root}/containers/one")
    Path(store.root, "containers/one/image").write_text(held.digest)
    Path(store.root, "tmp/left").write_bytes(b"over")
    Path(store.root, "tmp/tree/below").mkdir(parents=True)
    store.untag("b")
    store.untag("c")
    layers: list[tuple[str, str]] = []
    told = prune(store, lambda *layer: layers.append(layer), dry_run=True)
    assert (len(told.blobs), layers) == (3, [])
    gone = prune(store, lambda *layer: layers.append(layer))
    assert {*gone.blobs} == {alone.digest, alone.config_digest, alone.layers[0][1]}
    assert layers == gone.layers == [("ovl", alone.layers[0][0])]
    assert (gone.leftovers, gone.size) == (["left", "tree"], told.size)
    assert os.listdir(f"{store.root}/tmp") == []
    assert not verify(store)
    assert [store.has(layer[1]) for layer in kept.layers + held.layers] == [True] * 3
    assert prune(store).blobs == []


def test_prune_removes_nothing_where_it_cant_know(store: Store, tmp_path: Path) -> None:
    image = import_image(store, Layout().write(tmp_path / "in"), "a")
    store.add([b"nobody's"])
    os.unlink(store.path(image.config_digest))
    before = blobs(store.root)
    with pytest.raises(ValueError, match="image verify"):
        prune(store)
    assert blobs(store.root) == before


# ---- many at once, and killed


def forked(work: Callable[[], object]) -> int:
    """Start a process that does one thing; it ends with 0 where that went well."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.nice(19)
        work()
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def big(tmp_path: Path, salt: int) -> str:
    """Return a `docker save` of three layers with a mebibyte each."""
    noise = random.Random(salt)
    layers = [tar({f"f{n}": noise.randbytes(1 << 20)}) for n in range(3)]
    return write(tmp_path / f"big{salt}.tar", tar(saved(layers)))


def test_eight_processes_import_one_image_at_once(store: Store, tmp_path: Path) -> None:
    path = big(tmp_path, 1)
    pids = [
        forked(lambda n=n: import_image(Store(store.root), path, f"same/{n}"))  # type: ignore[misc]
        for n in range(8)
    ]
    assert [ended(pid) for pid in pids] == [0] * 8
    assert len({*store.names().values()}) == 1
    assert len(store.names()) == 8
    assert len(os.listdir(f"{store.root}/blobs/sha256")) == 5
    assert os.listdir(f"{store.root}/tmp") == []
    assert not verify(store)


def test_prune_waits_for_those_who_import(store: Store, tmp_path: Path) -> None:
    def import_them(salt: int) -> None:
        for n in range(6):
            path = write(tmp_path / f"{salt}-{n}", tar({f"{salt}{n}": b"x"}))
            import_image(Store(store.root), path, "a")

    def prune_them() -> None:
        for _ in range(12):
            prune(Store(store.root))
            time.sleep(0.002)

    works = [*(lambda salt=salt: import_them(salt) for salt in range(3)), prune_them]
    pids = [forked(work) for work in works]
    assert [ended(pid) for pid in pids] == [0] * 4
    assert not verify(store)
    prune(store)
    assert len(os.listdir(f"{store.root}/blobs/sha256")) == 3


def test_prune_has_the_lock_alone(store: Store) -> None:
    with store.locked(shared=True):
        pid = forked(lambda: prune(Store(store.root)))
        time.sleep(0.2)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert ended(pid) == 0


@pytest.mark.once
def test_sigkill_never_leaves_a_store_that_verify_rejects(store: Store, tmp_path: Path) -> None:
    paths = [big(tmp_path, salt) for salt in range(4)]

    def work(n: int) -> None:
        mine = Store(store.root)
        import_image(mine, paths[n % 4], f"image/{n % 3}")
        if n % 5 == 0:
            mine.untag(f"image/{n % 3}")
            prune(mine)

    started = time.monotonic()
    assert ended(forked(lambda: work(0))) == 0
    longest = time.monotonic() - started
    chance, killed = random.Random(), 0
    for n in range(1000):
        pid = forked(lambda n=n: work(n))  # type: ignore[misc]
        time.sleep(chance.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == -signal.SIGKILL:
            killed += 1
        else:
            longest *= 0.9  # it was quicker than the first, which other work may have held up
        assert verify(store) == []
        if n % 10 == 9:
            # Else most imports would find all their blobs there.
            for name in store.names():
                store.untag(name)
            prune(store)
        if killed == 100:
            break
    assert killed == 100
    prune(store)
    assert os.listdir(f"{store.root}/tmp") == []
    assert not verify(store)
