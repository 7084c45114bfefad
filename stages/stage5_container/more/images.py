"""`images`, `rmi`: what stage 4 has, in Docker's columns."""

from __future__ import annotations

import calendar
import time

from stages.stage4_overlayfs.image import Image
from stages.stage5_container.more.verb import (
    FORMAT,
    MANY,
    QUIET,
    Verb,
    ago,
    bytes_in,
    each,
    last,
    say,
    show,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options

COLUMNS = (
    ("REPOSITORY", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ID"), ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)  # fmt: skip


def images(store: Store, operands: Sequence[str], options: Options) -> int:
    """List the images that have a name."""
    rows, whole = [], "--no-trunc" in options
    for name, digest in store.names().items():
        image = Image(store, digest)
        repository, _, tag = name.rpartition(":")
        if operands and operands[0] not in (name, repository):
            continue
        size = sum(length for _, length in {(layer[1], layer[3]) for layer in image.layers})
        rows.append(
            {
                "Repository": repository,
                "Tag": tag,
                "ID": image.config_digest if whole else image.config_digest[7:19],
                "CreatedAt": (born := str(image.config.get("created") or "")),
                "CreatedSince": since(born),
                "Size": bytes_in(size),
                "Digest": digest,
            }
        )
    if "--quiet" in options:
        for row in rows:
            say(row["ID"])
        return 0
    show(rows, COLUMNS, last(options, "--format"))
    return 0


def since(born: str) -> str:
    """Return how long ago a time of an image's configuration was (RFC 3339)."""
    try:
        moment = calendar.timegm(time.strptime(born[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "N/A"
    return ago(moment * 1_000_000_000)


def tag(store: Store, operands: Sequence[str], _: Options) -> int:
    """Give an image one more name."""
    with store.locked(shared=True):
        Image(store, store.resolve(operands[0])).tag(operands[1])
    return 0


def rmi(store: Store, operands: Sequence[str], _: Options) -> int:
    """Forget names; `system prune` then removes what nobody needs."""
    return each(operands, store.untag)


WHOLE = ("", "--no-trunc", "", "whole IDs")
VERBS = {
    "images": Verb("[NAME]", 0, 1, "list images", [FORMAT, QUIET, WHOLE], images),
    "tag": Verb("IMAGE NAME", 2, 2, "give an image one more name", [], tag),
    "rmi": Verb("NAME...", 1, MANY, "forget names of images", [], rmi),
}
