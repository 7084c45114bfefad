"""Images from elsewhere: what `docker save` and `docker export` write, and OCI layouts.

Whoever made them may lie: each size and digest is compared with the bytes themselves, before a name
leads to them. Nothing is unpacked here; a layer's tar is read once, for its digest.
"""

from __future__ import annotations

import contextlib
import os

from stages.stage4_overlayfs.image import add_layer, new
from stages.stage4_overlayfs.more.archive import Archive, Directory
from stages.stage4_overlayfs.more.compression import inflate, kind_of
from stages.stage4_overlayfs.more.incoming import Budget, about
from stages.stage4_overlayfs.more.layout import PLATFORMS, from_layout
from stages.stage4_overlayfs.more.names import full_name, shown
from stages.stage4_overlayfs.more.saved import from_docker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO

    from stages.stage4_overlayfs.image import Image
    from stages.stage4_overlayfs.more.incoming import Source
    from stages.stage4_overlayfs.store import Store

LIMIT = 32 << 30
"""Bytes that an image may have when its layers are uncompressed; a bomb has more."""
EPOCH = "1970-01-01T00:00:00Z"
FORMS = ("oci", "docker", "rootfs")


def import_image(
    store: Store,
    source: str | BinaryIO,
    name: str,
    *,
    pick: str = "",
    form: str = "",
    limit: int = LIMIT,
    pack: Callable[[str], Iterable[bytes]] | None = None,
) -> Image:
    """Bring an image into the store, give it a name, and return it.

    `source` is a tar, which may be compressed, a file that is open for reading, or a directory: an
    OCI layout, or, with `pack`, which makes a tar of it, a root file system. `pick` says which of
    several images is meant, by its name there; `form`, one of FORMS, what the source is when that
    can't be told by looking. `limit` is in bytes. Raises ValueError, which names what is wrong in
    the source, and OSError; the store then has no new name.
    """
    full_name(name)
    with store.locked(shared=True):
        if isinstance(source, str) and os.path.isdir(source) and pack and not is_layout(source):
            image = new(store, bare_config("imported"), [add_layer(store, pack(source))])
        else:
            with opened(store, source, limit) as found:
                image = read_image(store, found, pick, form, Budget(limit))
        image.tag(name)
    return image


def is_layout(directory: str) -> bool:
    """Return whether a directory is an OCI layout: image-spec's image-layout.md says by what."""
    return os.path.lexists(f"{directory}/oci-layout")


@contextlib.contextmanager
def opened(store: Store, source: str | BinaryIO, limit: int) -> Iterator[Source]:
    """Open what an image comes in; a tar that is compressed, or a pipe, is copied first."""
    if isinstance(source, str) and os.path.isdir(source):
        yield Directory(source)
        return
    with contextlib.ExitStack() as stack:
        if isinstance(source, str):
            what, source = shown(source), stack.enter_context(open(source, "rb"))
        else:
            what = shown(getattr(source, "name", "the image"))
        file = source
        head = file.read(8)
        kind = kind_of(head)
        if kind or not file.seekable():
            copy, _ = stack.enter_context(store.writing())
            chunks = inflate(following(head, file), kind)
            with about(what):
                for chunk in Budget(limit).count(what, chunks):
                    copy.write(chunk)
            file = copy
        yield Archive(file, what)


def following(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    """Yield what was read of a file already, and then the rest of it."""
    while head:
        yield head
        head = file.read(1 << 20)


def read_image(store: Store, found: Source, pick: str, form: str, budget: Budget) -> Image:
    """Read an image of whichever form it is, and return it, without a name in the store."""
    if form not in ("", *FORMS):
        raise ValueError(f"{shown(form)}: no form of an image: say one of {', '.join(FORMS)}")
    # Newer versions of Docker write both: the layout has the manifest itself, digest and all.
    if form == "oci" or (not form and "oci-layout" in found and "index.json" in found):
        return from_layout(store, found, pick, budget)
    if form == "docker" or (not form and "manifest.json" in found):
        return from_docker(store, found, pick, budget)
    if isinstance(found, Directory):
        raise ValueError(f"{found.what}: no OCI layout: it has no file oci-layout")
    layer = add_layer(store, budget.count(found.what, found.whole()))
    return new(store, bare_config("imported from a tar"), [layer])


def bare_config(how: str) -> dict[str, Any]:
    """Return the configuration of an image that comes with none: how it came, and no command.

    The same tar is to be the same image whenever it comes; but some programs, umoci for one, end
    where an image has no time at all.
    """
    machine = os.uname().machine
    return {
        "architecture": PLATFORMS.get(machine, machine),
        "os": "linux",
        "created": EPOCH,
        "config": {},
        "history": [{"created": EPOCH, "created_by": how}],
    }
