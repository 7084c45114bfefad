"""Images from registries and to them: whole or not at all, and nobody hears more than he has to."""

import base64
import ctypes
import errno
import gzip
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.stage4_overlayfs import image as images
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more import credentials, wire
from stages.stage4_overlayfs.more.compression import zstd
from stages.stage4_overlayfs.more.distribution import FETCH, SEND, THERE, pull, push
from stages.stage4_overlayfs.more.progress import Progress
from stages.stage4_overlayfs.more.prune import prune
from stages.stage4_overlayfs.more.references import reference_to
from stages.stage4_overlayfs.more.shapes import CONFIGS, DOCKER, INDEXES, LAYER, MANIFESTS
from stages.stage4_overlayfs.more.verify import verify
from stages.stage4_overlayfs.store import Store
from tests.running import BIN, cannot, run
from tests.stages.registries import Answer, Made, Request, Small, registry_of_docker, sha, tar

STAGE4 = str(BIN / "stage4")
ONES = f"sha256:{'1' * 64}"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody's credentials, and nobody's proxy."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def small() -> Iterator[Small]:
    with Small().serving() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Small]:
    with Small().serving() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "other"))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: a test needn't wait for a server that will never be better."""
    monkeypatch.setattr(wire, "PAUSES", (0.0, 0.0))


def blobs(store: Store) -> dict[str, bytes]:
    return {f"sha256:{p.name}": p.read_bytes() for p in Path(store.root, "blobs/sha256").iterdir()}


def whole(store: Store) -> bool:
    """Return whether nothing is wrong with a store, nor unfinished in it."""
    return verify(store) == [] and os.listdir(f"{store.root}/tmp") == []


def built(store: Store, *tars: bytes) -> Image:
    """Return an image of our own, with the name `mine`."""
    with store.locked(shared=True):
        layers = [images.add_layer(store, [data]) for data in tars or (tar(who=b"me\n" * 999),)]
        image = images.new(store, {"architecture": "any", "os": "linux", "config": {}}, layers)
        image.tag("mine")
    return image


# ---- what a reference is


