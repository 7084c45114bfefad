"""Registries on loopback: an honest one in a page, which a test has lie, and Docker's own."""

import contextlib
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.stage4_overlayfs.more.layout import PLATFORMS
from stages.stage4_overlayfs.more.shapes import CONFIG, LAYER, MANIFEST

MACHINE = PLATFORMS.get(os.uname().machine, os.uname().machine)

# ---- images


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class Made:
    """An image as another program wrote it: nobody's JSON has these blanks."""

    def __init__(
        self,
        *layers: bytes,
        packed: Callable[[bytes], bytes] = gzip.compress,
        kind: str = f"{LAYER}+gzip",
        manifest_kind: str = MANIFEST,
        config_kind: str = CONFIG,
    ) -> None:
        self.kind = manifest_kind
        self.layers = layers or (tar(who=b"lower\n" * 900), tar(what=b"upper\n"))
        self.blobs = [packed(layer) for layer in self.layers]
        self.table: dict[str, Any] = {
            "architecture": MACHINE,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in self.layers]},
        }
        self.kinds = kind, config_kind

    @property
    def config(self) -> bytes:
        return json.dumps(self.table, indent=3).encode()

    @property
    def document(self) -> dict[str, Any]:
        def row(kind: str, data: bytes) -> dict[str, Any]:
            return {"mediaType": kind, "size": len(data), "digest": sha(data)}

        return {
            "schemaVersion": 2,
            "mediaType": self.kind,
            "config": row(self.kinds[1], self.config),
            "layers": [row(self.kinds[0], blob) for blob in self.blobs],
        }

    @property
    def manifest(self) -> bytes:
        return json.dumps(self.document, indent=1).encode()

    @property
    def digest(self) -> str:
        return sha(self.manifest)


# ---- a registry in a page

Headers = dict[str, str]
Answer = tuple[int, Headers, bytes]


class Small(http.server.ThreadingHTTPServer):
    """A registry of one repository, `a`: honest, until a test puts something into `lies`.

    `lies` are by how a request begins, "GET /v2/a/blobs/": each is called with the Request and
    returns an answer; None is to be answered honestly. `asked` are all requests, in their order.
    """

    daemon_threads = True
    block_on_close = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Request)
        self.host = f"{host}:{self.server_address[1]}"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.lies: dict[str, Callable[[Request], Answer | None]] = {}
        self.asked: list[Request] = []
        self.scheme = "http"

    def keep(self, made: Made, tag: str = "latest") -> None:
        self.manifests[tag] = self.manifests[made.digest] = (made.kind, made.manifest)
        for blob in (made.config, *made.blobs):
            self.blobs[sha(blob)] = blob

    def said(self, begins: str) -> list["Request"]:
        return [one for one in self.asked if one.line.startswith(begins)]

    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing: that a client hangs up is what some tests want."""

    @contextlib.contextmanager
    def serving(self) -> Iterator["Small"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class Request(http.server.BaseHTTPRequestHandler):
    """One request: `line` is METHOD PATH?QUERY, `body` what came with it."""

    server: Small
    line = ""
    body = b""

    def answer(self) -> None:
        self.line = f"{self.command} {self.path}"
        self.server.asked.append(self)
        lie = next((do for at, do in self.server.lies.items() if self.line.startswith(at)), None)
        told = lie(self) if lie else None
        if not told and self.command == "PUT":
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, data = told or self.honest()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def honest(self) -> Answer:
        path, _, query = self.path.partition("?")
        kind, _, what = path.removeprefix("/v2/a/").partition("/")
        if path == "/v2/":
            return 200, {}, b"{}"
        if self.command == "POST":
            return 202, {"Location": "/v2/a/blobs/uploads/1?state=x"}, b""
        if self.command == "PUT" and kind == "manifests":
            made = (self.headers["Content-Type"], self.body)
            self.server.manifests[what] = self.server.manifests[sha(self.body)] = made
            return 201, {"Docker-Content-Digest": sha(self.body)}, b""
        if self.command == "PUT":
            digest = urllib.parse.parse_qs(query)["digest"][0]
            if digest != sha(self.body):
                return 400, {}, b""
            self.server.blobs[digest] = self.body
            return 201, {}, b""
        if kind == "manifests" and what in self.server.manifests:
            media, data = self.server.manifests[what]
            return 200, {"Content-Type": media}, data
        if kind == "blobs" and what in self.server.blobs:
            data, told = self.server.blobs[what], self.headers.get("Range")
            if told:
                start = int(told.removeprefix("bytes=").removesuffix("-"))
                return 206, {}, data[start:]
            return 200, {}, data
        return 404, {}, b'{"errors": [{"code": "X", "message": "not\\u001b[31m here"}]}'

    def hang_up(self) -> None:
        """End the connection with RST: whoever is at the other end gets ECONNRESET."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        # The files that were made of the socket would keep it open.
        os.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


# ---- Docker's own


@contextlib.contextmanager
def registry_of_docker(folder: Path, more: str = "") -> Iterator[str]:
    """Run docker-registry on a free port, with its files in `folder`; yield HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    folder.mkdir()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
        f"storage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: {host}\n{more}",
        encoding="utf-8",
    )
    with open(folder / "log", "wb") as log:
        line = ["docker-registry", "serve", str(config)]
        server = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while server.poll() is None:
            try:
                connection = http.client.HTTPConnection(host, timeout=10)
                connection.request("GET", "/v2/")
                connection.getresponse().read()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
            finally:
                connection.close()
        else:
            pytest.fail((folder / "log").read_text(encoding="utf-8"))
        yield host
    finally:
        server.kill()
        server.wait()
