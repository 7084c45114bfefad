"""A build's context: the directory that COPY copies from, without what .dockerignore keeps out.

It is walked once. From then on a path is looked up in what was found, so that nothing can lead out
of it, or to what is kept out. A file is opened from the directory's descriptor, and no link is
followed: CVE-2018-15664 is of builders and `cp` that checked a path first and used it afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import stat

from stages import linux
from stages.stage4_overlayfs.more.dockerignore import Ignore, translated
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.paths import follow
from stages.stage4_overlayfs.more.walk import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20
"""Bytes that are read at a time."""
MOST_TEXT = 1 << 20
"""Bytes of a Dockerfile or a .dockerignore."""
REGULAR = linux.O_RDONLY | linux.O_NOFOLLOW | linux.O_CLOEXEC | os.O_NONBLOCK


class Context:
    """What is in the directory; `items` has the status of each path, such as a/b."""

    def __init__(self, directory: str) -> None:
        """Open it; nothing is read yet."""
        self.walk = Walk(directory)
        self.items: dict[str, os.stat_result] = {}
        self.links: dict[str, str] = {}
        self.digests: dict[str, str] = {}

    def close(self) -> None:
        """Close it."""
        self.walk.close()

    def text(self, path: str) -> bytes | None:
        """Return a small file's bytes, None where there is none: links may not lead out."""
        flags = linux.O_RDONLY | linux.O_CLOEXEC | os.O_NONBLOCK
        inside = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_MAGICLINKS
        try:
            fd = linux.openat2(self.walk.root, path, flags, inside)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            why = "it leads out of the context: put the file there"
            raise OSError(error.errno, why, path) from None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError(f"{shown(path)}: not a file")
            data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise ValueError(f"{shown(path)}: longer than {MOST_TEXT} bytes")
        return data

    def read(self, ignore: Ignore) -> None:
        """Find what is there. Sockets are left out, as no archive has them."""
        self.items[""] = os.fstat(self.walk.root)
        waiting = [""]
        while waiting:
            path = waiting.pop()
            folder = self.folder(path)
            for name in sorted(os.listdir(folder)):
                one = f"{path}/{name}" if path else name
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                out = ignore.ignores(one)
                if stat.S_ISDIR(status.st_mode) and (not out or ignore.brings_back):
                    waiting.append(one)
                if out or stat.S_ISSOCK(status.st_mode):
                    continue
                if stat.S_ISLNK(status.st_mode):
                    self.links[one] = os.readlink(name, dir_fd=folder)
                self.items[one] = status
                if ignore.brings_back:
                    self.ways(one)

    def folder(self, path: str) -> int:
        """Return a descriptor of a directory: it is open until the next is asked for."""
        try:
            return self.walk.open(os.fsencode(path))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            why = "another file system is mounted there: name it in .dockerignore, or copy it"
            raise OSError(error.errno, why, shown(path)) from None

    def ways(self, path: str) -> None:
        """Have the directories on the way, which are kept out but for this."""
        while (path := posixpath.dirname(path)) and path not in self.items:
            fd = self.walk.reach(os.fsencode(path))
            self.items[path] = os.fstat(fd)
            os.close(fd)

    def find(self, source: str) -> list[str]:
        """Return the paths that a source of COPY means; ValueError where there is none."""
        path = posixpath.normpath(source.lstrip("/") or ".")
        if path == ".." or path.startswith("../"):
            raise ValueError(f"{shown(source)}: out of the context: put it there")
        path = "" if path == "." else path
        found = [path]
        if re.search(r"[*?[]", path):
            # Only .dockerignore knows what ** is.
            pattern = translated(re.sub(r"\*+", "*", path))
            found = sorted(one for one in self.items if one and pattern.fullmatch(one))
        for one in found:
            if self.real(one) not in self.items:
                found = []
        if not found:
            why = "not in the context, or .dockerignore keeps it out"
            raise FileNotFoundError(errno.ENOENT, why, shown(source))
        return found

    def real(self, path: str) -> str:
        """Return where a path leads; ValueError where that is out of the context."""
        try:
            return follow(path, self.links.get, closed=True)
        except ValueError as error:
            raise ValueError(f"{shown(path)}: {error}: copy the file itself there") from None

    def below(self, path: str) -> list[str]:
        """Return all that is in a directory, at whatever depth, in order."""
        prefix = f"{path}/" if path else ""
        return sorted(one for one in self.items if one.startswith(prefix) and one != path)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes; raise OSError, ESTALE, where they are others than at first.

        They are read twice: to know whether the layer is in the cache, and to make it.
        """
        above, _, name = path.rpartition("/")
        fd = os.open(name, REGULAR, dir_fd=self.walk.open(os.fsencode(above)))
        with open(fd, "rb", buffering=0) as file:
            hashed, left = hashlib.sha256(), self.items[path].st_size
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise changed(path)
            # One more than there should be: a file may have grown.
            while chunk := file.read(min(PIECE, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise changed(path)
                hashed.update(chunk)
                yield chunk
        if left or self.digests.setdefault(path, hashed.hexdigest()) != hashed.hexdigest():
            raise changed(path)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes."""
        if path not in self.digests:
            for _ in self.chunks(path):
                continue
        return self.digests[path]


def changed(path: str) -> OSError:
    """Return the error for a file that is being written."""
    return OSError(errno.ESTALE, "it changed during the build: build again", shown(path))
