"""A layer's tar becomes a directory: what the archive says, never outside the target.

An archive is somebody else's program for a file system: it may have `a -> /etc`, then `a/passwd`;
and another process may exchange directories for links meanwhile. Where a path leads is the
kernel's to decide, in one step with opening it (more/walk.py); all else is made relative to the
directory so opened, by calls that don't follow links (more/making.py).

What is legal follows OCI's image-spec, layer.md, and what Docker and containerd do:
a leading `/` or `./` means the target; `..` does not occur; no path occurs twice, but a directory
may, and then the last one counts; nothing is below a file or a link of the same layer; a hard link
leads to an earlier entry; a whiteout speaks of lower layers only, wherever in the archive it is.
"""

from __future__ import annotations

import os
import stat

from stages import linux
from stages.stage4_overlayfs import whiteouts
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.making import Maker, hard_link
from stages.stage4_overlayfs.more.tar import Entry, Hostile
from stages.stage4_overlayfs.more.walk import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage4_overlayfs.whiteouts import Form

__all__ = ["LIMIT", "Hostile", "kept", "unpack"]

LIMIT = 16 << 30
"""Bytes of a layer's tar: names, contents and all; more is refused."""
MOST_MEMORY, NAME_MEMORY = 512 << 20, 128
"""Bytes that the names of one layer may take while it is unpacked, and what one takes beside its
own: two million files are fine, two million directories inside one another are not."""
LONGEST_PATH, LONGEST_NAME = 4095, 255
"""Bytes. See path_resolution(7)."""

FILE, FOLDER, WHITEOUT = "file", "folder", "whiteout"
"""What this layer has made of a path."""


def unpack(
    stream: tar.Readable, target: linux.StrPath, form: Form, *, limit: int = LIMIT
) -> list[bytes]:
    """Unpack the uncompressed tar `stream` into the directory `target`; read it to its end.

    `form` says how deletions are written. Returns the directories that had to be made though the
    layer has no entry of their own, root's and 0755: a lower layer may know better. Raises
    Hostile, which names the entry, where one has no place in a layer or the archive is damaged or
    beyond `limit` bytes; OSError, with the entry as its `filename`, where the kernel refuses. What
    came before is in the target then: unpack into a new one, and rename it.
    """
    reader = tar.Reader(stream, limit)
    layer = Layer(target, form)
    try:
        for entry, content in tar.entries(reader):
            layer.add(entry, content)
        return layer.finish()
    except OSError as error:
        if error.errno is None:  # a decompressor's, in words of its own
            raise
        raise OSError(error.errno, error.strerror, tar.shown(layer.at)) from error
    finally:
        layer.walk.close()


def path_of(name: bytes) -> bytes:
    """Return a name of the archive as a path below the target; b"" is the target itself."""
    if b"\0" in name:
        raise Hostile(name, "a NUL in its name")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Hostile(name, "`..` would lead out")
    if len(name) > LONGEST_PATH or max(map(len, parts), default=0) > LONGEST_NAME:
        raise Hostile(name, "a longer name than a file can have")
    return b"/".join(parts)


def kept(name: str) -> bool:
    """Return whether a layer has a say about an extended attribute.

    The others belong to the host: labels of its security modules, and the marks of its overlay,
    which would show the files of others (redirect, metacopy).
    """
    if name.startswith("user."):
        return not name.startswith("user.overlay.")
    return name in ("security.capability", "system.posix_acl_access", "system.posix_acl_default")


