"""`diff`: what a container has changed, running or not."""

from __future__ import annotations

import json

from stages.stage4_overlayfs import containers
from stages.stage5_container.more.lookup import find, made_again
from stages.stage5_container.more.rm import own_mounts
from stages.stage5_container.more.verb import Verb, last, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options

PLACES = {"/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
"""What is mounted in every container: what it is mounted on is no change of the container's."""


def diff(store: Store, operands: Sequence[str], options: Options) -> int:
    """Show what it has Added, Changed and Deleted."""
    own_mounts()
    state = find(store, operands[0])
    driver = containers.driver_of(store, state.id)
    if not driver:
        raise ValueError(f"{operands[0]}: it was never started: there is nothing yet")
    rows = driver.diff(state.id)
    for one in made_again(state).volumes:
        PLACES.add(f"/{one.target}")
    rows = [(kind, path) for kind, path in rows if not (kind == "A" and path in PLACES)]
    if last(options, "--format") == "json":
        say(json.dumps([{"Kind": kind, "Path": path} for kind, path in rows]))
        return 0
    for kind, path in rows:
        say(f"{kind} {path}")
    return 0


VERBS = {"diff": Verb("CONTAINER", 1, 1, "what it added, changed, deleted",
                      [("", "--format", "FORMAT", "json")], diff)}  # fmt: skip
