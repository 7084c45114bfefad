"""`network create`, `ls`, `rm` and `inspect`, as Docker has them."""

from __future__ import annotations

import json

from stages.stage5_container.more import networks
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

ALWAYS = {"bridge": "bridge", "host": "host", "none": "null"}
"""The networks that nobody has made, each with what Docker calls its driver."""
COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))


def create(store: Store, operands: Sequence[str], options: Options) -> int:
    """Make a network, and say its ID."""
    kind = last(options, "--driver") or "bridge"
    if kind != "bridge":
        raise ValueError(f"--driver {kind}: there is only bridge")
    say(networks.create(store.root, operands[0], last(options, "--subnet")).id)
    return 0


def ls(store: Store, _: Sequence[str], options: Options) -> int:
    """List the networks."""
    # Those that are always there have no ID but their name.
    found = [(name, name, driver) for name, driver in ALWAYS.items()]
    found += [(one.id[:12], one.name, "bridge") for one in networks.listed(store.root)]
    wanted = filters(options, ("name", "driver", "id"))
    rows = [
        {"ID": identity, "Name": name, "Driver": driver, "Scope": "local"}
        for identity, name, driver in sorted(found, key=lambda one: one[1])
        if any(word in name for word in wanted.get("name", [""]))
        and driver in wanted.get("driver", [driver])
        and any(identity.startswith(word) for word in wanted.get("id", [""]))
    ]
    if "--quiet" in options:
        for row in rows:
            say(row["ID"])
    else:
        show(rows, COLUMNS, last(options, "--format"))
    return 0


def rm(store: Store, operands: Sequence[str], _: Options) -> int:
    """Remove networks."""
    return each(operands, lambda word: networks.remove(store.root, word))


def inspect(store: Store, operands: Sequence[str], _: Options) -> int:
    """Show what networks are, as JSON."""
    found = [
        built_in(word)
        if ALWAYS.get(word, "bridge") != "bridge"
        else networks.describe(networks.find(store.root, word))
        for word in operands
    ]
    say(json.dumps(found, indent=4))
    return 0


def built_in(name: str) -> dict[str, object]:
    """Return what is to be said of `host` and `none`, which have nothing of their own."""
    return {
        "Name": name,
        "Id": name,
        "Created": "",
        "Scope": "local",
        "Driver": ALWAYS[name],
        "IPAM": {"Driver": "default", "Config": []},
        "Options": {},
        "Containers": {},
    }


VERBS = {
    "network create": Verb(
        "NAME", 1, 1, "make a network of its own",
        [("", "--subnet", "A.B.C.0/24", "its addresses (the first that are free)"),
         ("-d", "--driver", "NAME", "bridge")], create,
    ),
    "network ls": Verb("", 0, 0, "list the networks", [FILTER, QUIET, FORMAT], ls),
    "network rm": Verb("NAME...", 1, 999, "remove networks", [], rm),
    "network inspect": Verb("NAME...", 1, 999, "who is in it, as JSON", [], inspect),
}  # fmt: skip