@pytest.mark.parametrize(
    ("said", "full", "server"),
    [
        ("busybox", "docker.io/library/busybox:latest", "registry-1.docker.io"),
        ("me/tool:2", "docker.io/me/tool:2", "registry-1.docker.io"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "registry-1.docker.io"),
        ("index.docker.io/me/a", "docker.io/me/a:latest", "registry-1.docker.io"),
        ("localhost/a", "localhost/a:latest", "localhost"),
        ("localhost:5000/a:1", "localhost:5000/a:1", "localhost:5000"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000"),
        ("ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x", "ghcr.io"),
        (f"a.b/c:1@{ONES}", f"a.b/c:1@{ONES}", "a.b"),
        (f"a.b/c@{ONES}", f"a.b/c@{ONES}", "a.b"),
        (f"busybox@{ONES}", f"docker.io/library/busybox@{ONES}", "registry-1.docker.io"),
    ],
)
def test_a_reference_has_dockers_defaults(said: str, full: str, server: str) -> None:
    assert (str(reference_to(said)), reference_to(said).server) == (full, server)


@pytest.mark.parametrize(
    "said",
    [
        "", "UP", "a b", "a:b:c", "a//b", "../a", "a/../b", "http://a.b/c", "a@sha256:1", "a@",
        "a@md5:11", f"a@{ONES}@{ONES}", "a.b:0/c", "a.b:65536/c", "a.b:99999999999999/c",
        "a@sha256:../../x", "a\n", "a?b", "user:word@a.b/c",
    ],
)  # fmt: skip
def test_anything_else_is_none(said: str) -> None:
    with pytest.raises(ValueError, match="say"):
        reference_to(said)


def test_what_is_nearly_one_is_mended_in_the_message() -> None:
    for said, meant in (
        ("https://a.b:5/c:1", "say a.b:5/c:1"),
        ("docker://a.b/c", "say a.b/c"),
        ("localhost:5000", "say localhost:5000/NAME"),
        ("127.0.0.1", "say 127.0.0.1/NAME"),
    ):
        with pytest.raises(ValueError, match=f"{meant}$"):
            reference_to(said)


# ---- there and back


def with_zstd(data: bytes) -> bytes:
    try:
        return bytes(zstd().compress(data))
    except ValueError as error:
        pytest.skip(f"cannot: {error}")


FORMS: dict[str, Callable[[], Made]] = {
    "gzip": Made,
    "plain": lambda: Made(packed=bytes, kind=LAYER),
    "zstd": lambda: Made(packed=with_zstd, kind=f"{LAYER}+zstd"),
    "docker": lambda: Made(
        kind=f"{DOCKER}image.rootfs.diff.tar.gzip",
        manifest_kind=MANIFESTS[1],
        config_kind=CONFIGS[1],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_comes_and_goes_byte_for_byte(
    small: Small, elsewhere: Small, store: Store, form: str
) -> None:
    made = FORMS[form]()
    small.keep(made)
    image = pull(store, f"{small.host}/a")
    assert image.digest == made.digest
    assert blobs(store) == {**small.blobs, made.digest: made.manifest}
    assert store.names() == {f"{small.host}/a:latest": made.digest}
    assert push(store, f"{small.host}/a", f"{elsewhere.host}/a:2") == made.digest
    assert elsewhere.blobs == small.blobs
    assert elsewhere.manifests["2"] == small.manifests["latest"]
    assert whole(store)


def test_an_index_gives_the_image_of_this_machine(small: Small, store: Store) -> None:
    made, strange = Made(), Made(tar(strange=b""))
    small.keep(made, "mine")
    small.keep(strange, "strange")

    def row(one: Made, machine: str) -> dict[str, Any]:
        place = {"os": "linux", "architecture": machine}
        size = len(one.manifest)
        return {"mediaType": one.kind, "digest": one.digest, "size": size, "platform": place}

    rows = [row(strange, "vax"), row(made, made.table["architecture"])]
    index = json.dumps({"schemaVersion": 2, "manifests": rows}).encode()
    for kind in INDEXES:
        small.manifests["latest"] = small.manifests[sha(index)] = kind, index
        assert pull(store, f"{small.host}/a").digest == made.digest
        assert pull(store, f"{small.host}/a:1@{sha(index)}").digest == made.digest
    assert not store.has(strange.digest)


def test_what_is_there_already_is_not_fetched_again(small: Small, store: Store) -> None:
    base, more = Made(tar(a=b"1")), Made(tar(a=b"1"), tar(b=b"2"))
    small.keep(base, "1")
    small.keep(more, "2")
    heard: list[tuple[str, str, int, int]] = []
    pull(store, f"{small.host}/a:1")
    pull(store, f"{small.host}/a:2", tell=lambda *words: heard.append(words))
    size = len(more.blobs[1])
    assert (THERE, sha(base.blobs[0]), len(base.blobs[0]), len(base.blobs[0])) in heard
    assert (FETCH, sha(more.blobs[1]), size, size) in heard
    assert len(small.said(f"GET /v2/a/blobs/{sha(base.blobs[0])}")) == 1
    before = len(small.said("GET /v2/a/blobs/"))
    heard.clear()
    pull(store, f"{small.host}/a:2", tell=lambda *words: heard.append(words))
    assert len(small.said("GET /v2/a/blobs/")) == before
    assert {what for what, *_ in heard} == {THERE}
    assert len(heard) == 3


def test_what_was_lost_is_fetched_again(small: Small, store: Store) -> None:
    made = Made()
    small.keep(made)
    for lost in (made.config, *made.blobs, made.manifest):
        pull(store, f"{small.host}/a")
        os.unlink(store.path(sha(lost)))
        assert verify(store) != []
    pull(store, f"{small.host}/a")
    assert whole(store)
    # What is damaged and not removed is not taken for what it should be.
    Path(store.path(sha(made.blobs[0]))).write_bytes(made.blobs[0][:-1] + b"?")
    store.untag(f"{small.host}/a")
    with pytest.raises(OSError, match=r"damaged.*remove the file"):
        pull(store, f"{small.host}/a")


def test_what_is_there_already_is_not_sent_again(small: Small, store: Store) -> None:
    image = built(store, tar(a=b"1"), tar(b=b"2"))
    small.blobs[image.layers[0][1]] = tar(a=b"1")
    heard: list[tuple[str, str, int, int]] = []
    push(store, "mine", f"{small.host}/a", tell=lambda *words: heard.append(words))
    sent = {what for what, digest, *_ in heard if digest == image.layers[1][1]}
    assert (sent, heard[0][:2]) == ({SEND}, (THERE, image.layers[0][1]))
    assert len(small.said("PUT /v2/a/blobs/")) == 2
    assert small.manifests["latest"][1] == store.read(image.digest)
    # The tag comes last: who finds it finds all that it leads to.
    assert small.asked[-1].line == "PUT /v2/a/manifests/latest"


def test_a_digest_decides_and_a_tag_is_the_name(small: Small, store: Store) -> None:
    old, new = Made(tar(old=b"")), Made(tar(new=b""))
    small.keep(old, "1")
    small.keep(new, "1")
    assert pull(store, f"{small.host}/a:1@{old.digest}").digest == old.digest
    assert store.names() == {f"{small.host}/a:1": old.digest}
    with pytest.raises(ValueError, match="say NAME:TAG@DIGEST"):
        pull(store, f"{small.host}/a@{old.digest}")
    with pytest.raises(ValueError, match="say a tag, NAME:TAG"):
        push(store, f"{small.host}/a:1", f"{small.host}/a@{old.digest}")


# ---- servers that lie


Lie = Callable[[Small, Made], None]


def lying(begins: str, status: int, headers: dict[str, str], data: bytes) -> Lie:
    def lie(server: Small, made: Made) -> None:
        server.lies[begins] = lambda _: (status, headers, data)

    return lie


def blob_is(change: Callable[[bytes], Answer]) -> Lie:
    """Answer for the upper layer with something made of it."""

    def lie(server: Small, made: Made) -> None:
        server.lies[f"GET /v2/a/blobs/{sha(made.blobs[1])}"] = lambda _: change(made.blobs[1])

    return lie


def manifest_has(change: Callable[[dict[str, Any]], object]) -> Lie:
    """Have the manifest say something else; its own digest is right."""

    def lie(server: Small, made: Made) -> None:
        table = made.document
        change(table)
        data = json.dumps(table).encode()
        server.manifests["latest"] = server.manifests[sha(data)] = made.kind, data

    return lie


def other_layer(server: Small, made: Made) -> None:
    """Have the configuration announce another tar than the blob, whose digest is right, holds."""
    made.table["rootfs"]["diff_ids"][1] = ONES
    server.keep(made)


def bomb(server: Small, made: Made) -> None:
    made.layers = (bytes(64 << 20),)
    made.blobs = [gzip.compress(made.layers[0])]
    made.table["rootfs"]["diff_ids"] = [sha(made.layers[0])]
    server.keep(made)


def nothing_in_much(server: Small, made: Made) -> None:
    """A million bytes of gzip, and not one in it."""
    data = gzip.compress(b"") * (1 << 20)
    made.layers, made.blobs = (b"",), [data]
    made.table["rootfs"]["diff_ids"] = [sha(b"")]
    server.keep(made)


KIND = {"Content-Type": MANIFESTS[0]}
LIES: dict[str, tuple[Lie, str]] = {
    "another blob": (blob_is(lambda b: (200, {}, b[:-1] + b"?")), "digest|damaged"),
    "too long a blob": (blob_is(lambda b: (200, {}, b + b"?")), "more than the"),
    "an endless blob": (
        blob_is(lambda b: (200, {"Content-Length": ""}, b + bytes(1 << 24))), "more than the"),
    "a short blob": (blob_is(lambda b: (200, {}, b[:9])), "hung up"),
    "a blob cut off": (
        blob_is(lambda b: (200, {"Content-Length": str(len(b))}, b[:9])), "hung up"),
    "no blob": (blob_is(lambda b: (404, {}, b"")), "404 Not Found.*spelling"),
    "another tar in a blob": (other_layer, "is announced"),
    "a bomb": (bomb, "more than .* bytes when uncompressed"),
    "nothing in much": (nothing_in_much, "more bytes than an image may have"),
    "a manifest too long": (
        lying("GET /v2/a/manifests", 200, KIND, b" " * (4 << 20) + b"{}"), "longer than 4194304"),
    "an endless manifest": (
        lying("GET /v2/a/manifests", 200, {**KIND, "Content-Length": ""}, bytes(64 << 20)),
        "longer than"),
    "a manifest cut off": (
        lying("GET /v2/a/manifests", 200, {**KIND, "Content-Length": "99"}, b"{}"), "hung up"),
    "a manifest of nothing": (lying("GET /v2/a/manifests", 200, KIND, b""), "not JSON"),
    "a manifest with another digest": (
        lying("GET /v2/a/manifests", 200, {**KIND, "Docker-Content-Digest": ONES}, b"{}"),
        "its bytes have the digest"),
    "schema 1": (
        lying("GET /v2/a/manifests", 200,
              {"Content-Type": f"{DOCKER}distribution.manifest.v1+prettyjws"}, b"{}"),
        "schema 1"),
    "a page": (
        lying("GET /v2/a/manifests", 200, {"Content-Type": "text/html; charset=x"}, b"<p>"),
        "text/html, not an image's manifest"),
    "an index that is a manifest": (
        lying("GET /v2/a/manifests", 200, {"Content-Type": INDEXES[0]}, Made().manifest),
        "not an index of images"),
    "an index of itself": (
        lambda server, made: server.manifests.update({
            "latest": (INDEXES[0], json.dumps({"manifests": [
                {"mediaType": INDEXES[0], "digest": ONES, "size": 9}]}).encode()),
            ONES: (INDEXES[0], b"{}")}),
        "its bytes have the digest"),
    "a path for a layer": (
        manifest_has(lambda t: t["layers"][1].update(digest="sha256:../../../etc/passwd")),
        "not a digest"),
    "a path for the configuration": (
        manifest_has(lambda t: t["config"].update(digest="../../x")), "not a digest"),
    "a terminal's orders for a digest": (
        manifest_has(lambda t: t["config"].update(digest="sha256:\x1b[2J\n")), "not a digest"),
    "a configuration too long": (
        manifest_has(lambda t: t["config"].update(size=1 << 40)), "longer than"),
    "a layer too long": (
        manifest_has(lambda t: t["layers"][1].update(size=1 << 60)), "more bytes than"),
    "a layer shorter than announced": (
        manifest_has(lambda t: t["layers"][1].update(size=t["layers"][1]["size"] + 1)), "hung up"),
    "too many layers": (
        manifest_has(lambda t: t.update(layers=t["layers"] * 300)), "at most 500"),
    "no registry": (lying("GET /v2/", 404, {}, b"<p>"), "is no registry .404 Not Found"),
    "endless redirects": (
        lying("GET /v2/a/manifests", 307, {"Location": "/v2/a/manifests/x"}, b""),
        "redirected more than 5 times"),
    "a redirect to nowhere": (lying("GET /v2/a/manifests", 302, {}, b""), "redirected more than"),
    "a redirect to a file": (
        lying("GET /v2/a/manifests", 302, {"Location": "file:///etc/passwd"}, b""), "no address"),
    "a redirect to plain http": (
        lying("GET /v2/a/manifests", 302, {"Location": "http://192.0.2.1/x"}, b""), "plain http"),
    "a redirect to PLAIN HTTP": (
        lying("GET /v2/a/manifests", 302, {"Location": "HTTP://192.0.2.1/x"}, b""), "plain http"),
    "a redirect to nonsense": (
        lying("GET /v2/a/manifests", 302, {"Location": "http://[::1/x"}, b""), "no address"),
    "401 again and again": (
        lying("GET /v2/a", 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""), "docker login"),
    "401 without a word": (lying("GET /v2/a", 401, {}, b""), "401 Unauthorized"),
    "403": (lying("GET /v2/a", 403, {}, b""), "403 Forbidden"),
    "a token from a file": (
        lying("GET /v2/a", 401, {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}, b""),
        "no address"),
    "a token from far away": (
        lying("GET /v2/a", 401, {"WWW-Authenticate": 'Bearer realm="http://192.0.2.1/"'}, b""),
        "plain http"),
    "no realm": (lying("GET /v2/a", 401, {"WWW-Authenticate": "Bearer"}, b""), "401 Unauth"),
    "a status of nobody's": (lying("GET /v2/a", 299, {}, b""), "299"),
}  # fmt: skip


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("case", LIES)
def test_a_server_that_lies_leaves_nothing(small: Small, store: Store, case: str) -> None:
    lie, why = LIES[case]
    made = Made()
    small.keep(made)
    lie(small, made)
    with pytest.raises((OSError, ValueError), match=why) as raised:
        pull(store, f"{small.host}/a", limit=1 << 20)
    told = str(raised.value)
    assert small.host in told
    assert "\n" not in told.replace("\\n", "")
    assert "\x1b" not in told
    assert store.names() == {}
    assert whole(store)
    assert len(small.asked) < 20


def test_a_lie_about_a_layer_that_is_there_is_found_too(small: Small, store: Store) -> None:
    honest, liar = Made(tar(a=b"1")), Made(tar(a=b"1"))
    small.keep(honest, "honest")
    pull(store, f"{small.host}/a:honest")
    liar.table["rootfs"]["diff_ids"] = [ONES]
    small.keep(liar, "liar")
    with pytest.raises(ValueError, match="is announced"):
        pull(store, f"{small.host}/a:liar")
    longer = liar.document
    longer["layers"][0]["size"] += 1
    longer["config"] = honest.document["config"]
    small.manifests["longer"] = liar.kind, json.dumps(longer).encode()
    with pytest.raises(ValueError, match="are announced"):
        pull(store, f"{small.host}/a:longer")
    assert [*store.names()] == [f"{small.host}/a:honest"]
    assert whole(store)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("begins", ["GET /v2/a/manifests", "GET /v2/a/blobs", "GET /t"])
def test_nobody_is_listened_to_for_ever(
    small: Small, elsewhere: Small, store: Store, begins: str
) -> None:
    small.keep(Made())
    left = threading.Event()

    def talk(request: Request) -> Answer:
        request.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Type: {MANIFESTS[0]}\r\n\r\n".encode())
        try:
            while True:
                request.wfile.write(bytes(1 << 20))
        finally:
            left.set()

    if begins == "GET /t":
        wants(small, "Bearer x", f'Bearer realm="http://{elsewhere.host}/t"')
    small.lies[begins] = elsewhere.lies[begins] = talk
    with pytest.raises(ValueError, match=r"longer than|more than the .* announced"):
        pull(store, f"{small.host}/a")
    left.wait()
    assert whole(store)


# ---- lines that break


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("knows_range", [True, False])
def test_a_blob_goes_on_where_the_line_broke(small: Small, store: Store, knows_range: bool) -> None:
    made = Made(random.Random(1).randbytes(1 << 20), packed=bytes, kind=LAYER)
    small.keep(made)
    blob = made.blobs[0]
    ranges: list[str | None] = []

    def cut(request: Request) -> Answer | None:
        ranges.append(request.headers.get("Range"))
        if len(ranges) == 1:
            return 200, {"Content-Length": str(len(blob))}, blob[:600_000]
        return None if knows_range else (200, {}, blob)

    small.lies[f"GET /v2/a/blobs/{sha(blob)}"] = cut
    # http.client may hand on, or not, what came last before the line broke.
    pull(store, f"{small.host}/a")
    assert ranges[0] is None
    assert ranges[1:] in (["bytes=600000-"], [f"bytes={600_000 // (1 << 18) * (1 << 18)}-"])
    assert store.read(sha(blob)) == blob


@pytest.mark.usefixtures("hasty")
def test_what_fails_once_is_asked_again(small: Small, store: Store) -> None:
    made = Made()
    small.keep(made)
    failures: list[Answer | None] = [
        (503, {}, b""), (429, {"Retry-After": "0"}, b""), None
    ]  # fmt: skip
    small.lies["GET /v2/a/manifests"] = lambda _: failures.pop(0)
    assert pull(store, f"{small.host}/a").digest == made.digest
    small.lies["GET /v2/a/manifests"] = lambda _: (502, {}, b"")
    before = len(small.asked)
    with pytest.raises(OSError, match=r"502 Bad Gateway.*later"):
        pull(store, f"{small.host}/a")
    assert len(small.asked) - before == 1 + 3


@pytest.mark.usefixtures("hasty")
def test_who_hangs_up_is_asked_three_times(small: Small, store: Store) -> None:
    small.keep(Made())

    def hang_up(request: Request) -> Answer:
        request.hang_up()
        return 200, {}, b""

    small.lies["GET /v2/a/manifests"] = hang_up
    with pytest.raises(ConnectionResetError, match="hung up"):
        pull(store, f"{small.host}/a")
    assert len(small.said("GET /v2/a/manifests")) == 3


def test_nobody_waits_for_an_hour_unasked(small: Small, store: Store) -> None:
    small.lies["GET /v2/a"] = lambda _: (429, {"Retry-After": "3600"}, b"")
    with pytest.raises(OSError, match=r"429 Too Many Requests.*in 3600 seconds"):
        pull(store, f"{small.host}/a")
    assert len(small.said("GET /v2/a")) == 1


@pytest.mark.usefixtures("hasty")
def test_a_blob_is_sent_again_where_the_line_broke(small: Small, store: Store) -> None:
    image = built(store, random.Random(2).randbytes(3 << 20))
    failed: list[str] = []

    def hang_up(request: Request) -> Answer | None:
        if len(failed) == 2:
            return None
        failed.append(request.line)
        request.rfile.read(1000)
        request.hang_up()
        return 500, {}, b""

    small.lies["PUT /v2/a/blobs"] = hang_up
    assert push(store, "mine", f"{small.host}/a") == image.digest
    assert set(small.blobs) == {image.layers[0][1], image.config_digest}
    assert len(failed) == 2


PUSH_LIES: dict[str, tuple[str, Answer, str]] = {
    "another digest of a blob": ("PUT /v2/a/blobs", (201, {"Docker-Content-Digest": ONES}, b""),
                                 "kept it as sha256:1111"),
    "another digest of the manifest": (
        "PUT /v2/a/manifests", (201, {"Docker-Content-Digest": ONES}, b""), "kept it as"),
    "nowhere to put it": ("POST", (202, {"Location": "http://192.0.2.1/x"}, b""), "plain http"),
    "no right": ("POST", (403, {}, b'{"errors":[{"message":"read only\\n"}]}'),
                 r"403 Forbidden, read only\\n"),
    "no room": ("PUT /v2/a/blobs", (413, {}, b""), "413"),
    "a redirect": ("POST", (307, {"Location": "/elsewhere"}, b""), "307"),
}  # fmt: skip


@pytest.mark.parametrize("case", PUSH_LIES)
def test_what_is_not_kept_is_said(small: Small, store: Store, case: str) -> None:
    begins, answer, why = PUSH_LIES[case]
    built(store)

    def lie(request: Request) -> Answer:
        if request.command == "PUT":
            request.rfile.read(int(request.headers["Content-Length"]))
        return answer

    small.lies[begins] = lie
    with pytest.raises((OSError, ValueError), match=why):
        push(store, "mine", f"{small.host}/a")
    assert small.manifests == {}


def test_what_has_rotted_is_not_sent(small: Small, store: Store) -> None:
    image = built(store)
    path = store.path(image.layers[0][1])
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:-1] + b"?")
    with pytest.raises(OSError, match="damaged") as raised:
        push(store, "mine", f"{small.host}/a")
    assert (raised.value.errno, raised.value.filename) == (errno.EBADMSG, path)
    assert small.manifests == {}


# ---- who we are


def log_in(host: str, name: str = "me", word: str = "secret") -> str:
    """Write what `docker login` does; return the header that comes of it."""
    auth = base64.b64encode(f"{name}:{word}".encode()).decode()
    file = Path(credentials.config_file())
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}), encoding="ascii")
    return f"Basic {auth}"


