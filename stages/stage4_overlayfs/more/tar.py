"""The tar format, as layers use it: ustar headers, with what PAX and GNU tar add to them.

Python's `tarfile` reads far more than that: sparse files of four kinds, compressed ones, and a
damaged header, at which it stops as if the archive ended there. A layer is somebody else's, so
here each field has one meaning, and what has none, or two, is refused with the entry's name.
See tar(5), and POSIX, pax, "pax Interchange Format".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn, Protocol

    class Readable(Protocol):
        """What a layer comes from: a file, a pipe, a decompressor."""

        def read(self, size: int, /) -> bytes:
            """Return up to `size` bytes; none at the end."""


FILE, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
KINDS = frozenset((FILE, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO))
OLD_FILE, CONTIGUOUS = b"\0", b"7"
"""A file in tar of 1979, and one that the tape was to hold in one piece; both are files."""
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK, GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"

UNIT = 512
"""Bytes: all that an archive holds is in blocks of that size."""
ZEROS = bytes(UNIT)
MOST_EXTRA = 1 << 20
"""Bytes of one PAX or GNU header: what Go's archive/tar takes, and so Docker."""
PIECE = 1 << 20
"""Bytes that are read at once."""
MOST_ID = (1 << 32) - 2
"""The greatest uid and gid: -1 means "leave it" to chown(2)."""
MOST_SECONDS = 1 << 40
XATTR = b"SCHILY.xattr."
"""The PAX keyword of an extended attribute, star's, whose author gave it the name."""


class Hostile(ValueError):
    """An entry that has no place in a layer; its text names the entry and says why."""

    def __init__(self, name: bytes, reason: str) -> None:
        """Say both in one line."""
        super().__init__(f"{shown(name)}: {reason}")
        self.name, self.reason = name, reason


def shown(name: bytes) -> str:
    """Return a name for people: no newline in it, nothing that plays with a terminal."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) or "/"


class Entry:
    """What an archive says of one file; `mtime` is in nanoseconds, names are as they were."""

    __slots__ = (
        *("name", "kind", "mode", "uid", "gid", "size", "mtime"),
        *("link", "major", "minor", "xattrs"),
    )

    def __init__(self, name: bytes, kind: bytes, mode: int = 0o644) -> None:
        """Make an empty entry of root's."""
        self.name, self.kind, self.mode = name, kind, mode
        self.uid = self.gid = self.size = self.mtime = self.major = self.minor = 0
        self.link = b""
        self.xattrs: dict[str, bytes] = {}


class Reader:
    """A stream in pieces of the size that is asked for, and no more of them than `limit` bytes."""

    def __init__(self, stream: Readable, limit: int) -> None:
        """Read nothing yet."""
        self.stream, self.limit, self.left = stream, limit, limit
        self.buffer, self.at = memoryview(b""), 0
        self.name = b"the archive"  # the entry we are at, for what an error says

    def refuse(self, reason: str) -> NoReturn:
        """Raise Hostile with the name of the entry we are at."""
        raise Hostile(self.name, reason)

    def take(self, size: int) -> memoryview:
        """Return `size` bytes; raise Hostile where the stream ends before."""
        if self.at + size > len(self.buffer) and not self._fill(size):
            self.refuse("the archive ends in the middle of it, or after it without an end mark")
        self.at += size
        return self.buffer[self.at - size : self.at]

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Give `size` bytes in pieces, as they come."""
        while size:
            if self.at == len(self.buffer):
                self._fill(1)
            piece = self.take(min(size, max(len(self.buffer) - self.at, 1)))
            size -= len(piece)
            yield piece

    def _fill(self, size: int) -> bool:
        parts = [bytes(self.buffer[self.at :])]
        have = len(parts[0])
        # At the limit one byte more shows whether the stream ends there.
        while have < size and (more := self.stream.read(min(PIECE, self.left) or 1)):
            parts.append(more)
            have += len(more)
            self.left -= len(more)
            if self.left < 0:
                self.refuse(f"here the layer passes its limit of {self.limit} bytes")
        self.buffer, self.at = memoryview(b"".join(parts)), 0
        return have >= size

    def check_room(self, size: int) -> None:
        """Raise Hostile where `size` bytes would pass the limit: before one of them is written."""
        if size > self.left + len(self.buffer) - self.at:
            self.refuse(f"its {size} bytes would pass the layer's limit of {self.limit} bytes")

    def drain(self) -> None:
        """Read to the stream's end: whoever computes its digest wants all of it."""
        while self._fill(1):
            self.at = len(self.buffer)


