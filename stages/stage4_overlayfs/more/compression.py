"""Layers as they travel: plain, gzip, or zstd; from the bytes of one to those of the tar in it.

Nothing is believed of how much will come out: 1 MiB at a time does, and whoever reads counts.
zlib knows gzip's format. zstd is in Python from 3.14 on, and before that in `backports.zstd`, the
same module for older ones; it is loaded where the first zstd layer is met.
"""

from __future__ import annotations

import importlib
import io
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

CHUNK = 1 << 20
"""Bytes that come out at a time, at most."""
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""What their files begin with. See RFC 1952, RFC 8878."""


def kind_of(head: bytes) -> str:
    """Return how a file that begins so is compressed: "gzip", "zstd", or "" for not at all."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")


def inflate(chunks: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """Yield what was compressed as `kind`; raise ValueError where it is damaged, or cut off.

    Something is yielded for each chunk, if it is nothing: who counts chunks needn't keep them.
    """
    if not kind:
        yield from chunks
        return
    new, failure = (Gunzip, zlib.error) if kind == "gzip" else (Unzstd, zstd().ZstdError)
    decoder: Gunzip | Unzstd | None = None
    try:
        for data in chunks:
            rest = data
            while rest or (decoder and not decoder.hungry):
                # A file may be several, one behind the other; gzip allows zeros behind the last.
                if decoder is None or decoder.eof:
                    if kind == "gzip" and decoder and not rest.strip(b"\0"):
                        break
                    decoder = new()
                out, rest = decoder.step(rest)
                yield out
    except failure as error:
        raise ValueError(f"damaged {kind}, {error}: fetch it again") from None
    if decoder is None or not decoder.eof:
        raise ValueError(f"damaged {kind}, it ends too early: fetch it again")


class Gunzip:
    """One gzip member; `hungry` is whether nothing more comes out before more goes in."""

    def __init__(self) -> None:
        """Expect its header."""
        # 31: a window of 32 KiB (15), and gzip's header and checksum (16) around it
        self.inner = zlib.decompressobj(wbits=31)
        self.eof = self.hungry = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what comes out, and what of `data` didn't go in yet."""
        out = self.inner.decompress(data, CHUNK)
        self.eof = self.inner.eof
        self.hungry = self.eof or len(out) < CHUNK
        return out, self.inner.unconsumed_tail or self.inner.unused_data


class Unzstd:
    """One zstd frame; `hungry` is whether nothing more comes out before more goes in."""

    def __init__(self) -> None:
        """Expect its header."""
        self.inner = zstd().ZstdDecompressor()
        self.eof = self.hungry = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what comes out, and what of `data` is behind the frame's end."""
        out = self.inner.decompress(data, CHUNK)
        self.eof = self.inner.eof
        self.hungry = self.eof or self.inner.needs_input
        return out, self.inner.unused_data if self.eof else b""


def zstd() -> Any:
    """Return the module that knows zstd; raise ValueError where there is none."""
    try:
        return importlib.import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
    except ImportError:
        remedy = "`pip install backports.zstd`, or have the image compressed with gzip"
        raise ValueError(f"zstd, which this Python can't read: {remedy}") from None


class Stream(io.RawIOBase):
    """A file, to be read once from its beginning, of the bytes that an iterator yields."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Take the chunks one by one, as they are read."""
        self.chunks, self.rest = iter(chunks), memoryview(b"")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or a part of it; 0 at the end."""
        while not self.rest:
            chunk = next(self.chunks, None)
            if chunk is None:
                return 0
            self.rest = memoryview(chunk)
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count