def wants(server: Small, value: str, challenge: str) -> None:
    """Have a server answer nobody who doesn't send this Authorization."""

    def guard(request: Request) -> Answer | None:
        if request.headers.get("Authorization") == value:
            return None
        return 401, {"WWW-Authenticate": challenge}, b""

    for method in ("GET", "HEAD", "POST", "PUT"):
        server.lies[f"{method} /v2/"] = guard


def test_a_password_is_given_to_whom_it_belongs(small: Small, store: Store) -> None:
    small.keep(Made())
    wants(small, log_in(small.host), 'Basic realm="x"')
    pull(store, f"{small.host}/a")
    push(store, f"{small.host}/a", f"{small.host}/a:2")
    assert small.manifests["2"] == small.manifests["latest"]
    assert small.asked[0].headers.get("Authorization") is None
    log_in("another.host")
    with pytest.raises(PermissionError, match=r"401 Unauthorized.*docker login.*config\.json"):
        pull(store, f"{small.host}/a")
    log_in(small.host, word="wrong")
    with pytest.raises(PermissionError, match=r"doesn't take what .*config\.json"):
        pull(store, f"{small.host}/a")


@pytest.mark.parametrize("known", [True, False])
def test_a_token_is_fetched_where_the_registry_says(
    small: Small, elsewhere: Small, store: Store, known: bool
) -> None:
    made = Made()
    small.keep(made)
    own = log_in(small.host) if known else None
    realm = f"http://{elsewhere.host}/token?x=1"
    challenge = f'Bearer realm="{realm}",service="a registry",scope="repository:b:delete"'
    wants(small, "Bearer T0K.EN", challenge)
    elsewhere.lies["GET /token"] = lambda _: (200, {}, b'{"access_token": "T0K.EN"}')
    pull(store, f"{small.host}/a")
    push(store, f"{small.host}/a", f"{small.host}/a:2")
    # What is asked for is what is needed, whatever the registry suggests.
    assert [one.line for one in elsewhere.asked] == [
        "GET /token?x=1&service=a+registry&scope=repository%3Aa%3Apull",
        "GET /token?x=1&service=a+registry&scope=repository%3Aa%3Apull%2Cpush",
    ]
    assert {one.headers.get("Authorization") for one in elsewhere.asked} == {own}
    assert small.manifests["2"] == small.manifests["latest"]


