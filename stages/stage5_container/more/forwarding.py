"""Forwarding: a host that takes packets for others, for as long as a container is one of them.

A packet is forwarded where the link that it came in by says so. `ip_forward` says it for all links
at once, now and later, and stays the host's own affair: who finds it on may have done without
setting it. What is switched on here is each link's switch, and in the list of it; a rule closes
the way to all packets that aren't ours (more/nft.py). See ip-sysctl in the kernel's documentation.
"""

from __future__ import annotations

from stages import linux, netlink
from stages.light import suppress
from stages.stage5_container.more import members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.netlink import Netlink

ALL = "/proc/sys/net/ipv4/ip_forward"


def is_on(path: str) -> bool:
    """Return whether a switch is on."""
    with open(path, encoding="ascii") as file:
        return file.read().strip() != "0"


def switch(link: str) -> str:
    """Return the switch of a link. See /proc/sys/net/ipv4/conf in ip-sysctl."""
    # sysctl(8) takes a . for a /, but below /proc a name is as it is.
    return f"/proc/sys/net/ipv4/conf/{link}/forwarding"


def on(route: Netlink) -> None:
    """Have every link forward, where the host does so for nobody."""
    ours = members.note(members.FORWARDING).split()
    if is_on(ALL):
        return
    for _, attributes in route.links():
        # What is plugged into a bridge comes in by the bridge.
        if netlink.IFLA_MASTER in attributes:
            continue
        link = attributes[netlink.IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")
        # A link may go at any time.
        with suppress(FileNotFoundError):
            if link != "lo" and not is_on(switch(link)):
                ours.append(link)
                members.write(members.FORWARDING, "\n".join(ours))
                linux.write_file(switch(link), "1")


def off() -> None:
    """Have each link as it was."""
    if not (ours := members.note(members.FORWARDING).split()):
        return
    # Somebody has it on for all since: then it is no longer ours to switch off.
    if not is_on(ALL):
        for link in ours:
            with suppress(FileNotFoundError):
                linux.write_file(switch(link), "0")
    members.write(members.FORWARDING, "")
