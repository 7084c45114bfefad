"""`images`, `rmi`: what stage 4 has, in Docker's columns."""

from __future__ import annotations

from stages.stage4_overlayfs.image import Image
from stages.stage5_container.more.verb import (
    FORMAT,
    MANY,
    QUIET,
    Verb,
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
    ("REPOSITORY", "Repository"), ("TAG", "Tag"), ("IMAGE ID", "ID"), ("CREATED", "CreatedAt"),
    ("SIZE", "Size"),
)  # fmt: skip


def images(store: Store, operands: Sequence[str], options: Options) -> int:
    """List the images that have a name."""
    rows = []
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
                "ID": image.config_digest.partition(":")[2][:12],
                "CreatedAt": str(image.config.get("created") or "")[:19],
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


def rmi(store: Store, operands: Sequence[str], _: Options) -> int:
    """Forget names; `system prune` then removes what nobody needs."""
    return each(operands, store.untag)


VERBS = {
    "images": Verb("[NAME]", 0, 1, "list images", [FORMAT, QUIET], images),
    "rmi": Verb("NAME...", 1, MANY, "forget names of images", [], rmi),
}