def test_a_token_that_gets_old_is_fetched_anew(
    small: Small, elsewhere: Small, store: Store
) -> None:
    small.keep(Made())
    given: list[str] = []

    def give(_: Request) -> Answer:
        given.append(f"T{len(given)}")
        return 200, {}, json.dumps({"token": given[-1]}).encode()

    def guard(request: Request) -> Answer | None:
        # Each is good for two questions.
        number = len(small.asked) // 3
        if given and request.headers.get("Authorization") == f"Bearer {given[-1]}" and number:
            uses = [one.headers.get("Authorization") for one in small.asked]
            if uses.count(f"Bearer {given[-1]}") <= 2:
                return None
        return 401, {"WWW-Authenticate": f'Bearer realm="http://{elsewhere.host}/t"'}, b""

    elsewhere.lies["GET /t"] = give
    small.lies["GET /v2/"] = guard
    pull(store, f"{small.host}/a")
    assert len(given) > 2
    assert whole(store)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nX-Evil: 1"}', b" " * (1 << 20),
     b'{"token": "' + b"x" * 70000 + b'"}'],
    ids=["nothing", "list", "empty", "number", "lines", "blanks", "long"],
)  # fmt: skip
def test_what_is_no_token_is_refused(
    small: Small, elsewhere: Small, store: Store, answer: bytes
) -> None:
    wants(small, "Bearer x", f'Bearer realm="http://{elsewhere.host}/t"')
    elsewhere.lies["GET /t"] = lambda _: (200, {}, answer)
    with pytest.raises(ValueError, match=r"token|longer"):
        pull(store, f"{small.host}/a")
    assert len(small.asked) == 1


