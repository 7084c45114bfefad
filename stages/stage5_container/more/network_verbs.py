"""`network create`, `ls`, `rm` and `inspect`, as Docker has them."""

from __future__ import annotations

import contextlib

from stages.stage5_container.more import connections, networks
from stages.stage5_container.more.lookup import find, made_again
from stages.stage5_container.more.verb import (
    AS_WORDS,
    FILTER,
    FORCE,
    FORMAT,
    QUIET,
    Verb,
    each,
    filters,
    inspect_each,
    last,
    listing,
    say,
    show,
)
from stages.stage5_container.stack import config_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.options import Contained
    from stages.stage5_container.state import State

ALWAYS = {"bridge": "bridge", "host": "host", "none": "null"}
"""The networks that nobody has made, each with what Docker calls its driver."""
KINDS = ("builtin", "custom")
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
    wanted = filters(options, ("name", "driver", "id", "type"))
    rows = [
        {"ID": identity, "Name": name, "Driver": driver, "Scope": "local"}
        for identity, name, driver in sorted(found, key=lambda one: one[1])
        if any(word in name for word in wanted.get("name", [""]))
        and driver in wanted.get("driver", [driver])
        and any(identity.startswith(word) for word in wanted.get("id", [""]))
        and any((name in ALWAYS) == (word == "builtin") for word in wanted.get("type", KINDS))
    ]
    if "--quiet" in options:
        for row in rows:
            say(row["ID"])
    else:
        show(rows, COLUMNS, last(options, "--format"))
    return 0


def rm(store: Store, operands: Sequence[str], options: Options) -> int:
    """Remove networks; with --force one that isn't there is as good as removed."""
    there = [one for one in operands if "--force" not in options or exists(store, one)]
    return each(there, lambda word: networks.remove(store.root, word))


def exists(store: Store, word: str) -> bool:
    """Return whether a network is known by this name or ID."""
    try:
        return word in ALWAYS or bool(networks.find(store.root, word))
    except FileNotFoundError:
        return False


def connect(store: Store, operands: Sequence[str], options: Options) -> int:
    """Put a container into one more network."""
    state, container = wired(store, operands[1])
    asked = (operands[0], last(options, "--ip"), list(options.get("--alias", ())))
    connections.connect(container, state.facts(), asked)
    return 0


def disconnect(store: Store, operands: Sequence[str], _: Options) -> int:
    """Take a container out of a network."""
    connections.disconnect(wired(store, operands[1])[1], operands[0])
    return 0


def wired(store: Store, word: str) -> tuple[State, Contained]:
    """Return a container as its network has to know it."""
    state = find(store, word)
    container = made_again(state)
    container.settle(config_of(state))
    return state, container


def prune(store: Store, _: Sequence[str], __: Options) -> int:
    """Remove the networks that nobody is plugged into."""
    listing("Networks", unused(store))
    return 0


def unused(store: Store) -> list[str]:
    """Remove the networks that nobody is plugged into; return their names."""
    gone = []
    for network in networks.listed(store.root):
        # In use, or another has removed it since.
        with contextlib.suppress(OSError):
            networks.remove(store.root, network.name)
            gone.append(network.name)
    return gone


def inspect(store: Store, operands: Sequence[str], options: Options) -> int:
    """Show what networks are."""

    def one(word: str) -> dict[str, object]:
        if ALWAYS.get(word, "bridge") != "bridge":
            return built_in(word)
        return networks.describe(networks.find(store.root, word))

    return inspect_each(operands, one, options)


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
    "network rm": Verb(
        "NAME...", 1, 999, "remove networks",
        [("-f", "--force", "", "no error where there is none")], rm,
    ),
    "network connect": Verb(
        "NETWORK CONTAINER", 2, 2, "put a container into one more network",
        [("", "--ip", "ADDR", "with this address there"),
         ("", "--alias", "NAME", "one more name there")], connect,
    ),
    "network disconnect": Verb(
        "NETWORK CONTAINER", 2, 2, "take it out again",
        [("-f", "--force", "", "nothing: it is always so")], disconnect,
    ),
    "network prune": Verb("", 0, 0, "remove those that nobody is in", [FORCE], prune),
    "network inspect": Verb("NAME...", 1, 999, "who is in it", [AS_WORDS], inspect),
}  # fmt: skip
