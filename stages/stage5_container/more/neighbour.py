"""--network container:NAME: the network of another container, as long as that runs."""

from __future__ import annotations

from stages.light import later
from stages.stage4_overlayfs.store import Store
from stages.stage5_container.network import open_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage5_container.more import lookup
    from stages.stage5_container.options import Contained
else:
    lookup = later("stages.stage5_container.more.lookup")

KIND = "container:"


def other_network(container: Contained) -> int | None:
    """Return a descriptor of the network that it is to share; None where it has its own.

    Raises OSError: ENOENT for a container that isn't there, ESRCH for one that doesn't run.
    """
    if not container.network.startswith(KIND):
        return None
    other = lookup.find(Store(container.store), container.network[len(KIND) :])
    return open_network(lookup.running(other)["pid"])
