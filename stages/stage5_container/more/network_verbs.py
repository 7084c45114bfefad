"""`network create`, `ls`, `rm` and `inspect`, as Docker has them."""

from __future__ import annotations

import json

from stages.stage5_container.more import asked, networks
from stages.stage5_container.more.asked import LISTING, Asked, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage5_container.more.asked import Options

ALWAYS = {"bridge": "bridge", "host": "host", "none": "null"}
"""The networks that nobody has made, each with what Docker calls its driver."""
COLUMNS = {"NETWORK ID": "ID", "NAME": "Name", "DRIVER": "Driver", "SCOPE": "Scope"}


def create(store: str, operands: Sequence[str], options: Options) -> int:
    """Make a network, and say its ID."""
    kind = options.get("--driver", ["bridge"])[-1]
    if kind != "bridge":
        raise ValueError(f"--driver {kind}: there is only bridge")
    say(networks.create(store, operands[0], options.get("--subnet", [""])[-1]).id)
    return 0


def ls(store: str, _: Sequence[str], options: Options) -> int:
    """List the networks."""
    rows = [
        # Those that are always there have no ID but their name.
        {"ID": name, "Name": name, "Driver": driver, "Scope": "local"}
        for name, driver in ALWAYS.items()
    ]
    for one in networks.listed(store):
        rows.append({"ID": one.id[:12], "Name": one.name, "Driver": "bridge", "Scope": "local"})
    rows.sort(key=lambda row: row["Name"])
    return asked.listing(rows, COLUMNS, "ID", options)


def rm(store: str, operands: Sequence[str], _: Options) -> int:
    """Remove networks."""
    return asked.each(operands, lambda word: networks.remove(store, word))


def inspect(store: str, operands: Sequence[str], _: Options) -> int:
    """Show what networks are, as JSON."""
    found = [networks.describe(networks.find(store, word)) for word in operands]
    say(json.dumps(found, indent=4))
    return 0


VERBS = {
    "create": Asked(
        "NAME", 1, 1, "make a network of its own",
        [("", "--subnet", "A.B.C.0/24", "its addresses (the first that are free)"),
         ("-d", "--driver", "NAME", "bridge")], create,
    ),
    "ls": Asked("", 0, 0, "list the networks", LISTING, ls),
    "rm": Asked("NAME...", 1, 999, "remove networks", [], rm),
    "inspect": Asked("NAME...", 1, 999, "what it is and who is in it, as JSON", [], inspect),
}  # fmt: skip


def serve(arguments: Sequence[str]) -> int:
    """Do `network …`; return the exit status."""
    return asked.serve("network", VERBS, arguments[1:])