def test_a_token_server_that_says_no_is_named(small: Small, elsewhere: Small, store: Store) -> None:
    wants(small, "Bearer x", f'Bearer realm="http://{elsewhere.host}/t"')
    elsewhere.lies["GET /t"] = lambda _: (401, {}, b"")
    with pytest.raises(PermissionError, match="401 Unauthorized"):
        pull(store, f"{small.host}/a")


def test_a_password_never_follows_a_redirect(small: Small, elsewhere: Small, store: Store) -> None:
    made = Made()
    small.keep(made)
    elsewhere.keep(made)
    own = log_in(small.host)
    wants(small, own, "Basic realm=x")
    guard = small.lies["GET /v2/"]
    small.lies = {
        "GET /v2/a/blobs": lambda one: (
            guard(one) or (307, {"Location": f"http://{elsewhere.host}{one.path}"}, b"")
        ),
        **small.lies,
    }
    pull(store, f"{small.host}/a")
    assert len(elsewhere.asked) == 3
    assert all(one.headers.get("Authorization") is None for one in elsewhere.asked)
    assert small.asked[-1].headers["Authorization"] == own
    # On the same server it may come along.
    small.lies = {"GET /v2/a/manifests/old": lambda _: (302, {"Location": "latest"}, b""),
                  **small.lies}  # fmt: skip
    pull(store, f"{small.host}/a:old")
    assert small.asked[-1].headers["Authorization"] == own


