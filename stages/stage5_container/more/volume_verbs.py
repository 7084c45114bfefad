"""`volume create`, `ls`, `rm` and `inspect`, as Docker has them."""

from __future__ import annotations

import contextlib

from stages.stage5_container.more import volumes
from stages.stage5_container.more.verb import (
    AS_WORDS,
    FILTER,
    FORCE,
    FORMAT,
    QUIET,
    Verb,
    bytes_in,
    each,
    filters,
    inspect_each,
    last,
    listing,
    say,
    show,
    size_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options

COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))


def create(store: Store, operands: Sequence[str], _: Options) -> int:
    """Make a volume, and say its name."""
    say(volumes.create(store.root, operands[0] if operands else ""))
    return 0


def ls(store: Store, _: Sequence[str], options: Options) -> int:
    """List the volumes."""
    wanted = filters(options, ("name", "dangling"))
    rows = []
    for name in volumes.listed(store.root):
        if not any(word in name for word in wanted.get("name", [""])):
            continue
        # Docker's word for those that no container has.
        if "dangling" in wanted:
            idle = "false" if volumes.users(store, name) else "true"
            if idle not in wanted["dangling"]:
                continue
        rows.append(volumes.describe(store.root, name))
    if "--quiet" in options:
        for row in rows:
            say(str(row["Name"]))
    else:
        show(rows, COLUMNS, last(options, "--format"))
    return 0


def rm(store: Store, operands: Sequence[str], options: Options) -> int:
    """Remove volumes, and all that is in them; with --force one that isn't there is no error."""
    known = volumes.listed(store.root)
    there = [name for name in operands if "--force" not in options or name in known]
    return each(there, lambda name: volumes.remove(store, name))


def prune(store: Store, _: Sequence[str], options: Options) -> int:
    """Remove the volumes that no container has and nobody has named; with --all those that have."""
    gone, size = unused(store, named="--all" in options)
    listing("Volumes", gone)
    say(f"Total reclaimed space: {bytes_in(size)}")
    return 0


def unused(store: Store, *, named: bool = False) -> tuple[list[str], int]:
    """Remove volumes that no container has; return their names, and how many bytes they took."""
    gone, whole = [], 0
    for name in volumes.listed(store.root):
        if named or volumes.is_anonymous(store.root, name):
            # In use, or another has removed it since.
            with contextlib.suppress(OSError):
                size = size_of(volumes.folder(store.root, name))
                volumes.remove(store, name)
                gone.append(name)
                whole += size
    return gone, whole


def inspect(store: Store, operands: Sequence[str], options: Options) -> int:
    """Show what volumes are."""
    return inspect_each(operands, lambda name: volumes.describe(store.root, name), options)


VERBS = {
    "volume create": Verb("[NAME]", 0, 1, "make a volume", [], create),
    "volume ls": Verb("", 0, 0, "list the volumes", [FILTER, QUIET, FORMAT], ls),
    "volume rm": Verb(
        "NAME...", 1, 999, "remove volumes, with all in them",
        [("-f", "--force", "", "no error where there is none")], rm,
    ),
    "volume prune": Verb(
        "", 0, 0, "remove those that no container has, and nobody has named",
        [("-a", "--all", "", "also those that have names"), FORCE], prune,
    ),
    "volume inspect": Verb("NAME...", 1, 999, "where it is", [AS_WORDS], inspect),
}  # fmt: skip
