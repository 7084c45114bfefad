"""A name for a container that was given none: a quality, and somebody to thank for computers."""

from __future__ import annotations

import os

from stages.stage4_overlayfs.containers import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage4_overlayfs.store import Store

QUALITIES = (
    "able", "brave", "bright", "busy", "calm", "candid", "clever", "curious", "daring", "eager",
    "fair", "gentle", "glad", "honest", "jolly", "keen", "kind", "lively", "lucid", "merry",
    "modest", "nimble", "patient", "plain", "proud", "quick", "quiet", "serene", "sharp", "steady",
    "sunny", "swift", "tidy", "wise", "witty",
)  # fmt: skip
PEOPLE = (
    "allen", "babbage", "backus", "bartik", "cerf", "church", "clarke", "conway", "cray",
    "dijkstra", "engelbart", "goldberg", "hamilton", "hoare", "hopper", "huffman", "kay",
    "kernighan", "knuth", "lamport", "liskov", "lovelace", "mccarthy", "minsky", "naur",
    "perlman", "postel", "ritchie", "shannon", "tanenbaum", "thompson", "turing", "wilkes",
    "wirth", "zuse",
)  # fmt: skip
TRIES = 20


def new_names(store: Store) -> Iterator[str]:
    """Yield names that nobody has just now; behind some that were taken, one with a number."""
    taken = {name_of(store, one) for one in os.listdir(f"{store.root}/containers")}
    for turn in range(TRIES):
        first, second, more = os.urandom(3)
        name = f"{QUALITIES[first % len(QUALITIES)]}_{PEOPLE[second % len(PEOPLE)]}"
        name += f"{more}" if turn > TRIES // 2 else ""
        if name not in taken:
            yield name
