"""`port`: which of the host's ports lead to a container."""

from __future__ import annotations

import errno

from stages.stage5_container.more.lookup import find, running
from stages.stage5_container.more.ps import ports_of
from stages.stage5_container.more.verb import Verb, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options


def port(store: Store, operands: Sequence[str], _options: Options) -> int:
    """List its published ports; or say where one of its own is outside."""
    state = find(store, operands[0])
    facts = running(state)
    asked = operands[1] if operands[1:] else ""
    found = False
    for outer, inner in ports_of(facts):
        if not asked:
            say(f"{inner} -> {outer}")
        elif inner == (asked if "/" in asked else f"{asked}/tcp"):
            say(outer)
            found = True
    if asked and not found:
        raise OSError(errno.ENOENT, "no port of the host's leads there", asked)
    return 0


VERBS = {"port": Verb("CONTAINER [PORT[/udp]]", 1, 2, "which ports lead to it", [], port)}