def test_a_password_never_goes_where_a_blob_is_to_be_put(
    small: Small, elsewhere: Small, store: Store
) -> None:
    image = built(store)
    wants(small, log_in(small.host), "Basic realm=x")
    guard = small.lies["POST /v2/"]
    place = {"Location": f"http://{elsewhere.host}/v2/a/blobs/uploads/9"}
    small.lies["POST /v2/"] = lambda one: guard(one) or (202, place, b"")
    push(store, "mine", f"{small.host}/a")
    assert {*elsewhere.blobs} == {image.layers[0][1], image.config_digest}
    assert all(one.headers.get("Authorization") is None for one in elsewhere.asked)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6eA=="}}}', "Basic bWU6eA=="),
        ('{"auths": {"docker.io": {"username": "me", "password": "x"}}}', "Basic bWU6eA=="),
        ('{"auths": {"https://index.docker.io.evil/v1/": {"auth": "bWU6eA=="}}}', ""),
        ('{"auths": {"docker.io": {}}, "credsStore": "x"}', ""),
        ('{"auths": {"docker.io": null}}', ""),
        ('{"auths": []}', ""),
        ("[]", ""),
        ("", "not JSON"),
        ('{"auths": {"docker.io": {"auth": "?"}}}', "not base64"),
        ('{"auths": {"docker.io": {"auth": 7}}}', "not base64"),
    ],
)
def test_what_docker_login_wrote_is_read(text: str, found: str) -> None:
    Path(credentials.config_file()).parent.mkdir()
    Path(credentials.config_file()).write_text(text, encoding="ascii")
    if found.startswith("not"):
        with pytest.raises(ValueError, match=rf"config.json: .*{found}"):
            credentials.basic("docker.io")
    else:
        assert credentials.basic("docker.io") == found


