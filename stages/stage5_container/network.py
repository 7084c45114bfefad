"""Network: the cable of stage 2, and now a way out, doors that lead in, and names.

A container is plugged into a bridge: the one that all stages share, or that of a network that
somebody has made (more/networks.py). Its own address is good for that bridge alone. Out of the
host it goes under the host's address, and from outside it is reached by a port of the host's:
rules in a table of our own (more/nft.py), a relay where there can be no rule
(more/relay.py).

Who is plugged in is noted in one folder (more/members.py); what the host needs for them follows
from that, and is made so whenever it changes (more/switchboard.py).
"""

from __future__ import annotations

import os

from stages import linux
from stages.command_line import note
from stages.light import import_module
from stages.netlink import Netlink
from stages.stage2_namespaces import network
from stages.stage2_namespaces.more.bridge import Lock
from stages.stage4_overlayfs.options import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Self

    from stages.stage5_container.more.helper import Helper
    from stages.stage5_container.more.members import Member
    from stages.stage5_container.more.publish import Port
    from stages.stage5_container.more.seam import Wired


class Plug:
    """A container's place in a network, for as long as it runs."""

    def __init__(self, child: int, container: Wired) -> None:
        """Remember whose place it is; `none`, `host` and another's network need none."""
        self.child, self.container = child, container
        self.wanted = "net" in container.namespaces and is_bridged(container.network)
        if container.publish and not self.wanted:
            refuse_ports(container.network)
        self.name = self.address = ""
        self.ports: Sequence[Port] = ()
        self.member: Member | None = None
        self.helper: Helper | None = None

    def __enter__(self) -> Self:
        """Plug it in, and open its doors; eth0 is inside then, still without its address."""
        if self.wanted:
            # Rules are JSON, and a relay has sockets: whoever needs no network doesn't load them.
            self.board = room("switchboard")
            try:
                self.helper = room("helper").Helper(self.container, self.board.settle_without)
                self.plug_in()
            except OSError as error:
                self.unplug()
                raise room("causes").explained(error) from None
            except BaseException:
                self.unplug()
                raise
        return self

    def plug_in(self) -> None:
        """Make the cable, note who has it, and have the host as that needs it."""
        assert self.helper
        namespace = linux.open_file(f"/proc/{self.child}/ns/net", os.O_RDONLY)
        try:
            with Lock(), Netlink() as route:
                self.member = self.board.plug_in(
                    route, self.container, namespace, self.helper.ports
                )
                self.name, self.address = self.member.cable, self.member.address
                if os.path.exists(f"{self.container.folder}/networks"):
                    room("connections").plug_in_all(route, self.container, namespace)
                self.ports = self.helper.ports
                self.helper.lead_to(self.address)
                self.board.settle(route)
        finally:
            os.close(namespace)

    def __exit__(self, *_: object) -> None:
        """Take it all away; what others still need stays."""
        if self.wanted:
            self.unplug()

    def unplug(self) -> None:
        """Take away the cable, the note and the helper, as far as they are there."""
        try:
            with Lock(), Netlink() as route:
                gone = self.member.id if self.member else ""
                self.board.settle(route, gone)
        except BaseException:
            # Whoever tidies up after a dead runtime does so after one that can't.
            if self.helper:
                self.helper.take_over()
            raise
        if self.helper:
            self.helper.dismiss()


def refuse_ports(name: str) -> None:
    """Say that nothing is published where there is no bridge; raise ValueError for another's."""
    why = f"--publish: with --network {name} no port of the host's leads anywhere"
    if name.startswith("container:"):
        raise ValueError(f"{why}: publish it with that container")
    # Docker goes on, too: what is reached by the host's own ports needs no others.
    note(why)


def is_bridged(name: str) -> bool:
    """Return whether a --network is a bridge's: all but three kinds are."""
    return name not in ("none", "host") and not name.startswith("container:")


def bring_up(address: str) -> None:
    """In the child: set `lo` up, and give eth0 its address and a way out, as in stage 2."""
    network.bring_up(address)


def open_network(pid: int) -> int:
    """In the parent: return a descriptor of the network that the process `pid` is in."""
    return linux.open_file(f"/proc/{pid}/ns/net", os.O_RDONLY | linux.O_CLOEXEC)


def share_network(namespace: int) -> None:
    """In the child: be in the network of another container, as that is (--network container:ID)."""
    linux.setns(namespace, linux.CLONE_NEWNET)


def etc_files(container: Wired, address: str = "") -> list[Volume]:
    """Write /etc/hosts, hostname and resolv.conf for a container; return how they are mounted.

    They are files outside of its image, for they say where it runs. Before there is an address,
    they are written without; the Plug adds it, and the names of others as they come and go.
    """
    taken = {one.target for one in container.volumes}
    files: dict[str, str] = room("hosts").write(container, address)
    return [Volume(path, target) for target, path in sorted(files.items()) if target not in taken]


def room(name: str) -> ModuleType:
    """Return a room of `more/` that a container without a network has no use for."""
    return import_module(f"stages.stage5_container.more.{name}")
