"""The tar or the directory that an image comes in: which files it holds, and where.

Only what a saved image needs: regular files, and the links between them that Docker once wrote.
Nothing is unpacked: a name in here never becomes a path of this machine. See tar(5).
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from stages.stage4_overlayfs.more.names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BLOCK, CHUNK = 512, 1 << 20
MOST_FILES = 20_000
"""Files of a saved image that are remembered: it has a few for each layer, a root file system
many, and that is known for one without them."""
MOST_NAME = 512
"""Characters of a name that is remembered: those of a saved image are shorter."""
MOST_EXTENDED = 1 << 20
"""Bytes of an extended header: names, and attributes of at most 64 KiB each. See xattr(7)."""
DIGITS, REGULAR, WITHOUT_DATA = b"01234567", b"0\0" + b"7", b"123456"
"""Of typeflag: contiguous files are regular ones; links, devices and directories have no data."""


class Archive:
    """A tar that can be read anywhere: `files` has the place and size of each regular file."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        """Walk the whole tar, from header to header; raise ValueError where it isn't one."""
        self.file, self.what = file, what
        self.files: dict[str, tuple[int, int]] = {}
        self.links: dict[str, str] = {}
        self.twice: set[str] = set()
        self.entries = 0
        for name, kind, target, place, size in walk(file, what):
            self.entries += 1
            many = len(self.files) + len(self.links) >= MOST_FILES
            if many or len(name) > MOST_NAME or len(target) > MOST_NAME:
                continue
            if name in self.files or name in self.links:
                self.twice.add(name)
            if kind in REGULAR:
                self.files[name] = (place, size)
            elif kind == b"1":
                self.links[name] = plain(target)
            elif kind == b"2":
                self.links[name] = plain(posixpath.join(posixpath.dirname(name), target))

    def __contains__(self, name: str) -> bool:
        return name in self.files or name in self.links

    def size(self, name: str) -> int:
        """Return the bytes of a file; raise ValueError where there is none of that name."""
        return self.place(name)[1]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a file."""
        at, left = self.place(name)
        while left:
            self.file.seek(at)
            chunk = self.file.read(min(CHUNK, left))
            if not chunk:
                raise cut_off(self.what)
            yield chunk
            at, left = at + len(chunk), left - len(chunk)

    def whole(self) -> Iterator[bytes]:
        """Yield the bytes of the tar itself."""
        self.file.seek(0)
        while chunk := self.file.read(CHUNK):
            yield chunk

    def place(self, name: str) -> tuple[int, int]:
        """Return where a file begins, and its size, through the links that lead to it."""
        at = plain(name)
        for _ in range(8):
            if at in self.twice:
                raise ValueError(f"{self.what}: {shown(at)} is in it twice: save the image again")
            if at in self.files:
                return self.files[at]
            at = self.links.get(at, "")
        raise ValueError(f"{self.what}: it has no file {shown(name)}: save the image again")


class Directory:
    """The same of a directory, such as an OCI layout; links in it are not followed."""

    def __init__(self, path: str) -> None:
        """Look at nothing yet."""
        self.what = path

    def __contains__(self, name: str) -> bool:
        return os.path.lexists(f"{self.what}/{name}")

    def size(self, name: str) -> int:
        """Return the bytes of a file; raise OSError, or ValueError where it isn't regular."""
        with self.open(name) as file:
            return os.fstat(file.fileno()).st_size

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a file."""
        with self.open(name) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def open(self, name: str) -> BinaryIO:
        """Open a file below the directory, one name after the other, so that none is a link."""
        path = f"{self.what}/{shown(name)}"
        # A FIFO would keep us waiting for somebody to write.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.what, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in name.split("/"):
                if part in ("", ".", ".."):
                    raise ValueError(f"{path}: leaves the image: fetch it again")
                inner = os.open(part, flags, dir_fd=fd)
                os.close(fd)
                fd = inner
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError(f"{path}: not a regular file: copy the image with `cp -rL`")
            return os.fdopen(os.dup(fd), "rb")
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ValueError(f"{path}: a link: copy the image with `cp -rL`") from None
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)


def walk(file: BinaryIO, what: str) -> Iterator[tuple[str, bytes, str, int, int]]:
    """Yield name, typeflag, link's target, place and size of each entry of a tar."""
    end, at = file.seek(0, os.SEEK_END), 0
    longer: dict[str, str] = {}
    while at < end:
        file.seek(at)
        header = file.read(BLOCK)
        if not header.strip(b"\0"):
            break
        size, kind = check_header(header, what, at), header[156:157]
        place = at + BLOCK
        # GNU tar's sparse files: the list of their pieces may go on behind the header.
        more = kind == b"S" and header[482]
        while more:
            place, more = place + BLOCK, file.read(BLOCK)[504:505].strip(b"\0") != b""
        size = int(longer.pop("size", size)) if kind not in b"xgLK" else size
        if kind in WITHOUT_DATA:
            size = 0
        if size > end - place:
            raise cut_off(what)
        at = place + -(-size // BLOCK) * BLOCK
        if kind in b"xLK":
            if size > MOST_EXTENDED:
                why = f"an extended header of {size} bytes"
                raise ValueError(f"{what}: at byte {place}, {why}: save the image again")
            longer.update(extended(kind, file.read(size), what))
        elif kind != b"g":
            name = longer.pop("path", "") or name_of(header)
            target = longer.pop("linkpath", "") or text_of(header[157:257])
            longer = {}
            yield plain(name), kind, target, place, size
    if not end:
        raise ValueError(f"{what}: empty: say the file that `docker save` or `export` wrote")


def check_header(header: bytes, what: str, at: int) -> int:
    """Return the size that a header says, once its checksum is right; or raise ValueError."""
    try:
        if len(header) < BLOCK:
            raise ValueError
        told, counted = number(header[148:156]), sum(header) - sum(header[148:156]) + 8 * 0x20
        size = number(header[124:136])
    except ValueError:
        told = counted = size = -1
    if told != counted or size < 0:
        where = f"at byte {at}, " if at else ""
        raise ValueError(
            f"{what}: {where}not a tar: say the file that `docker save` or `export` wrote"
        )
    return size


def number(field: bytes) -> int:
    """Return a number of a header: octal digits, or where the first bit is set, the bytes."""
    if field[0] & 0x80:
        # 0x80 begins a number of 11 bytes, and 0xff a negative one, which nothing here may be.
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.strip(b" \0")
    if digits.strip(DIGITS):
        raise ValueError
    return int(digits or b"0", 8)


def extended(kind: bytes, data: bytes, what: str) -> dict[str, str]:
    """Return what a header in front says about the next entry: `path`, `linkpath`, `size`."""
    if kind != b"x":
        return {"path" if kind == b"L" else "linkpath": text_of(data)}
    found, at = {}, 0
    while at < len(data):
        # "LENGTH KEY=VALUE\n": the length counts itself. See pax(1p), "Extended Header".
        length, _, _ = data[at : at + 8].partition(b" ")
        record = data[at : at + int(length)] if length.isdigit() else b""
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals or not record.endswith(b"\n") or (key == b"size" and not is_size(value)):
            raise ValueError(f"{what}: damaged, an extended header has no sense: save it again")
        if key in (b"path", b"linkpath", b"size"):
            found[key.decode()] = text_of(value)
        at += len(record)
    return found


def is_size(value: bytes) -> bool:
    """Return whether this is a number that a size can be."""
    return value.isdigit() and len(value) < 20


def name_of(header: bytes) -> str:
    """Return the name in a header: POSIX's has a prefix for long ones."""
    name, prefix = text_of(header[:100]), text_of(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def text_of(field: bytes) -> str:
    """Return a text that a zero byte ends."""
    return os.fsdecode(field.partition(b"\0")[0])


def plain(name: str) -> str:
    """Return a name without `./` and `..`: in an archive nothing is above its root."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def cut_off(what: str) -> ValueError:
    """Return the error for a tar that ends before its end."""
    return ValueError(f"{what}: it ends in the middle of a file: fetch it again")


def entry(name: str, size: int) -> bytes:
    """Return the header of a regular file, or of a directory where the name ends with `/`.

    No owner and no time: two archives of the same image are the same bytes.
    """
    kind, mode = (b"5", 0o755) if name.endswith("/") else (b"0", 0o644)
    # 11 octal digits count to 8 GiB; from there on it is the number itself, behind a byte 0x80.
    length = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    fields = (name.encode().ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0" * 2, length)
    head = b"".join(fields) + b"%011o\0" % 0
    tail = (kind + b"\0" * 100 + b"ustar\00000").ljust(356, b"\0")
    checksum = sum(head) + sum(tail) + 8 * 0x20
    return head + b"%06o\0 " % checksum + tail


def padding(size: int) -> bytes:
    """Return what fills the last block of a file."""
    return b"\0" * (-size % BLOCK)
