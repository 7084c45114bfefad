"""COPY and ADD: files of the context become a layer, written straight into its tar.

The image's tree is only looked at: where links lead, what is there already, who is who. So the
layer has no time of its making in it: the same files make the same bytes.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat

from stages import linux
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.compression import Stream, inflate, kind_of, zstd
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.paths import Tree, owner_of
from stages.stage4_overlayfs.pack import END, attributes, described
from stages.stage4_overlayfs.unpack import LIMIT, kept, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from stages.stage4_overlayfs.more.context import Context


class Copying:
    """One COPY or ADD, its variables in their place: what is to be copied, and whereto."""

    def __init__(
        self, context: Context, sources: Sequence[str], target: str, *, chown: str, chmod: str
    ) -> None:
        """Find the sources; `target` is absolute. Raises OSError or ValueError with words."""
        self.context, self.target, self.chown = context, target, chown
        if chmod and (len(chmod) > 4 or set(chmod) - set("01234567")):
            raise ValueError(f"--chmod={shown(chmod)}: say an octal number such as 0755")
        self.mode = int(chmod, 8) if chmod else None
        self.sources = [one for source in sources for one in context.find(source)]
        if len(self.sources) > 1 and not target.endswith("/"):
            raise ValueError(f"several files for {shown(target)}: end it with a / for a directory")

    def facts(self) -> list[object]:
        """Return what makes it another layer: names, types, modes, bytes; no time, no inode."""
        found: list[object] = []
        for source in self.sources:
            real = self.context.real(source)
            for one in [real, *self.inside(real)]:
                status = self.context.items[one]
                is_file = stat.S_ISREG(status.st_mode)
                what = self.context.digest(one) if is_file else self.context.links.get(one, "")
                name = one[len(real) :] if one != real else f"/{posixpath.basename(source)}"
                found.append([name, status.st_mode, what])
            found.append(None)
        return found

    def inside(self, path: str) -> list[str]:
        """Return what is copied with a source: a directory's contents."""
        found = [path]
        if stat.S_ISDIR(self.context.items[path].st_mode):
            found = self.context.below(path)
        for one in found:
            mode = self.context.items[one].st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                why = "a device or FIFO, which COPY can't read: name it in .dockerignore"
                raise ValueError(f"{shown(one)}: {why}")
        return found if found != [path] else []

    def layer(self, root: str, *, unpacks: bool = False) -> Iterator[bytes]:
        """Yield the layer's tar, for an image whose tree is at `root`.

        With `unpacks` a source that is a tar, compressed or not, gives what is in it, as ADD does.
        """
        return Writing(self, Tree(root), unpacks).everything()


class Writing:
    """The layer on its way: what goes to which path of the image."""

    def __init__(self, copying: Copying, tree: Tree, unpacks: bool) -> None:
        """Decide that, before anything is written."""
        self.copying, self.context, self.tree = copying, copying.context, tree
        self.owner = owner_of(tree, copying.chown) if copying.chown else (0, 0)
        self.pieces: dict[str, tuple[tar.Entry, str]] = {}
        """The entry for each path, and which file of the context is in it."""
        self.archives: list[tuple[str, str, str]] = []
        self.newest = max(
            self.context.items[self.context.real(one)].st_mtime_ns for one in copying.sources
        )
        target = tree.resolve(copying.target)
        status = tree.status(target)
        into = copying.target.endswith(("/", "/.")) or not target
        into = into or (status is not None and stat.S_ISDIR(status.st_mode))
        for source in copying.sources:
            real = self.context.real(source)
            kind = archive_kind(self.context, real) if unpacks else None
            if kind is not None and copying.mode is not None:
                raise ValueError(f"{shown(source)}: ADD --chmod of an archive: drop --chmod")
            if kind is not None:
                self.way(target)
                self.archives.append((real, target, kind))
            elif stat.S_ISDIR(self.context.items[real].st_mode):
                self.directory(real, target)
            else:
                name = f"{target}/{posixpath.basename(source)}" if into else target
                self.piece(name.lstrip("/"), real)

    def directory(self, source: str, target: str) -> None:
        """Take a directory's contents; the directory itself only where there is none yet."""
        self.way(posixpath.dirname(target))
        if target in self.pieces or self.tree.status(target) is not None:
            self.way(target)
        else:
            self.piece(target, source)
        for one in self.copying.inside(source):
            name = one[len(source) :].lstrip("/")
            self.piece(f"{target}/{name}".lstrip("/"), one)

    def piece(self, path: str, source: str) -> None:
        """Take one file, link or directory."""
        status = self.context.items[source]
        is_folder = stat.S_ISDIR(status.st_mode)
        self.way(posixpath.dirname(path))
        self.check(path, is_folder)
        before = self.pieces.get(path)
        if before and (before[0].kind == tar.DIRECTORY) != is_folder:
            raise ValueError(f"/{shown(path)}: a file and a directory: copy one of them elsewhere")
        entry = described(os.fsencode(f"{path}/" if is_folder else path), status)
        if source in self.context.links:
            entry.link = os.fsencode(self.context.links[source])
        elif self.copying.mode is not None:
            entry.mode = self.copying.mode
        entry.uid, entry.gid = self.owner
        self.pieces[path] = entry, source

    def check(self, path: str, is_folder: bool) -> None:
        """Refuse what would exchange a directory for a file, or the other way round."""
        if any(part.startswith(".wh.") for part in path.split("/")):
            raise ValueError(f"{shown(path)}: in a layer this would be a deletion: rename it")
        status = self.tree.status(path)
        if status is None or stat.S_ISDIR(status.st_mode) == is_folder:
            return
        if is_folder:
            kind = "a link" if stat.S_ISLNK(status.st_mode) else "no directory"
            why = f"the image has {kind} there: copy to where it leads, or RUN rm first"
        else:
            why = "the image has a directory there: name a file, or RUN rm -r first"
        raise ValueError(f"/{shown(path)}: {why}")

    def way(self, path: str) -> None:
        """Have the directories on the way: the image's as they are, the others new."""
        if not path:
            return  # a layer that says nothing of its root leaves it as it is
        if path in self.pieces:
            if self.pieces[path][0].kind != tar.DIRECTORY:
                raise ValueError(f"/{shown(path)}: a file and a directory: copy one elsewhere")
            return
        self.way(posixpath.dirname(path))
        self.check(path, True)
        entry = folder(self.tree, path, self.owner, self.newest)
        self.pieces[path] = entry, ""

    def everything(self) -> Iterator[bytes]:
        """Yield all entries, directories before what is in them."""
        for path in sorted(self.pieces, key=lambda path: path.split("/")):
            entry, source = self.pieces[path]
            yield tar.header(entry)
            if entry.kind == tar.FILE:
                yield from self.context.chunks(source)
                yield bytes(-entry.size % tar.UNIT)
        for source, target, kind in self.archives:
            yield from self.unpacked(source, target, kind)
        yield END

    def unpacked(self, source: str, target: str, kind: str) -> Iterator[bytes]:
        """Yield the entries of an archive, below `target`; raise Hostile for what can't be there.

        What a layer's tar has to be in other ways is found out when it is unpacked.
        """
        stream = Stream(inflate(self.context.chunks(source), kind))
        reader = tar.Reader(io.BufferedReader(stream), LIMIT)
        prefix = os.fsencode(target) + b"/" if target else b""
        for entry, content in tar.entries(reader):
            path = path_of(entry.name)
            try:
                self.check(os.fsdecode(prefix + path).rstrip("/"), entry.kind == tar.DIRECTORY)
                ways = path.split(b"/")[:-1]
                for count in range(1, len(ways) + 1):
                    self.check(os.fsdecode(prefix + b"/".join(ways[:count])), True)
            except ValueError as error:
                raise tar.Hostile(entry.name, str(error)) from None
            entry.name = prefix + path + (b"/" if entry.kind == tar.DIRECTORY else b"")
            entry.name = entry.name.replace(b"//", b"/").lstrip(b"/") or b"./"
            if entry.kind == tar.LINK:
                entry.link = prefix + path_of(entry.link)
            if self.copying.chown:
                entry.uid, entry.gid = self.owner
            for attribute in [one for one in entry.xattrs if not kept(one)]:
                del entry.xattrs[attribute]  # another host's
            yield tar.header(entry)
            yield from map(bytes, content)
            yield bytes(-entry.size % tar.UNIT)


