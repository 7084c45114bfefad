"""`system df`, `system prune`: how much there is, and what nobody needs any more."""

from __future__ import annotations

import os

from stages.stage4_overlayfs import containers, storage
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.leftovers import remove_leftovers
from stages.stage4_overlayfs.more.prune import prune as prune_store
from stages.stage5_container.more.rm import own_mounts
from stages.stage5_container.more.verb import FORMAT, Verb, bytes_in, filters, last, say, show
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
    volumes = {
        (name, size_of(f"{store.root}/volumes/{name}"))
        for name in names_in(f"{store.root}/volumes")
    }
    rows.append(row("Local Volumes", len(volumes), len(volumes), volumes, set()))
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


def size_of(folder: str) -> int:
    """Return the bytes of the files below a folder, but for what is mounted there."""
    device, total = os.lstat(folder).st_dev, 0
    for top, folders, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(f"{top}/{name}")
            except FileNotFoundError:
                continue
            total += status.st_blocks * 512 if status.st_dev == device else 0
        folders[:] = [name for name in folders if os.lstat(f"{top}/{name}").st_dev == device]
    return total


def names_in(folder: str) -> list[str]:
    """Return what is in a folder; nothing where there is none."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def prune(store: Store, _: Sequence[str], options: Options) -> int:
    """Remove containers that have ended, and what no name and no container needs."""
    wanted = filters(options, ("label",))
    own_mounts()
    for state in list(everything(store)):
        labels = state.config()["options"].get("--label", [])
        kept = any(label not in labels for label in wanted.get("label", ()))
        if state.facts()["status"] not in LIVE and not kept:
            try:
                containers.remove(store, state.id)
            except OSError:
                continue  # somebody has just started it
            say(state.id)
    remove_leftovers(store)

    def discard(driver: str, layer: str) -> None:
        storage.choose(driver, store.root).discard(layer.partition(":")[2])

    gone = prune_store(store, discard)
    for digest in gone.blobs:
        say(digest)
    say(f"Total reclaimed space: {bytes_in(gone.size)}")
    return 0


VERBS = {
    "system df": Verb("", 0, 0, "how much images and containers take", [FORMAT], df),
    "system prune": Verb(
        "", 0, 0, "remove ended containers, and what nobody needs",
        [("-f", "--force", "", "nothing: nobody is asked here"),
         ("", "--filter", "label=K=V", "only containers with this label")], prune,
    ),
}  # fmt: skip
