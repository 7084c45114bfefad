"""What the network has to know of a container: the seam to the options."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Protocol

    from stages.stage4_overlayfs.options import Volume

    class Wired(Protocol):
        """A container, seen from its network."""

        @property
        def namespaces(self) -> Collection[str]:
            """Which of its namespaces are new."""

        @property
        def network(self) -> str:
            """What --network says: bridge, none, host, container:ID, or a network's name."""

        @property
        def ip(self) -> str:
            """The address that it asks for, "" for any."""

        @property
        def publish(self) -> Sequence[str]:
            """Its -p options, as they were given."""

        @property
        def dns(self) -> Sequence[str]:
            """Its --dns options."""

        @property
        def hosts(self) -> Sequence[str]:
            """Its --add-host options."""

        @property
        def hostname(self) -> str:
            """Its own host name."""

        @property
        def name(self) -> str:
            """What it is called."""

        @property
        def folder(self) -> str:
            """Its folder in the store, which has its ID for a name."""

        @property
        def store(self) -> str:
            """The store's folder."""

        @property
        def volumes(self) -> Sequence[Volume]:
            """What is mounted in it."""