def folder(tree: Tree, path: str, owner: tuple[int, int], mtime: int) -> tar.Entry:
    """Return the entry of a directory: as the image has it, or else a new one."""
    name = os.fsencode(f"{path}/")
    if tree.status(path) is None:
        entry = tar.Entry(name, tar.DIRECTORY, 0o755)
        (entry.uid, entry.gid), entry.mtime = owner, mtime
        return entry
    flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_NOFOLLOW | linux.O_CLOEXEC
    fd = os.open(f"{tree.root}/{path}", flags)
    try:
        entry = described(name, os.fstat(fd))
        entry.xattrs = attributes(fd, name)
    finally:
        os.close(fd)
    return entry


def new_folder(root: str, path: str, mtime: int) -> list[bytes]:
    """Return a layer's tar with a directory and those on its way; none where it is there."""
    tree = Tree(root)
    path = tree.resolve(path)
    status = tree.status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        return []
    parts, entries = path.split("/"), list[tar.Entry]()
    for count in range(1, len(parts) + 1):
        way = "/".join(parts[:count])
        status = tree.status(way)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise ValueError(f"/{shown(way)}: the image has a file there: name another directory")
        entries.append(folder(tree, way, (0, 0), mtime))
    return [*map(tar.header, entries), END]


def archive_kind(context: Context, path: str) -> str | None:
    """Return how a tar is compressed, "" for not at all; None where a file is no tar."""
    if not stat.S_ISREG(context.items[path].st_mode):
        return None
    chunks = context.chunks(path)
    first = next(chunks, b"")
    chunks.close()  # type: ignore[attr-defined]
    kind = kind_of(first)
    if first.startswith((b"BZh", b"\xfd7zXZ\0")):
        why = "bzip2 and xz are not unpacked here: compress it with gzip or zstd, or COPY it"
        raise ValueError(f"{shown(path)}: {why}")
    if kind == "zstd":
        zstd()  # without it nobody can tell what is inside
    try:
        head = next(filter(None, inflate(iter([first]), kind)), b"")
    except ValueError:
        return None  # damaged: a file like any other
    return kind if head[257:262] == b"ustar" else None


def clamped(chunks: Iterator[bytes], seconds: int | None) -> Iterator[bytes]:
    """Yield a layer's tar, in which no file is younger than `seconds` since 1970; None: any is.

    See reproducible-builds.org, "SOURCE_DATE_EPOCH".
    """
    if seconds is None:
        yield from chunks
        return
    stream: BinaryIO = io.BufferedReader(Stream(chunks))
    for entry, content in tar.entries(tar.Reader(stream, LIMIT)):
        entry.mtime = min(entry.mtime, seconds * 10**9)
        yield tar.header(entry)
        yield from map(bytes, content)
        yield bytes(-entry.size % tar.UNIT)
    yield END