def entries(reader: Reader) -> Iterator[tuple[Entry, Iterator[memoryview]]]:
    """Give each entry with its content, which goes with it: what isn't read is skipped.

    Raises Hostile, which names the entry, or else the last one before the damage.
    """
    extra: dict[bytes, bytes] = {}
    while True:
        block = bytes(reader.take(UNIT))
        if block == ZEROS:
            break
        kind, size = block[156:157], _checked(reader, block)
        if kind in (PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK):
            _add_extra(reader, extra, kind, size)
            continue
        entry = _entry(reader, block, extra)
        extra = {}
        content = reader.pieces(entry.size)
        yield entry, content
        for _ in content:
            pass
        reader.take(-entry.size % UNIT)
    if extra:
        reader.refuse("the archive ends after a header that speaks of a next entry")
    # POSIX wants two such blocks; some writers end with one. An entry after one is what GNU tar
    # and Go disagree about.
    if reader._fill(UNIT) and reader.take(UNIT) != ZEROS:
        reader.refuse("an entry comes after the archive's end mark")
    reader.drain()


def _checked(reader: Reader, block: bytes) -> int:
    """Return the size field of a header whose checksum is right."""
    # The sum of all bytes, where those of the sum itself count as spaces.
    if sum(block) - sum(block[148:156]) + 8 * 32 != _number(reader, block[148:156], "checksum"):
        reader.refuse("the header after it has a wrong checksum")
    return _number(reader, block[124:136], "size")


def _add_extra(reader: Reader, extra: dict[bytes, bytes], kind: bytes, size: int) -> None:
    """Read a header that speaks of the next entry, into `extra`: its PAX keywords and values."""
    if size > MOST_EXTRA:
        reader.refuse(f"the header after it has {size} bytes; {MOST_EXTRA} are the most")
    data = bytes(reader.take(size))
    reader.take(-size % UNIT)
    if extra.setdefault(b"type " + kind, data) is not data:
        reader.refuse("the entry after it has two headers of one kind")
    if kind == PAX_GLOBAL:
        # `git archive` writes its commit there. Anything else would change all that follows, in
        # some tools: Docker ignores it, GNU tar doesn't.
        if any(key != b"comment" for key, _ in _records(reader, data)):
            reader.refuse("a global PAX header after it, which tools read differently")
        del extra[b"type g"]
        return
    pairs = list(_records(reader, data)) if kind == PAX else []
    if kind in (GNU_NAME, GNU_LINK):
        pairs = [(b"path" if kind == GNU_NAME else b"linkpath", data.removesuffix(b"\0"))]
    for key, value in pairs:
        if key in extra:
            reader.refuse(f"the entry after it has two values of {key.decode('ascii', 'replace')}")
        extra[key] = value


