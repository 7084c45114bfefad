"""The switchboard: what the host needs for those who are plugged in, no more and no less.

`settle` makes it so, whatever was before: it is called when one has come or gone, by the helper of
a runtime that was killed, and by `labrun clean`. The caller holds the bridges' lock.
"""

from __future__ import annotations

import errno
import os

from stages import netlink
from stages.light import suppress
from stages.netlink import Netlink, attribute, number
from stages.stage2_namespaces.more.bridge import LENGTH, TAG, Lock, hardware_address, hosts
from stages.stage5_container.more import forwarding, members, networks, nft
from stages.stage5_container.more.hosts import own_lines, path_of, rewrite
from stages.stage5_container.more.members import Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage5_container.more.networks import Network
    from stages.stage5_container.more.publish import Port
    from stages.stage5_container.more.seam import Wired

UNSURE = "?"
"""What the note of the rules says while they are written: who is killed then has left it so."""


def plug_in(route: Netlink, container: Wired, namespace: int, ports: Sequence[Port]) -> Member:
    """Make the cable of a container, in its network, and note it."""
    network = networks.find(container.store, container.network)
    cable, address = lay_cable(route, network, container.ip, namespace, "eth0")
    member = Member(
        *seat(route, container, network, cable, address),
        [*ports],
        names_of(container) if network.id else [],
        path_of(container, "hosts"),
        own_lines(container, address),
        "eth0",
    )
    members.add(member)
    return member


def lay_cable(
    route: Netlink, network: Network, ip: str, namespace: int, link: str
) -> tuple[str, str]:
    """Make a cable from a network to a namespace, for the address `ip`, "" for any.

    Returns its name, and its address; nobody has noted it yet.
    """
    bridge, subnet = network.make_bridge(route)
    # From a name that is taken on to the next; the kernel decides, one at a time.
    for host in hosts(subnet, ip):
        address = f"{subnet}.{host}"
        try:
            connect(route, network.cable(address), address, bridge, namespace, link)
        except FileExistsError:
            continue
        return network.cable(address), address
    taken = f"address({ip or f'{subnet}.0/{LENGTH}'})"
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), taken)


def connect(
    route: Netlink, cable: str, address: str, bridge: int, namespace: int, link: str
) -> None:
    """Make a cable: one end on the bridge, the other inside, called `link`. See veth(4)."""
    # Were it made outside and moved in, a kill in between would leave it on the host.
    peer = netlink.IFINFO.pack(0, 0, 0, 0, 0)
    peer += attribute(netlink.IFLA_IFNAME, netlink.string(link))
    peer += attribute(netlink.IFLA_NET_NS_FD, number(namespace))
    peer += attribute(netlink.IFLA_ADDRESS, hardware_address(address))
    master = attribute(netlink.IFLA_MASTER, number(bridge))
    ours = attribute(netlink.IFLA_GROUP, number(TAG))
    route.new_link(cable, "veth", master, ours, data=netlink.nested(netlink.VETH_INFO_PEER, peer))


def seat(
    route: Netlink, container: Wired, network: Network, cable: str, address: str
) -> tuple[str, str, int, str, str, str, str]:
    """Return who is plugged in, and where: a Member's first fields."""
    identity = os.path.basename(container.folder)
    subnet = address.rpartition(".")[0]
    number = route.get_link(cable)[0]
    return identity, cable, number, network.bridge, subnet, network.name, address


def names_of(container: Wired) -> list[str]:
    """Return what others of a network may call a container."""
    identity = os.path.basename(container.folder)
    return [name for name in (container.name, identity[:12]) if name]


def unplug(route: Netlink, member: Member) -> None:
    """Take a cable away, rather than leave it to the kernel, which does so when it likes."""
    with suppress(OSError):
        # It may have gone with its namespace, and another may have its name.
        if route.get_link(member.cable)[0] == member.number:
            route.delete_link(member.cable)
    members.remove(member)


def settle(route: Netlink, gone: str = "") -> None:
    """Have bridges, rules, forwarding and names as those need them who are plugged in.

    The container `gone` is so no more, wherever it is.
    """
    members.sweep()
    there = []
    for member in members.living(route):
        if member.id == gone:
            unplug(route, member)
        else:
            there.append(member)
    remove_bridges(route)
    if not there:
        forwarding.off()
    # The rules that close the way come before it is open, and go after.
    alone = bool(there) and not forwarding.is_on(forwarding.ALL)
    rules = nft.rules(there, closed=alone)
    before = members.note(members.RULES)
    if rules != before:
        members.write(members.RULES, UNSURE)
        try:
            nft.apply(rules)
        except OSError:
            # All or nothing: the table is what it was.
            members.write(members.RULES, before)
            raise
        members.write(members.RULES, rules)
    if there:
        forwarding.on(route)
    spread_names(there)


def settle_without(identity: str) -> None:
    """Have all as those need it who are left, where a runtime has died: the helper's part."""
    with Lock(), Netlink() as route:
        settle(route, gone=identity)


def rename(identity: str, before: str, name: str) -> None:
    """Have those of its networks know a container by another name."""
    with Lock(), Netlink() as route:
        for member in members.living(route):
            if member.id == identity and before in member.names:
                names = [name if one == before else one for one in member.names]
                members.add(member._replace(names=names))
        settle(route)


def remove_bridges(route: Netlink) -> None:
    """Remove the bridges of networks that nobody is plugged into."""
    links = route.links()
    used = {attributes.get(netlink.IFLA_MASTER) for _, attributes in links}
    for index, attributes in links:
        name = attributes[netlink.IFLA_IFNAME].rstrip(b"\0")
        ours = attributes.get(netlink.IFLA_GROUP) == number(TAG)
        if ours and name.startswith(networks.PREFIX.encode()) and number(index) not in used:
            route.delete_link(name.decode())


def spread_names(there: Sequence[Member]) -> None:
    """Have each container's /etc/hosts name those of its network."""
    seats: dict[str, list[Member]] = {}
    for member in there:
        seats.setdefault(member.hosts, []).append(member)
    for path, own in seats.items():
        lines = [line for one in sorted(own, key=lambda one: one.link) for line in one.lines]
        bridges = {one.bridge for one in own}
        lines += [
            f"{other.address}\t{' '.join(other.names)}"
            for other in there
            if other.bridge in bridges and other.names and other.id != own[0].id
        ]
        # It may have been removed meanwhile, with its container.
        with suppress(FileNotFoundError):
            rewrite(path, lines)


def left() -> list[str]:
    """Return what a killed runtime has left, and `settle` would take away."""
    if not os.path.isdir(members.folder()):
        return []
    with Lock(), Netlink() as route:
        if members.living(route):
            return []
        found = [f"table {' '.join(nft.TABLE.values())}"] if members.note(members.RULES) else []
        return found + list(map(forwarding.switch, members.note(members.FORWARDING).split()))
