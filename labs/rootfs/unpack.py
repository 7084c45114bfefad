"""Unpack the tar archive on stdin into a directory, and write nothing outside it.

Run as a program of its own, by root with its root directory changed to that one first, as moby's
chrootarchive does: then the kernel itself resolves every `..` and symbolic link inside. An
ordinary user can't do that; for them, no name that leads through a symbolic link is followed.

    python3 -I -S unpack.py DIRECTORY archive|layer        (the report is JSON, on stdout)

The standard library's own extraction filters don't fit: they drop owners, setuid and sticky bits
and device nodes, and have been got around (CVE-2025-4517).
"""

import bz2
import codecs
import contextlib
import gzip
import json
import lzma
import os
import posixpath
import shutil
import stat
import sys
import tarfile
import zlib
from typing import IO, Any, Self

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
XATTR = "SCHILY.xattr."
NOTES_AT_MOST = 5
DAMAGE = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    ValueError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)


class Hostile(Exception):
    """A name in the archive that we don't follow: `key` is the sentence that says why."""

    def __init__(self, key: str, name: str) -> None:
        super().__init__(key, name)
        self.key, self.name = key, name


class Member(tarfile.TarInfo):
    """A member; a header that is damaged or missing is an error, where tarfile sees the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as bad:
            if type(bad) is tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(str(bad)) from None


def plain(packed: Any) -> IO[bytes]:
    """Return the decompressed stream, by its first bytes: gzip, bzip2, xz or none."""
    first = packed.peek(6)
    if first.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=packed)  # type: ignore[return-value]
    if first.startswith(b"BZh"):
        return bz2.BZ2File(packed)
    if first.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(packed)
    return packed  # type: ignore[no-any-return]


def inside(name: str) -> str:
    """Return `name` relative to the root, its dots resolved; `/etc` is `etc`, as in moby."""
    clean = posixpath.normpath(name.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise Hostile("leads_out", name)
    return clean


class Unpacker:
    """Puts members into the current directory, one after the other."""

    def __init__(self, *, layer: bool, follow: bool, root: bool) -> None:
        self.layer, self.follow, self.root = layer, follow, root
        self.notes: list[dict[str, str]] = []
        self.placed: set[str] = set()
        self.directories: dict[str, tarfile.TarInfo] = {}

    def unpack(self, packed: IO[bytes]) -> None:
        """Unpack the whole stream, to its last byte: only there are checksums compared."""
        stream = plain(packed)
        with tarfile.open(
            fileobj=stream, mode="r|", tarinfo=Member, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for member in archive:
                self.place(archive, member)
        while stream.read(1 << 20):
            pass
        # Last, because every file made in a directory changes its time.
        for path, member in reversed(self.directories.items()):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self.attributes(path, member)

    def place(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Put one member in its place, instead of what is there."""
        path = inside(member.name)
        if self.layer and posixpath.basename(path).startswith(WHITEOUT):
            self.white_out(path)
            return
        if path == ".":
            if not member.isdir():
                raise Hostile("root_not_directory", member.name)
            self.directories[path] = member
            return
        self.walk(path, make=True)
        self.make_room(path, directory=member.isdir())
        self.mark(path)
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            self.directories[path] = member
        elif member.islnk():
            target = inside(member.linkname)
            self.walk(target, make=False)
            os.link(target, path, follow_symlinks=False)
        elif self.make(archive, member, path):
            self.attributes(path, member)

    def make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bool:
        """Make a file, symbolic link or special file; False (and a note) if that can't be."""
        if member.issym():
            os.symlink(member.linkname, path)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        elif member.isdev():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            try:
                os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
            except PermissionError:
                self.note("no_device", path)
                return False
        elif member.isreg():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            source = archive.extractfile(member)
            assert source
            with open(os.open(path, flags, 0o600), "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        else:
            self.note("unknown_kind", path)
            return False
        return True

    def attributes(self, path: str, member: tarfile.TarInfo) -> None:
        """Give owner, extended attributes, mode and times, in this order: chown(2) clears bits."""
        mode = member.mode & 0o7777
        if self.root:
            os.chown(path, member.uid, member.gid, follow_symlinks=False)
        else:
            # Another owner's setuid bit isn't ours to set, and we must be able to remove it all.
            mode = mode & ~0o6000 | (0o700 if member.isdir() else 0)
        for key, value in member.pax_headers.items():
            name = key.removeprefix(XATTR)
            # trusted.* and the like belong to whoever made the archive: overlayfs's, for one.
            if name != key and (name == "security.capability" or name.startswith("user.")):
                data = str(value).encode("utf-8", "surrogateescape")
                try:
                    os.setxattr(path, name, data, follow_symlinks=False)
                except OSError:
                    self.note("no_xattr", path)
        if not member.issym():
            os.chmod(path, mode)
        os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)

    def walk(self, path: str, *, make: bool) -> bool:
        """Go to the directory that holds `path`; False if there is none and none is to be made."""
        at = ""
        for part in path.split("/")[:-1]:
            at = posixpath.join(at, part)
            try:
                mode = os.lstat(at).st_mode
            except FileNotFoundError:
                if not make:
                    return False
                os.mkdir(at, 0o755)
                continue
            if stat.S_ISLNK(mode) and not self.follow:
                raise Hostile("through_link", path)
            if not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode):
                raise Hostile("through_file", path)
        return True

    def make_room(self, path: str, *, directory: bool) -> None:
        """Remove what is at `path`, unless it is a directory and stays one."""
        if not os.path.lexists(path):
            return
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
        elif not directory:
            shutil.rmtree(path)
            # Their times are nobody's concern any more.
            for gone in [at for at in self.directories if f"{at}/".startswith(f"{path}/")]:
                del self.directories[gone]

    def mark(self, path: str) -> None:
        """Remember that this layer brought `path`, so that its own whiteouts spare it."""
        if self.layer:
            at = self.real(path)
            while at not in self.placed:
                self.placed.add(at)
                at = posixpath.dirname(at)

    def real(self, path: str) -> str:
        """Return the one name of `path` whatever links lead to it."""
        folder, name = posixpath.split(path)
        return posixpath.join(os.path.realpath(folder or "."), name)

    def white_out(self, path: str) -> None:
        """Hide what *lower* layers have: the OCI image specification, layer.md, "Whiteouts"."""
        folder, marker = posixpath.split(path)
        name = marker.removeprefix(WHITEOUT)
        if marker != OPAQUE and name in ("", ".", ".."):
            raise Hostile("bad_whiteout", path)
        if not self.walk(path, make=False):
            return
        if marker == OPAQUE:
            for child in os.listdir(folder or "."):
                self.hide(posixpath.join(folder, child))
        # AUFS kept its own books in names of this form.
        elif not name.startswith(WHITEOUT):
            self.hide(posixpath.join(folder, name))

    def hide(self, path: str) -> None:
        """Remove `path` and what is in it, but for what this layer brought."""
        if self.real(path) not in self.placed:
            self.make_room(path, directory=False)
        elif stat.S_ISDIR(os.lstat(path).st_mode):
            for child in os.listdir(path):
                self.hide(posixpath.join(path, child))

    def note(self, key: str, name: str) -> None:
        """Keep a remark for the reader; a few tell as much as thousands."""
        if len(self.notes) < NOTES_AT_MOST:
            self.notes.append({"key": key, "name": name})


def enter(directory: str) -> bool:
    """Go into `directory`, and make it the root if we may; True if so."""
    os.chdir(directory)
    if os.geteuid() != 0:
        return False
    os.chroot(".")
    # From here on an import would look for its file in the archive (CVE-2019-14271's class).
    sys.path.clear()
    sys.meta_path.clear()
    return True


def main() -> None:
    """Unpack stdin and report."""
    directory, kind = sys.argv[1:]
    for name in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(name)
    os.umask(0)
    report: dict[str, object] = {}
    try:
        root = os.geteuid() == 0
        unpacker = Unpacker(layer=kind == "layer", follow=enter(directory), root=root)
        unpacker.unpack(sys.stdin.buffer)
        report = {"notes": unpacker.notes}
    except Hostile as bad:
        report = {"key": bad.key, "name": bad.name}
    except DAMAGE as bad:
        errno = getattr(bad, "errno", None)
        report = {"key": "damaged", "name": str(bad) or type(bad).__name__}
        if errno:
            path = getattr(bad, "filename", None) or ""
            report = {"key": "kernel", "name": str(path), "errno": errno}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
