"""`volume create`, `ls`, `rm` and `inspect`, as Docker has them."""

from __future__ import annotations

import json

from stages.stage5_container.more import volumes
from stages.stage5_container.more.verb import (
    FILTER,
    FORMAT,
    QUIET,
    Verb,
    each,
    filters,
    last,
    say,
    show,
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


def rm(store: Store, operands: Sequence[str], _: Options) -> int:
    """Remove volumes, and all that is in them."""
    return each(operands, lambda name: volumes.remove(store, name))


def inspect(store: Store, operands: Sequence[str], _: Options) -> int:
    """Show what volumes are, as JSON."""
    say(json.dumps([volumes.describe(store.root, name) for name in operands], indent=4))
    return 0


VERBS = {
    "volume create": Verb("[NAME]", 0, 1, "make a volume", [], create),
    "volume ls": Verb("", 0, 0, "list the volumes", [FILTER, QUIET, FORMAT], ls),
    "volume rm": Verb("NAME...", 1, 999, "remove volumes, with all in them", [], rm),
    "volume inspect": Verb("NAME...", 1, 999, "where it is, as JSON", [], inspect),
}