class Layer:
    """A target, and what one archive has made in it so far."""

    def __init__(self, target: linux.StrPath, form: Form) -> None:
        """Open the target, which is there."""
        self.walk, self.form, self.maker = Walk(target), form, Maker()
        self.at = b""  # the entry we are at, for what an error says
        self.made = {b"": FOLDER}
        self.room = MOST_MEMORY
        self.folders: dict[bytes, Entry] = {}
        self.implied: set[bytes] = set()
        self.hidden: set[bytes] = set()  # directories of which nothing lower is left

    def add(self, entry: Entry, content: Iterator[memoryview]) -> None:
        """Make one entry."""
        self.at = entry.name
        path = path_of(entry.name)
        above, _, name = path.rpartition(b"/")
        if b"/.wh." in b"/" + above:
            raise Hostile(entry.name, "it is below a whiteout")
        if name.startswith(whiteouts.PREFIX):
            self.delete(entry, above, name)
        elif entry.kind == tar.DIRECTORY:
            self.folder(entry, path)
        else:
            self.other(entry, path, content)

    def folder(self, entry: Entry, path: bytes) -> None:
        """Make a directory; what it is like is set at the end, as its entries change it."""
        if self.made.get(path) == FILE:
            raise Hostile(entry.name, "it was a file or a link before")
        self.check_xattrs(entry)
        self.enter(path, entry)
        self.folders[path] = entry
        self.implied.discard(path)

    def other(self, entry: Entry, path: bytes, content: Iterator[memoryview]) -> None:
        """Make what isn't a directory, in the place of what a lower layer has there."""
        if not path:
            raise Hostile(entry.name, "the layer's root is a directory")
        if self.made.get(path) in (FILE, FOLDER):
            raise Hostile(entry.name, "it is there twice")
        self.check_xattrs(entry)
        above, _, name = path.rpartition(b"/")
        folder = self.enter(above, entry)
        if self.made.get(path) == WHITEOUT:
            self.form.revive(folder, name)
        self.note(path, FILE, entry)
        if entry.kind == tar.LINK:
            self.link(entry, path, name)
        else:
            self.maker.make(entry, folder, name, content)

    def link(self, entry: Entry, path: bytes, name: bytes) -> None:
        """Give an earlier file a second name; it keeps what it is like."""
        try:
            target = path_of(entry.link)
        except Hostile as error:
            raise Hostile(entry.name, f"a hard link to a bad name: {error.reason}") from None
        # A lower layer's file would be another one on overlay, where layers don't share files.
        if target == path or self.made.get(target) != FILE:
            raise Hostile(entry.name, "a hard link to what is no earlier file of this layer")
        above, _, first = target.rpartition(b"/")
        source = self.walk.reach(above)
        try:
            hard_link(source, first, self.walk.open(path.rpartition(b"/")[0]), name)
        finally:
            os.close(source)

    def check_xattrs(self, entry: Entry) -> None:
        """Refuse overlay's own attributes; leave out those that are the host's."""
        for name in [name for name in entry.xattrs if not kept(name)]:
            if name.startswith(("trusted.overlay.", "user.overlay.")):
                raise Hostile(entry.name, f"{name} is for overlay to set")
            del entry.xattrs[name]
        if entry.xattrs and entry.kind not in (tar.FILE, tar.DIRECTORY):
            raise Hostile(entry.name, "extended attributes, which only files and directories have")

    def note(self, path: bytes, what: str, entry: Entry) -> None:
        """Remember what a path has become."""
        self.room -= len(path) + NAME_MEMORY
        if self.room < 0:
            raise Hostile(entry.name, "the layer has more names than memory is for")
        self.made[path] = what

    # Where things are.

    def enter(self, path: bytes, entry: Entry) -> int:
        """Return a descriptor of the directory `path`, made where it isn't there yet."""
        if self.made.get(path) != FOLDER:
            parts = path.split(b"/")
            for count in range(1, len(parts) + 1):
                way = b"/".join(parts[:count])
                if self.made.get(way) == FILE:
                    raise Hostile(entry.name, "it is below a file or a link")
                if self.made.get(way) != FOLDER:
                    self.make(way, entry)
        return self.walk.open(path)

    def make(self, path: bytes, entry: Entry) -> None:
        """Make one directory, or take the one of a lower layer's."""
        above, _, name = path.rpartition(b"/")
        folder, deleted = self.walk.open(above), self.made.get(path) == WHITEOUT
        if deleted:
            self.form.revive(folder, name)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)  # nobody's but ours until it is finished
            self.implied.add(path)
        except FileExistsError:
            # A link in a lower layer is not a way for this one: on overlay it would not be seen.
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)
                os.mkdir(name, 0o700, dir_fd=folder)
                self.implied.add(path)
        self.note(path, FOLDER, entry)
        if deleted:
            self.hide(path)

    # Deletions.

    def delete(self, entry: Entry, above: bytes, name: bytes) -> None:
        """Write a deletion the way our driver reads it."""
        gone = name.removeprefix(whiteouts.PREFIX)
        # AUFS made hard links of one empty file; some tars still have them so.
        if entry.kind not in (tar.FILE, tar.LINK) or entry.size:
            raise Hostile(entry.name, "a whiteout is an empty file")
        if name == whiteouts.OPAQUE:
            if not above:
                raise Hostile(entry.name, "overlay can't hide all layers below one")
            self.enter(above, entry)
            self.hide(above)
            return
        if gone in (b"", b".", b"..") or gone.startswith(whiteouts.PREFIX):
            raise Hostile(entry.name, "a whiteout of no file")
        path = above + b"/" + gone if above else gone
        before = self.made.get(path)
        if before == WHITEOUT:
            raise Hostile(entry.name, "it is there twice")
        folder = self.enter(above, entry)
        if before == FOLDER:
            # It is gone below and made anew here: what was in it is gone.
            self.hide(path)
        elif before is None:
            self.form.whiteout(folder, gone)
            self.note(path, WHITEOUT, entry)

    def hide(self, path: bytes) -> None:
        """Hide what lower layers have in a directory, and nothing of what this one has in it."""
        waiting = [path]
        while waiting:
            path = waiting.pop()
            if path in self.hidden:
                continue
            self.hidden.add(path)
            folder, prefix = self.walk.open(path), path + b"/"
            if not self.form.merged:
                self.form.opaque(folder, set())
                continue
            below = {name: self.made.get(prefix + name) for name in whiteouts.names(folder)}
            self.form.opaque(folder, {name for name, made in below.items() if made})
            waiting += [prefix + name for name, made in below.items() if made == FOLDER]

    def tidy(self) -> None:
        """Take back the whiteouts in directories that have nothing lower anyway.

        Overlay looks for whiteouts where it merges directories. Elsewhere it lists them as files,
        which then aren't there.
        """
        for path in [path for path, made in self.made.items() if made == WHITEOUT]:
            above, _, name = path.rpartition(b"/")
            ways = [above[:at] for at, byte in enumerate(above) if byte == ord("/")]
            if not self.form.merged and not self.hidden.isdisjoint([*ways, above]):
                self.form.revive(self.walk.open(above), name)

    def finish(self) -> list[bytes]:
        """Make the directories what their entries say, the deepest first; return the implied ones.

        Before, making what is in them would have changed their times, or not been allowed.
        """
        self.tidy()
        for path in sorted(self.folders.keys() | self.implied, reverse=True):
            self.at = path
            fd = self.walk.open(path)
            if path in self.implied:
                os.chmod(fd, 0o755)
                continue
            entry = self.folders[path]
            for name in os.listxattr(fd):  # a lower layer's, or a default of its parent
                if kept(name) and name not in entry.xattrs:
                    linux.removexattr(fd, name)
            self.maker.dress(fd, entry)
        return sorted(self.implied)
