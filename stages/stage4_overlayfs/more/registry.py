"""A registry, as OCI's distribution-spec has it: manifests by tag or digest, blobs by digest.

    GET  /v2/                              does it speak this at all, and who must we be?
    GET  /v2/REPOSITORY/manifests/WHAT     a manifest, or an index of some for many machines
    GET  /v2/REPOSITORY/blobs/DIGEST       a configuration, or a layer
    HEAD, POST, PUT                        is a blob there? here is one; here is the manifest

Nothing that it says is believed: what comes is as long as was announced, and has its digest, or it
is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import time
import urllib.parse

from stages.stage4_overlayfs.more import credentials, wire
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.shapes import DOCKER, INDEXES, MANIFESTS, MOST_BYTES, refused
from stages.stage4_overlayfs.more.wire import LOST, Question, exchange, unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stages.stage4_overlayfs.more.references import Reference
    from stages.stage4_overlayfs.more.wire import Answer, Body

CHUNK = 1 << 18
"""Bytes of a blob that are read at a time: so often can somebody be told how far it is."""
MOST_WORDS = 1 << 17
"""Bytes of an answer that is only words: a token, or why not."""
BINARY = "application/octet-stream"
FIRST_SCHEMA = f"{DOCKER}distribution.manifest.v1+"


class Registry:
    """One repository of one registry, to fetch from, and with `push` to send to."""

    def __init__(self, reference: Reference, *, push: bool = False) -> None:
        """Ask whether there is a registry, and who we have to be; raise OSError or ValueError."""
        self.what, self.host = str(reference), reference.host
        self.path = f"/v2/{reference.repository}"
        self.scope = f"repository:{reference.repository}:{'pull,push' if push else 'pull'}"
        self.authorization = ""
        self.base = f"https://{reference.server}"
        with contextlib.closing(self.knock()) as answer:
            if answer.status == 401:
                self.authorize(answer.headers)
            elif answer.status == 404:
                why = f"what answers at {reference.server} is no registry (404 Not Found for /v2/)"
                raise OSError(errno.EPROTO, f"{why}: look at the host and the port", self.what)
            else:
                self.expect(answer, "an answer", 200)

    def knock(self) -> Answer:
        """Return the answer to /v2/; on this machine it may be plain http that is spoken."""
        secret = Question(self.what, "GET", f"{self.base}/v2/")
        if not wire.is_here(self.base):
            return exchange(secret)
        plain = secret.url.replace("https:", "http:", 1)
        try:
            answer = exchange(secret._replace(url=plain), again=False)
            if answer.status != 400:
                self.base = self.base.replace("https:", "http:", 1)
                return answer
            answer.close()
        except OSError as error:
            # So does a server end that had expected TLS.
            if error.errno not in (errno.ECONNRESET, errno.EPROTO):
                raise
        return exchange(secret)

    # ---- who we are

    def authorize(self, headers: http.client.HTTPMessage) -> bool:
        """Be whom a 401 wants us to be; return whether that is somebody else than before."""
        before = self.authorization
        wanted = dict(map(credentials.challenge, headers.get_all("WWW-Authenticate") or []))
        own = credentials.basic(self.host)
        if wanted.get("bearer", {}).get("realm"):
            self.authorization = f"Bearer {self.token(wanted['bearer'], own)}"
        elif "basic" in wanted:
            self.authorization = own
        return self.authorization not in ("", before)

    def token(self, wanted: Mapping[str, str], own: str) -> str:
        """Get a token where the registry says, for whom `own` says, or for anybody."""
        realm = wire.next_place(self.what, self.base, wanted["realm"])
        asked = {"service": wanted.get("service", ""), "scope": self.scope}
        query = urllib.parse.urlencode({key: value for key, value in asked.items() if value})
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        answer = exchange(Question(self.what, "GET", url, authorization=own))
        self.expect(answer, "a token", 200)
        return credentials.token_in(self.what, self.whole(answer, MOST_WORDS))

    def ask(
        self,
        method: str,
        place: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        again: bool = True,
    ) -> Answer:
        """Ask as whom we are; once more where that is not enough, as tokens get old."""
        url = urllib.parse.urljoin(self.base, place)
        known = wire.origin(url) == wire.origin(self.base)
        question = Question(
            self.what, method, url, headers or {}, self.authorization if known else "", body
        )
        answer = exchange(question, again=again)
        if answer.status == 401 and known:
            with contextlib.closing(answer):
                other = self.authorize(answer.headers)
            if other:
                question = question._replace(authorization=self.authorization)
                answer = exchange(question, again=again)
        return answer

    # ---- fetching

    def manifest(self, meant: str) -> tuple[str, bytes]:
        """Return the media type and the bytes of what a tag or a digest leads to."""
        headers = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        answer = self.ask("GET", f"{self.path}/manifests/{meant}", headers)
        self.expect(answer, "this image", 200)
        data = self.whole(answer, MOST_BYTES)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith(FIRST_SCHEMA):
            why = "a manifest of schema 1, which has no digests to check"
            raise ValueError(f"{self.what}: {why}: ask who keeps it to push the image again")
        if kind not in (*MANIFESTS, *INDEXES):
            raise refused(self.what, f"{shown(kind) or 'of no type'}, not an image's manifest")
        told = {meant, answer.headers.get("Docker-Content-Digest", "")}
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for digest in told:
            if digest.startswith("sha256:") and digest != found:
                raise refused(f"{self.what}: {digest}", f"its bytes have the digest {found}")
        return kind, data

    def blob(self, digest: str, size: int) -> Iterator[bytes]:
        """Yield a blob's bytes, as many as were announced; where the line breaks, go on there."""
        what, done = f"{self.what}: {digest}", 0
        for pause in (*wire.PAUSES, None):
            lost: object = http.client.IncompleteRead(b"")
            try:
                for chunk in self.rest_of(digest, done):
                    done += len(chunk)
                    if done > size:
                        raise refused(what, f"more than the {size} bytes that are announced")
                    yield chunk
            except LOST as error:
                lost = error
            if done == size:
                return
            if pause is None:
                raise unreachable(what, self.base, lost)
            time.sleep(pause)

    def rest_of(self, digest: str, done: int) -> Iterator[bytes]:
        """Yield a blob's bytes from the byte `done` on; raise one of LOST where the line breaks."""
        headers = {"Range": f"bytes={done}-"} if done else {}
        answer = self.ask("GET", f"{self.path}/blobs/{digest}", headers)
        with contextlib.closing(answer):
            self.expect(answer, f"blob {digest}", 200, 206)
            # Who doesn't know Range begins from the beginning.
            skip = 0 if answer.status == 206 else done
            while chunk := self.read(answer):
                yield chunk[skip:]
                skip -= min(skip, len(chunk))

    def read(self, answer: Answer) -> bytes:
        """Return the next bytes of a body; raise one of LOST, or OSError."""
        try:
            return answer.read(CHUNK)
        except LOST:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self.what, self.base, error) from None

    def whole(self, answer: Answer, most: int) -> bytes:
        """Return a body that has at most so many bytes; raise ValueError where it has more."""
        data = b""
        with contextlib.closing(answer):
            try:
                while chunk := self.read(answer):
                    data += chunk
                    if len(data) > most:
                        raise refused(self.what, f"longer than {most} bytes")
            except LOST as error:
                raise unreachable(self.what, self.base, error) from None
        told = answer.headers.get("Content-Length", "")
        if told.isdecimal() and len(data) < int(told[:9]):
            raise unreachable(self.what, self.base, http.client.IncompleteRead(b""))
        return data

    # ---- sending

    def has(self, digest: str) -> bool:
        """Return whether a blob is there already."""
        answer = self.ask("HEAD", f"{self.path}/blobs/{digest}")
        if answer.status != 404:
            self.expect(answer, f"blob {digest}", 200)
        answer.close()
        return answer.status == 200

    def send(self, digest: str, size: int, body: Body) -> None:
        """Send a blob; where the line breaks, see what has arrived, and send it again."""
        for pause in (*wire.PAUSES, None):
            try:
                return self.send_once(digest, size, body)
            except OSError as error:
                if error.errno not in (errno.ECONNRESET, errno.EREMOTEIO) or pause is None:
                    raise
            time.sleep(pause)
            if self.has(digest):
                return None
        return None

    def send_once(self, digest: str, size: int, body: Body) -> None:
        """Ask where a blob may go, and send it there in one piece."""
        start = f"{self.base}{self.path}/blobs/uploads/"
        answer = self.ask("POST", start)
        self.expect(answer, "room for a blob", 202)
        answer.close()
        place = wire.next_place(self.what, start, answer.headers.get("Location", ""))
        place += f"{'&' if '?' in place else '?'}digest={digest}"
        headers = {"Content-Type": BINARY, "Content-Length": str(size)}
        self.kept(self.ask("PUT", place, headers, body, again=False), digest)

    def send_manifest(self, meant: str, kind: str, data: bytes) -> str:
        """Send a manifest, have the tag lead to it, and return its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        headers = {"Content-Type": kind, "Content-Length": str(len(data))}
        answer = self.ask("PUT", f"{self.path}/manifests/{meant}", headers, lambda: [data])
        self.kept(answer, digest)
        return digest

    def kept(self, answer: Answer, digest: str) -> None:
        """Raise OSError where the registry hasn't kept what we sent, ValueError if other bytes."""
        self.expect(answer, f"room for {digest}", 201)
        answer.close()
        found = answer.headers.get("Docker-Content-Digest", digest)
        if found.startswith("sha256:") and found != digest:
            why = f"the registry has kept it as {shown(found)}"
            raise ValueError(f"{self.what}: {digest}: {why}: tell who keeps the registry")

    # ---- when it says no

    def expect(self, answer: Answer, thing: str, *statuses: int) -> None:
        """Raise OSError, about `thing`, unless an answer has one of these statuses."""
        status = answer.status
        if status in statuses:
            return
        told = self.message(answer)
        answer.close()
        words = f"{status} {http.client.responses.get(status, '')}".rstrip()
        words += told and f", {told}"
        number, why, remedy = errno.EPROTO, f"the registry doesn't give {thing}", "ask who keeps it"
        if status == 401:
            number, why = errno.EACCES, f"the registry wants to know us before it gives {thing}"
            remedy = f"look at the spelling, or log in: {credentials.remedy(self.host)}"
            if self.authorization.startswith("Basic"):
                why = f"the registry doesn't take what {credentials.config_file()} has for it"
        elif status == 403:
            number, why = errno.EACCES, f"the registry doesn't let us have {thing}"
            remedy = "look at the spelling, and whom you are logged in as"
        elif status == 404:
            number, why = errno.ENOENT, f"the registry doesn't have {thing}"
            remedy = "look at the spelling"
        elif status == 429:
            number, why = errno.EBUSY, "the registry is asked too often"
            later = answer.headers.get("Retry-After", "")
            remedy = f"try again in {later[:9]} seconds" if later.isdecimal() else "try again later"
        elif status >= 500:
            number, why, remedy = errno.EREMOTEIO, "the registry failed", "try again later"
        raise OSError(number, f"{why} ({words}): {remedy}", self.what)

    def message(self, answer: Answer) -> str:
        """Return the first reason that a registry gives, in its own words; "" where it has none."""
        try:
            told = json.loads(self.whole(answer, MOST_WORDS))["errors"][0]["message"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ""
        return shown(told) if isinstance(told, str) else ""