# ---- https, and plain http on this machine alone


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1:5000", True), ("127.9.9.9", True), ("[::1]:5000", True), ("localhost", True),
        ("127.0.0.1.evil.example", False), ("localhost.evil.example", False), ("0.0.0.0", False),
        ("10.0.0.1", False), ("[::]:5000", False), ("evil.example:127", False),
        ("2130706433", False), ("127.1", False),
    ],
)  # fmt: skip
def test_only_loopback_is_this_machine(host: str, here: bool) -> None:
    assert wire.is_here(f"https://{host}/v2/") is here


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """A registry that has TLS, with a certificate that nobody trusts yet."""
    if not shutil.which("openssl"):
        cannot("there is no openssl here, which makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=lab",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Small()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with server.serving():
        yield server


def test_a_certificate_that_nobody_signed_is_refused_until_it_is_trusted(
    secret: Small, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made()
    secret.keep(made)
    with pytest.raises(OSError, match=r"certificate of .* is not trusted.*SSL_CERT_FILE"):
        pull(store, f"{secret.host}/a")
    assert secret.asked == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert pull(store, f"{secret.host}/a").digest == made.digest
    # Who has TLS doesn't send us away from it.
    secret.lies["GET /v2/a/blobs"] = lambda one: (
        302,
        {"Location": f"http://127.0.0.1{one.path}"},
        b"",
    )
    secret.keep(Made(tar(new=b"")))
    with pytest.raises(ValueError, match="plain http"):
        pull(store, f"{secret.host}/a")
    assert whole(store)


FAR = """
import select, socket, subprocess, sys
server = socket.create_server(("192.0.2.1", 5000))
pull = subprocess.Popen([sys.argv[1], "image", "pull", "192.0.2.1:5000/a"])
while pull.poll() is None:
    if select.select([server], [], [], 0.1)[0]:
        connection = server.accept()[0]
        print(connection.recv(1).hex(), flush=True)
        connection.close()
"""


@pytest.mark.usefixtures("as_root")
def test_another_machine_never_hears_plain_http(tmp_path: Path) -> None:
    steps = 'ip link set lo up && ip address add 192.0.2.1/32 dev lo && exec "$@"'
    line = ["unshare", "--net", "sh", "-c", steps, "sh", sys.executable, "-c", FAR, STAGE4]
    done = run(line, environment={"LABRUN_STORE": str(tmp_path / "store")})
    # 0x16 begins TLS's handshake: RFC 8446, section 5.1.
    assert {*done.stdout.split()} == {b"16"}
    assert b"192.0.2.1:5000 hung up" in done.stderr


# ---- the command


def test_the_commands_say_the_digest_and_no_more(small: Small, store: Store, other: Store) -> None:
    image = built(store)
    here, there = ({"LABRUN_STORE": one.root} for one in (store, other))
    name = f"{small.host}/a:1"
    done = run([STAGE4, "image", "push", "mine", name], environment=here)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"{image.digest}\n", b"")
    done = run([STAGE4, "image", "pull", name], environment=there)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"{image.digest}\n", b"")
    done = run([STAGE4, "image", "pull", f"{small.host}/a:2"], environment=there)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
    assert (
        b"a:2: the registry doesn't have this image (404 Not Found, not\\x1b[31m here): look"
        in done.stderr
    )
    done = run([STAGE4, "image", "push", "mine:9", name], environment=here)
    assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
    assert run([STAGE4, "image", "pull"], environment=there).returncode == 2
    assert run([STAGE4, "image", "push", "a", "b", "c"], environment=there).returncode == 2
    assert other.names() == {name: image.digest}


def test_a_terminal_sees_how_far_it_is(small: Small, store: Store) -> None:
    made = Made(random.Random(3).randbytes(1 << 20), packed=bytes, kind=LAYER)
    small.keep(made)
    reader, writer = os.openpty()
    with open(writer, "w", encoding="utf-8") as file, Progress(file) as progress:
        # Every line is drawn when its blob begins and when it ends; in between, when it's time.
        pull(store, f"{small.host}/a", tell=progress.tell)
    seen = os.read(reader, 1 << 16).decode()
    os.close(reader)
    config, layer = [line.split("\r") for line in seen.removesuffix("\r\n").split("\r\n")]
    assert config[-1].split() == [FETCH, sha(made.config)[:19], str(len(made.config)), "B"]
    assert layer[1].split() == [FETCH, sha(made.blobs[0])[:19], "1.0", "MiB", "25", "%"]
    assert layer[-1].split() == [FETCH, sha(made.blobs[0])[:19], "1.0", "MiB"]


HEEDING = ("env", "--default-signal=INT")
"""Whoever runs the tests with `&` has SIGINT ignored, and so would the command."""


def test_ctrl_c_ends_a_pull_and_leaves_nothing(small: Small, store: Store) -> None:
    made = Made()
    small.keep(made)
    waiting = threading.Event()

    def never(request: Request) -> Answer:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        request.wfile.flush()
        waiting.set()
        request.connection.recv(1)
        return 500, {}, b""

    small.lies[f"GET /v2/a/blobs/{sha(made.blobs[0])}"] = never
    line = [*HEEDING, STAGE4, "image", "pull", f"{small.host}/a"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, env={**os.environ, "LABRUN_STORE": store.root}, stdout=pipe, stderr=pipe
    ) as child:
        waiting.wait()
        child.send_signal(signal.SIGINT)
        assert child.communicate() == (b"", b"")
    assert child.returncode == -signal.SIGINT
    assert store.names() == {}
    assert whole(store)


