"""`system df`, `system prune`: how much there is, and what nobody needs any more."""

from __future__ import annotations

import contextlib
import os

from stages.stage4_overlayfs import storage
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.leftovers import remove_leftovers
from stages.stage4_overlayfs.more.prune import prune as prune_store
from stages.stage5_container.more import volumes
from stages.stage5_container.more.network_verbs import unused as unused_networks
from stages.stage5_container.more.ps import has_label
from stages.stage5_container.more.rm import own_mounts, remove
from stages.stage5_container.more.verb import (
    FORCE,
    FORMAT,
    Verb,
    bytes_in,
    filters,
    last,
    listing,
    say,
    show,
    size_of,
)
from stages.stage5_container.more.volume_verbs import unused as unused_volumes
from stages.stage5_container.state import LIVE, everything

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options

COLUMNS = (
    ("TYPE", "Type"), ("TOTAL", "TotalCount"), ("ACTIVE", "Active"), ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
)  # fmt: skip


def df(store: Store, _: Sequence[str], options: Options) -> int:
    """Show how much images and containers take."""
    used = {
        digest
        for digest in (image_of(store, one) for one in os.listdir(f"{store.root}/containers"))
        if digest
    }
    images = dict.fromkeys([*store.names().values(), *sorted(used)])
    sizes = {digest: blobs(store, digest) for digest in images}
    idle = {digest for digest in images if digest not in used}
    kept = {blob for digest in images if digest not in idle for blob in sizes[digest].items()}
    every = {blob for digest in images for blob in sizes[digest].items()}
    rows = [row("Images", len(images), len(used), every, every - kept)]
    states = [(state, state.facts()["status"] in LIVE) for state in everything(store)]
    own = {(state.id, size_of(state.folder)) for state, _ in states}
    ended = {(state.id, size_of(state.folder)) for state, lives in states if not lives}
    rows.append(row("Containers", len(states), len(states) - len(ended), own, ended))
    there = {
        (name, size_of(volumes.folder(store.root, name))) for name in volumes.listed(store.root)
    }
    free = {(name, size) for name, size in there if not volumes.users(store, name)}
    rows.append(row("Local Volumes", len(there), len(there) - len(free), there, free))
    show(rows, COLUMNS, last(options, "--format"))
    return 0


def row(
    kind: str, count: int, active: int, whole: Iterable[tuple[str, int]],
    idle: Iterable[tuple[str, int]],
) -> dict[str, str]:  # fmt: skip
    """Return one row: sizes are of named things, each counted once."""
    size, free = sum(size for _, size in whole), sum(size for _, size in idle)
    share = f"{bytes_in(free)} ({100 * free // size if size else 0}%)"
    return {
        "Type": kind,
        "TotalCount": str(count),
        "Active": str(active),
        "Size": bytes_in(size),
        "Reclaimable": share,
    }


def image_of(store: Store, identity: str) -> str:
    """Return the digest of a container's image, "" for a directory's."""
    try:
        with open(f"{store.root}/containers/{identity}/image", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def blobs(store: Store, digest: str) -> dict[str, int]:
    """Return the sizes of an image's layers by their digests."""
    return {layer[1]: layer[3] for layer in Image(store, digest).layers}


def prune(store: Store, _: Sequence[str], options: Options) -> int:
    """Remove containers that have ended, and what no name and no container needs."""
    ended, size = remove_ended(store, options)
    listing("Containers", ended)
    listing("Networks", unused_networks(store))
    if "--volumes" in options:
        names, more = unused_volumes(store)
        listing("Volumes", names)
        size += more
    if "--all" in options:
        untag(store)
    remove_leftovers(store)

    def discard(driver: str, layer: str) -> None:
        storage.choose(driver, store.root).discard(layer.partition(":")[2])

    gone = prune_store(store, discard)
    listing("Images", gone.blobs)
    say(f"Total reclaimed space: {bytes_in(size + gone.size)}")
    return 0


def prune_containers(store: Store, _: Sequence[str], options: Options) -> int:
    """Remove containers that don't run."""
    ended, size = remove_ended(store, options)
    listing("Containers", ended)
    say(f"Total reclaimed space: {bytes_in(size)}")
    return 0


def remove_ended(store: Store, options: Options) -> tuple[list[str], int]:
    """Remove containers that don't run; return their IDs, and how many bytes they took."""
    wanted = filters(options, ("label",)).get("label", [])
    own_mounts()
    gone, whole = [], 0
    for state in list(everything(store)):
        # Somebody may just have started it, or removed it.
        with contextlib.suppress(OSError):
            labels = state.config()["options"].get("--label", [])
            fits = all(any(has_label(one, asked) for one in labels) for asked in wanted)
            if fits and state.facts()["status"] not in LIVE:
                size = size_of(state.folder)
                remove(state)
                gone.append(state.id)
                whole += size
    return gone, whole


def untag(store: Store) -> None:
    """Take the names of images that no container is of."""
    used = {image_of(store, one) for one in os.listdir(f"{store.root}/containers")}
    for name, digest in store.names().items():
        if digest not in used:
            store.untag(name)


LABEL = ("", "--filter", "label=K=V", "only containers with this label")
VERBS = {
    "system df": Verb("", 0, 0, "how much images and containers take", [FORMAT], df),
    "system prune": Verb(
        "", 0, 0, "remove ended containers, and what nobody needs",
        [("-a", "--all", "", "also the images that no container is of"),
         ("", "--volumes", "", "also the volumes that nobody has named"), FORCE, LABEL], prune,
    ),
    "container prune": Verb(
        "", 0, 0, "remove containers that don't run", [FORCE, LABEL], prune_containers
    ),
}  # fmt: skip
