"""Containers: what each was made from, what it is called, and whether it is running.

containers/ID/image     the manifest it was made from; a directory's has none
containers/ID/name      what it is called, if it has a name
containers/ID/running   locked as long as its runtime lives
containers/ID/fleeting  it was run with --rm: once its runtime is gone nobody wants it
containers/ID/DRIVER/   what it wrote, as the storage driver keeps it
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.light import contextmanager, read_text, suppress, write_text
from stages.stage4_overlayfs import storage
from stages.stage4_overlayfs.more.names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage4_overlayfs.store import Store

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
OURS = ("image", "name", "running", "fleeting")
MANY = 10
"""Containers that an error lists: there is no `ps` before stage 5."""


def is_name(text: str, least: int = 2) -> bool:
    """Return whether a container may be called so: what Docker takes for a name, too."""
    return len(text) >= least and text[0] in DIGITS and not text.strip(f"{DIGITS}_.-")


def create(store: Store, name: str, manifest: str, *, fleeting: bool) -> tuple[str, int]:
    """Make a container's folder; return its ID, and a descriptor that locks it until it is closed.

    The caller holds the store's lock, shared. Raises ValueError for a name that can't be,
    FileExistsError for one that another has.
    """
    if name and not is_name(name):
        raise ValueError(f"--name {shown(name)}: say letters, digits and _ . - (two at least)")
    identity = os.urandom(6).hex()
    folder = f"{store.root}/containers/{identity}"
    with alone(store):
        if name and (holder := called(store, name)):
            why = f"container {holder} has this name: `rm {name}` removes it"
            raise FileExistsError(errno.EEXIST, why, f"--name {name}")
        os.mkdir(folder, 0o700)
        try:
            for file, text in (("fleeting", "rm" * fleeting), ("name", name), ("image", manifest)):
                if text:
                    put(folder, file, text)
            return identity, occupy(folder)
        except BaseException:
            erase(store, identity)
            raise


def put(folder: str, file: str, text: str) -> None:
    """Write one of a container's files, whole or not at all: others read it, if we are killed."""
    write_text(f"{folder}/.{file}", text, os.O_EXCL)
    os.rename(f"{folder}/.{file}", f"{folder}/{file}")


def forsake(store: Store, identity: str) -> None:
    """Note that nobody wants a container once its runtime is gone; the caller has it locked."""
    with suppress(FileNotFoundError):
        os.unlink(f"{store.root}/containers/{identity}/.fleeting")
    put(f"{store.root}/containers/{identity}", "fleeting", "rm")


def occupy(folder: str) -> int:
    """Return a descriptor that locks a container; raise BlockingIOError where another has it."""
    flags = linux.O_RDWR | linux.O_CREAT | linux.O_CLOEXEC
    fd = linux.open_file(f"{folder}/running", flags, 0o600)
    try:
        linux.flock(fd, linux.LOCK_EX | linux.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Have no other process give a name meanwhile."""
    flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC
    fd = linux.open_file(f"{store.root}/containers", flags)
    try:
        linux.flock(fd, linux.LOCK_EX)
        yield
    finally:
        os.close(fd)


def called(store: Store, name: str) -> str:
    """Return the ID of the container with this name, "" where there is none."""
    for identity in os.listdir(f"{store.root}/containers"):
        if name_of(store, identity) == name:
            return identity
    return ""


def find(store: Store, word: str) -> str:
    """Return the ID of a container by its name, its ID or how that begins; or raise."""
    there = [one for one in sorted(os.listdir(f"{store.root}/containers")) if word]
    if word in there:
        return word
    if found := called(store, word):
        return found
    matching = [one for one in there if one.startswith(word)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        why = "several begin so: say more of it"
    else:
        names = sorted(name_of(store, one) or one for one in os.listdir(f"{store.root}/containers"))
        why = f"no container has this name or ID: there is {', '.join(names[:MANY]) or 'none'}"
    raise FileNotFoundError(errno.ENOENT, why, shown(word) or "''")


def name_of(store: Store, identity: str) -> str:
    """Return what a container is called, "" where it has no name."""
    try:
        return read_text(f"{store.root}/containers/{identity}/name")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def abandoned(store: Store) -> list[str]:
    """Return the IDs of those that a killed runtime has left, and that nobody wants.

    They are to be removed when it ends, or were never mounted. The caller has the lock alone: who
    makes a container shares it, and locks the container before that ends.
    """
    found = []
    for identity in sorted(os.listdir(f"{store.root}/containers")):
        folder = f"{store.root}/containers/{identity}"
        if os.path.exists(f"{folder}/fleeting") or not driver_of(store, identity):
            with suppress(BlockingIOError):
                os.close(occupy(folder))
                found.append(identity)
    return found


def driver_of(store: Store, identity: str) -> storage.Driver | None:
    """Return the storage driver that a container's files are kept by; None where it has none."""
    for name in storage.DRIVERS:
        if os.path.isdir(f"{store.root}/containers/{identity}/{name}"):
            return storage.choose(name, store.root)
    return None


def remove(store: Store, identity: str) -> None:
    """Remove a container and all that it wrote; raise OSError, EBUSY, while it is running."""
    folder = f"{store.root}/containers/{identity}"
    try:
        fd = occupy(folder)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "it is running: end its command first", identity) from None
    try:
        erase(store, identity)
    finally:
        os.close(fd)


def erase(store: Store, identity: str) -> None:
    """Remove it, as the one who has locked it."""
    folder = f"{store.root}/containers/{identity}"
    # What is on its way out is in the store's tmp/, which prune empties; and it looks for what
    # nobody has locked, so it must not come while the lock's file goes.
    with store.locked(shared=True):
        if driver := driver_of(store, identity):
            driver.remove(identity)
        # A later stage keeps more there.
        for entry in list(os.scandir(folder)):
            if entry.name not in OURS and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
        # Its image last: what it says keeps the layers, and until then they may be in use.
        for name in (*(f".{one}" for one in OURS), *reversed(OURS)):
            with suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")
        try:
            os.rmdir(folder)
        except OSError:
            # Who has just tried to lock it has made that file again, and removes the rest.
            if os.listdir(folder) != ["running"]:
                raise
