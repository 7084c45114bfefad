"""Where images are kept: each blob under the digest of its bytes, and names that lead to them.

    blobs/sha256/HEX      manifests, configurations, layers
    names/REFERENCE       the digest of a manifest: the only file that ever changes
    containers/ID/image   the digest of the manifest that a container was made from
    layers/DRIVER/HEX/    a layer unpacked, as a storage driver keeps it
    cache/KEY             what a step of a build made, as long as its blobs are there
    tmp/                  what is being written: nobody else's business, and prune's when it is old
    lock                  shared by all who use the store; held alone by prune, which removes

A file appears whole or not at all: it is written in tmp/, and renamed. So a process that is killed
at any moment leaves at worst a leftover there. See rename(2), fsync(2).
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.light import contextmanager, later, read_text, sha256, suppress
from stages.stage4_overlayfs.more.names import check_digest, file_name, full_name, reference_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO
else:
    hashlib = later("hashlib")

CHUNK = 1 << 20
"""Bytes that are read or written at a time."""
LONGEST = 256
"""Characters of a file that holds a digest: no digest is as long."""


class Store:
    """One store, below the directory `root`. A Store is one thread's: each makes its own."""

    def __init__(self, root: str) -> None:
        """Make what is missing below `root`; only its owner may look inside."""
        self.root = root
        # A layer holds programs with the set-uid bit: nobody else is to find a way to them.
        try:
            os.makedirs(root, 0o710, exist_ok=True)
            for part in ("blobs", "blobs/sha256", "names", "containers", "layers", "tmp"):
                if not os.path.isdir(f"{root}/{part}"):
                    os.makedirs(f"{root}/{part}", 0o700, exist_ok=True)
        except OSError as error:
            why = f"{error.strerror}: images can't be kept there: LABRUN_STORE names another place"
            raise OSError(error.errno, why, error.filename) from None
        self._held = 0

    def path(self, digest: str) -> str:
        """Return where the blob with this digest is, or would be; ValueError for no digest."""
        return f"{self.root}/blobs/sha256/{check_digest(digest)}"

    def has(self, digest: str) -> bool:
        """Return whether there is a blob with this digest."""
        return os.path.isfile(self.path(digest))

    def add(self, chunks: Iterable[bytes], expected: str = "") -> tuple[str, int]:
        """Keep these bytes; return their digest and how many they are.

        Whoever then refers to the blob holds `locked(shared=True)` from before this call on, or
        prune may take it away again. Raises ValueError where the digest is not `expected`.
        """
        with self.locked(shared=True), self.writing() as (file, temporary):
            hashed, size = hashlib.sha256(), 0
            for chunk in chunks:
                hashed.update(chunk)
                size += file.write(chunk)
            digest = f"sha256:{hashed.hexdigest()}"
            if expected not in ("", digest):
                raise ValueError(f"{expected}: its bytes have the digest {digest}: fetch it again")
            # The same digest is the same bytes: who comes second has nothing to do.
            if not self.has(digest):
                # Without fsync(2) a crash may leave the new name and none of the bytes.
                file.flush()
                os.fsync(file.fileno())
                os.rename(temporary, self.path(digest))
        return digest, size

    def open(self, digest: str) -> BinaryIO:
        """Open a blob, to be read; its bytes are not checked."""
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            why = "the store has no such blob: import its image again"
            raise FileNotFoundError(errno.ENOENT, why, digest) from None

    def size(self, digest: str) -> int:
        """Return how many bytes a blob has."""
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def chunks(self, digest: str, hashed: Any = None) -> Iterator[bytes]:
        """Yield a blob's bytes; raise OSError, EBADMSG, behind the last where they are others."""
        hashed = hashed or hashlib.sha256()
        with self.open(digest) as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                yield chunk
        if f"sha256:{hashed.hexdigest()}" != digest:
            why = "damaged, its bytes have another digest: remove the file, and import it again"
            raise OSError(errno.EBADMSG, why, self.path(digest))

    def read(self, digest: str) -> bytes:
        """Return a small blob's bytes, checked; raise OSError, EBADMSG, where they are others."""
        # What hashlib loads is quicker with a gigabyte, and slower with a page.
        return b"".join(self.chunks(digest, sha256()))

    def tag(self, reference: str, digest: str) -> None:
        """Have the name lead to a manifest, whatever it led to before."""
        with self.locked(shared=True), self.writing() as (file, temporary):
            self.open(digest).close()
            file.write(f"{digest}\n".encode())
            file.flush()
            os.fsync(file.fileno())
            # The name must not reach the disk before what it leads to.
            sync(f"{self.root}/blobs/sha256")
            os.rename(temporary, f"{self.root}/names/{file_name(reference)}")
            sync(f"{self.root}/names")

    def untag(self, reference: str) -> None:
        """Forget a name; the blobs stay until prune finds that nobody needs them."""
        try:
            os.unlink(f"{self.root}/names/{file_name(reference)}")
        except FileNotFoundError:
            raise unknown(reference) from None
        sync(f"{self.root}/names")

    def resolve(self, reference: str) -> str:
        """Return the digest of the manifest that a name, or a digest itself, leads to."""
        if reference.startswith("sha256:"):
            self.open(reference).close()
            return reference
        try:
            return self._lead(file_name(reference))
        except FileNotFoundError:
            raise unknown(reference) from None

    def names(self) -> dict[str, str]:
        """Return all names, each with the digest of its manifest."""
        found = {}
        for entry in sorted(os.listdir(f"{self.root}/names")):
            # Another process may have forgotten it since.
            with suppress(FileNotFoundError):
                found[reference_of(entry)] = self._lead(entry)
        return found

    def _lead(self, entry: str) -> str:
        """Return what a file of names/ says."""
        return read_text(f"{self.root}/names/{entry}")[:LONGEST].strip()

    @contextmanager
    def writing(self) -> Iterator[tuple[BinaryIO, str]]:
        """Open a new file in tmp/, which is gone at the end unless it was renamed."""
        temporary = f"{self.root}/tmp/{os.urandom(8).hex()}"
        try:
            with open(temporary, "x+b") as file:
                yield file, temporary
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            why = f"{error.strerror}: make room; `image prune` removes what nobody needs"
            raise OSError(error.errno, why, self.root) from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    @contextmanager
    def locked(self, *, shared: bool) -> Iterator[None]:
        """Hold the lock: shared with all who add and read, or alone, with nobody else in it.

        The kernel gives it back when a process ends, however it ends. Inside of itself it does
        nothing; but who shares it can't have it alone.
        """
        if self._held:
            if not shared and self._held != linux.LOCK_EX:
                raise OSError(errno.EDEADLK, os.strerror(errno.EDEADLK), f"{self.root}/lock")
            yield
            return
        fd = os.open(f"{self.root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            operation = linux.LOCK_SH if shared else linux.LOCK_EX
            linux.flock(fd, operation)
            self._held = operation
            yield
        finally:
            self._held = 0
            # Closing it isn't enough where a child was forked meanwhile: it has the same open file.
            linux.flock(fd, linux.LOCK_UN)
            os.close(fd)


def sync(directory: str) -> None:
    """Have the disk know the names in a directory: fsync(2) of a file doesn't write its name."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unknown(reference: str) -> FileNotFoundError:
    """Return the error for a name that nothing has."""
    why = "no image has this name: `image ls` lists them, `image import` brings one"
    return FileNotFoundError(errno.ENOENT, why, full_name(reference))