def test_ctrl_c_ends_an_import_and_leaves_nothing(store: Store) -> None:
    line, pipe = [*HEEDING, STAGE4, "image", "import", "-", "a"], subprocess.PIPE
    with subprocess.Popen(
        line, env={**os.environ, "LABRUN_STORE": store.root}, stdin=pipe, stdout=pipe, stderr=pipe
    ) as child:
        assert child.stdin
        # It has taken more than the pipe holds: it reads already.
        child.stdin.write(tar(big=bytes(1 << 20))[: 1 << 20])
        child.stdin.flush()
        assert os.listdir(f"{store.root}/tmp")
        child.send_signal(signal.SIGINT)
        assert child.communicate() == (b"", b"")
    assert child.returncode == -signal.SIGINT
    assert whole(store)


# ---- Docker's own registry


def skopeo(*words: str) -> str:
    line = ["skopeo", *words]
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.peers
def test_dockers_registry_and_skopeo_see_the_same_digests(
    store: Store, other: Store, tmp_path: Path
) -> None:
    image = built(store, tar(who=b"1\n" * 9999), tar(who=b"2\n"))
    plain = "--src-tls-verify=false", "--dest-tls-verify=false"
    with registry_of_docker(tmp_path / "registry") as host:
        assert push(store, "mine", f"{host}/deep/er/a:1") == image.digest
        raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/deep/er/a:1")
        assert sha(raw.encode()) == image.digest
        # Out with skopeo, in again with skopeo, and back.
        skopeo("copy", "--preserve-digests", *plain, f"docker://{host}/deep/er/a:1",
               f"oci:{tmp_path}/out:1")  # fmt: skip
        subprocess.run(
            ["umoci", "stat", "--image", f"{tmp_path}/out:1"], check=True, capture_output=True
        )
        skopeo("copy", "--preserve-digests", *plain, f"oci:{tmp_path}/out:1",
               f"docker://{host}/again:2")  # fmt: skip
        assert pull(other, f"{host}/again:2").digest == image.digest
        # What skopeo made, compressed and with Docker's media types.
        skopeo("copy", "--format=v2s2", *plain, f"oci:{tmp_path}/out:1",
               f"docker://{host}/packed")  # fmt: skip
        raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/packed")
        packed = pull(other, f"{host}/packed")
        assert packed.digest == sha(raw.encode()) != image.digest
        assert packed.manifest["mediaType"] == MANIFESTS[1]
        assert [layer[0] for layer in packed.layers] == [layer[0] for layer in image.layers]
        assert push(other, f"{host}/packed", f"{host}/packed/again") == packed.digest
    assert whole(store)
    assert whole(other)


def bcrypt(word: str) -> str:
    """Return a password as htpasswd -B writes it: the C library knows how. See crypt(5)."""
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError as error:
        pytest.skip(f"cannot: {error}")
    library.crypt.restype = ctypes.c_char_p
    made = library.crypt(word.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    if not made or not made.startswith(b"$2b$"):
        pytest.skip("cannot: the C library's crypt(3) has no bcrypt")
    return str(made.decode())


@pytest.mark.peers
def test_dockers_registry_wants_a_password(store: Store, other: Store, tmp_path: Path) -> None:
    image = built(store)
    users = tmp_path / "users"
    users.write_text(f"me:{bcrypt('secret')}\n", encoding="ascii")
    more = f"auth:\n  htpasswd:\n    realm: lab\n    path: {users}\n"
    with registry_of_docker(tmp_path / "registry", more) as host:
        with pytest.raises(PermissionError, match=r"401 Unauthorized.*docker login"):
            push(store, "mine", f"{host}/a")
        log_in(host, word="wrong")
        with pytest.raises(PermissionError, match="doesn't take what"):
            push(store, "mine", f"{host}/a")
        # What skopeo writes down we read.
        skopeo("login", "--tls-verify=false", "--authfile", credentials.config_file(),
               "-u", "me", "-p", "secret", host)  # fmt: skip
        assert push(store, "mine", f"{host}/a") == image.digest
        assert pull(other, f"{host}/a").digest == image.digest


@pytest.mark.peers
@pytest.mark.once
def test_sigkill_never_leaves_a_store_that_verify_rejects(store: Store, tmp_path: Path) -> None:
    noise = random.Random(4)
    built(store, *(tar(f=noise.randbytes(1 << 20)) for _ in range(3)))
    line = [STAGE4, "image", "pull"]
    chance, killed = random.Random(), 0
    with registry_of_docker(tmp_path / "registry") as host:
        push(store, "mine", f"{host}/a")
        longest = 0.0
        for n in range(200):
            # An empty store each time: else there would soon be nothing left to fetch.
            mine = Store(str(tmp_path / f"store{n}"))
            started = time.monotonic()
            child = subprocess.Popen([*line, f"{host}/a"],
                                     env={**os.environ, "LABRUN_STORE": mine.root},
                                     stdout=subprocess.DEVNULL)  # fmt: skip
            if n:
                time.sleep(chance.uniform(0.2 * longest, longest))
                child.kill()
            ended = child.wait()
            longest = longest * 0.95 if n else time.monotonic() - started
            killed += ended == -signal.SIGKILL
            assert ended in (0, -signal.SIGKILL)
            assert verify(mine) == []
            # It is no obstacle to whoever comes next.
            if ended and n % 5 == 0:
                pull(mine, f"{host}/a")
            prune(mine)
            assert whole(mine)
            shutil.rmtree(mine.root)
            if killed == 20:
                break
    assert killed == 20
