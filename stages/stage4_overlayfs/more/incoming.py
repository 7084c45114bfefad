"""What is checked of every image that comes in, whichever form it has."""

from __future__ import annotations

import contextlib
import hashlib

from stages.stage4_overlayfs.more.compression import inflate
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.shapes import LAYER, MOST_BYTES, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stages.stage4_overlayfs.image import Layer
    from stages.stage4_overlayfs.more.archive import Archive, Directory
    from stages.stage4_overlayfs.store import Store

    Source = Archive | Directory


class Budget:
    """How many bytes may still come out of an image's layers."""

    def __init__(self, limit: int) -> None:
        """Take the bytes that all layers together may have."""
        self.limit = self.left = limit

    def count(self, what: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Hand on the bytes; raise ValueError as soon as they are too many."""
        for chunk in chunks:
            self.left -= len(chunk)
            if self.left < 0:
                why = f"more than {self.limit} bytes when uncompressed"
                raise ValueError(f"{shown(what)}: {why}: say a higher limit if you trust it")
            yield chunk


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Have a ValueError from inside say what it is about."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(what) else f"{what}: {text}") from None


def small(found: Source, name: str) -> bytes:
    """Return the bytes of a document."""
    if found.size(name) > MOST_BYTES:
        raise refused(f"{found.what}: {name}", f"longer than {MOST_BYTES} bytes")
    return b"".join(found.chunks(name))


def keep_layer(
    store: Store,
    what: str,
    chunks: Iterable[bytes],
    kind: str,
    diff_id: str,
    budget: Budget,
    digest: str = "",
) -> Layer:
    """Store a layer, compressed as `kind` or not, and return it.

    Raises ValueError, which begins with `what`, where the tar in it hasn't the digest `diff_id`, or
    the blob not `digest`; "" is any. Of a blob that is there its own bytes are read, and no others.
    """
    there = bool(digest) and store.has(digest)
    with about(what):
        if not kind and digest not in ("", diff_id):
            raise refused(what, f"not compressed, and yet its diff_id is {diff_id}")
        chunks = undamaged(store, digest) if there else chunks
        if kind:
            chunks = while_checked(chunks, what, kind, diff_id, budget)
        else:
            chunks, digest = budget.count(what, chunks), diff_id
        if there:
            size = store.size(digest)
            for _ in chunks:
                continue
        else:
            digest, size = store.add(chunks, digest)
    return diff_id, digest, f"{LAYER}+{kind}" if kind else LAYER, size


def undamaged(store: Store, digest: str) -> Iterator[bytes]:
    """Yield a blob's bytes, once all are what they should be; raise OSError, EBADMSG, if not.

    Damaged gzip would be said to be its maker's fault otherwise.
    """
    for _ in store.chunks(digest):
        continue
    yield from store.chunks(digest)


def while_checked(
    chunks: Iterable[bytes], what: str, kind: str, diff_id: str, budget: Budget
) -> Iterator[bytes]:
    """Hand on a compressed layer; raise ValueError, behind the last, where the tar is another."""
    passed: list[bytes] = []

    def taken() -> Iterator[bytes]:
        for chunk in chunks:
            passed.append(chunk)
            yield chunk

    hashed = hashlib.sha256()
    for out in budget.count(what, inflate(taken(), kind)):
        hashed.update(out)
        yield from passed
        passed.clear()
    yield from passed
    if (found := f"sha256:{hashed.hexdigest()}") != diff_id:
        raise refused(what, f"the layer in it is {found}, where {diff_id} is announced")