def _records(reader: Reader, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give keyword and value of each PAX record, "LENGTH KEYWORD=VALUE" and a newline."""
    at = 0
    while at < len(data):
        digits = data[at : at + 8].partition(b" ")[0]
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[at + len(digits) + 1 : max(end - 1, 0)].partition(b"=")
        if not key or not equals or end > len(data) or data[end - 1 : end] != b"\n":
            reader.refuse("the PAX header after it is damaged")
        yield key, value
        at = end


def _entry(reader: Reader, block: bytes, extra: dict[bytes, bytes]) -> Entry:
    """Return what a header and the headers before it say."""
    name = _text(block[:100])
    # GNU tar has other things where ustar has the first part of a long name.
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    name = extra.get(b"path", name)
    reader.name = name
    entry = Entry(name, block[156:157], _number(reader, block[100:108], "mode") & 0o7777)
    if entry.kind in (OLD_FILE, CONTIGUOUS):
        # Before there were types, a directory was a file whose name ends so.
        old_directory = entry.kind == OLD_FILE and name.endswith(b"/")
        entry.kind = DIRECTORY if old_directory else FILE
    if entry.kind == GNU_SPARSE or any(key.startswith(b"GNU.sparse.") for key in extra):
        # A few bytes that say "and a terabyte of nothing".
        reader.refuse("a sparse file, which layers don't have")
    if entry.kind not in KINDS:
        reader.refuse(f"an entry of unknown type {ascii(entry.kind)[1:]}")
    if entry.kind == FILE and name.endswith(b"/"):
        reader.refuse("a file with the name of a directory")
    entry.link = extra.get(b"linkpath", _text(block[157:257]))
    entry.size = _decimal(reader, extra, b"size", block[124:136])
    entry.uid = _decimal(reader, extra, b"uid", block[108:116])
    entry.gid = _decimal(reader, extra, b"gid", block[116:124])
    if entry.uid > MOST_ID or entry.gid > MOST_ID:
        reader.refuse("an owner beyond the greatest number of one")
    entry.mtime = _time(reader, extra, block[136:148])
    if entry.kind in (CHAR, BLOCK):
        entry.major = _number(reader, block[329:337], "device")
        entry.minor = _number(reader, block[337:345], "device")
        if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
            reader.refuse("a device beyond the greatest number of one")
    if entry.size and entry.kind != FILE:
        # Some tools skip that many bytes, others read them as headers.
        reader.refuse("it has a size, and is no file")
    reader.check_room(entry.size)
    for key, value in extra.items():
        if key.startswith(XATTR):
            entry.xattrs[key[len(XATTR) :].decode("utf-8", "surrogateescape")] = value
    return entry


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(reader: Reader, field: bytes, what: str) -> int:
    """Return a number: octal digits, or GNU's, whose first bit says that all others are binary."""
    if field[0] & 0x80:
        negative = field[0] & 0x40
        value = int.from_bytes(field, "big", signed=bool(negative))
        if negative and what == "time":
            return value
        value &= (1 << (8 * len(field) - 1)) - 1
        if negative or value >= 1 << 63:
            reader.refuse(f"its {what}, or that of the entry after it, is out of range")
        return value
    digits = field.strip(b"\0 ") or b"0"
    # int() alone would take a sign and underscores too.
    if digits.strip(b"01234567"):
        reader.refuse(f"its {what}, or that of the entry after it, is no number")
    return int(digits, 8)


def _decimal(reader: Reader, extra: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    """Return a number that PAX gives in decimal, or else that of the header."""
    if key not in extra:
        return _number(reader, field, key.decode())
    if not extra[key].isdigit() or len(extra[key]) > 18:
        reader.refuse(f"its {key.decode()} in a PAX header is no number")
    return int(extra[key])


def _time(reader: Reader, extra: dict[bytes, bytes], field: bytes) -> int:
    """Return the time of the last change, in nanoseconds since 1970: PAX's, or the header's."""
    if b"mtime" not in extra:
        nanoseconds = _number(reader, field, "time") * 10**9
    else:
        text = extra[b"mtime"]
        whole, _, fraction = text.removeprefix(b"-").partition(b".")
        if not whole.isdigit() or not (fraction.isdigit() or not fraction) or len(text) > 40:
            reader.refuse("its time in a PAX header is no number")
        nanoseconds = int(whole) * 10**9 + int(fraction[:9].ljust(9, b"0"))
        nanoseconds = -nanoseconds if text.startswith(b"-") else nanoseconds
    if abs(nanoseconds) > MOST_SECONDS * 10**9:
        reader.refuse("its time is out of range")
    return nanoseconds


def header(entry: Entry) -> bytes:
    """Return the header of an entry, with a PAX header before it where ustar has no room.

    Raises ValueError for a name of an extended attribute that PAX can't carry.
    """
    extra = {
        XATTR + name.encode("utf-8", "surrogateescape"): entry.xattrs[name]
        for name in sorted(entry.xattrs)
    }
    if any(b"=" in key for key in extra):
        raise ValueError(f"{shown(entry.name)}: an extended attribute with = in its name")
    for key, text in ((b"path", entry.name), (b"linkpath", entry.link)):
        # What isn't ASCII has no stated meaning in ustar.
        if len(text) > 100 or not text.isascii():
            extra[key] = text
    for key, number, most in (
        (b"uid", entry.uid, 8**7),
        (b"gid", entry.gid, 8**7),
        (b"size", entry.size, 8**11),
    ):
        if number >= most:
            extra[key] = b"%d" % number
    seconds, nanoseconds = divmod(entry.mtime, 10**9)
    if nanoseconds or not 0 <= seconds < 8**11:
        sign, size = (b"-", -entry.mtime) if entry.mtime < 0 else (b"", entry.mtime)
        extra[b"mtime"] = b"%s%d.%09d" % (sign, *divmod(size, 10**9))
    block = _block(entry)
    if not extra:
        return block
    data = b"".join(_record(key, extra[key]) for key in sorted(extra))
    before = Entry(b"PaxHeaders/" + entry.name.rstrip(b"/").rpartition(b"/")[2], PAX)
    before.size = len(data)
    return _block(before) + data + bytes(-len(data) % UNIT) + block


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%s" % (length, rest)


def _block(entry: Entry) -> bytes:
    """Return one header of ustar; what has no room in it is cut, or 0: PAX says it."""
    seconds = entry.mtime // 10**9
    block = b"".join(
        (
            entry.name[:100].ljust(100, b"\0"),
            b"%07o\0" % entry.mode,
            b"%07o\0" % (entry.uid if entry.uid < 8**7 else 0),
            b"%07o\0" % (entry.gid if entry.gid < 8**7 else 0),
            b"%011o\0" % (entry.size if entry.size < 8**11 else 0),
            b"%011o\0" % (seconds if 0 <= seconds < 8**11 else 0),
            b" " * 8,
            entry.kind,
            entry.link[:100].ljust(100, b"\0"),
            b"ustar\x0000",  # and version "00"
            bytes(64),  # names of owners: those of the host, which mean nothing in an image
            b"%07o\0%07o\0" % (entry.major, entry.minor),
        )
    ).ljust(UNIT, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
