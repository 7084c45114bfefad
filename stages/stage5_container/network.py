"""Network: until its own bridge is there, stage 2's."""

from __future__ import annotations

from stages.stage2_namespaces.network import Cable as Plug
from stages.stage2_namespaces.network import bring_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.options import Volume
    from stages.stage5_container.options import Contained

__all__ = ["Plug", "bring_up", "etc_files"]


def etc_files(container: Contained, address: str) -> list[Volume]:
    """Return the files of the network that are to be mounted in /etc."""
    return []
