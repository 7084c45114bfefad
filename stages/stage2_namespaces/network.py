"""Network: a cable from the container to a bridge that all containers share, and an address.

The cable's outer end is called lab2 for the address that ends in .2, and so on. The kernel lets no
name be taken twice: that is the whole book-keeping of addresses. It can't race, and it can't go
stale, for a cable goes with the network namespace at its other end. See veth(4).
"""

from __future__ import annotations

import errno
import os

from stages import linux, netlink
from stages.netlink import Netlink, attribute, dotted, ipv4, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage2_namespaces.options import Isolated

BRIDGE = "labrun0"
TAG = int.from_bytes(b"lab", "big")
"""The group of a bridge that is ours: set as it is made, so that none is ever without it."""
LOCK = "/run/labrun/network.lock"
"""Held by whoever looks at the bridge in order to make it, use it or remove it."""
SUBNETS = [f"{a}.{b}" for a in ("10.88", "172.30", "192.168") for b in range(256)]
"""The networks for the bridge, of 256 addresses each: the first that the host has no route to."""
LENGTH = 24


class Cable:
    """A veth pair from the bridge to a container's network namespace, for as long as it runs."""

    def __init__(self, child: int, container: Isolated) -> None:
        """Remember whose cable it is; with any --net but bridge there is none."""
        self.wanted = container.net == "bridge" and "net" in container.namespaces
        self.child, self.ip = child, container.ip
        self.name = self.address = ""

    def __enter__(self) -> Cable:
        """Make it and plug both ends in, the inner one as eth0, still without its address."""
        if not self.wanted:
            return self
        self.namespace = linux.open_file(f"/proc/{self.child}/ns/net", os.O_RDONLY)
        with Lock(), Netlink() as route:
            bridge, subnet = find_or_make_bridge(route)
            # From a name that is taken on to the next; the kernel decides, one at a time.
            for host in hosts(subnet, self.ip):
                try:
                    plug_in(route, f"{subnet}.{host}", bridge, self.namespace)
                except FileExistsError:
                    continue
                self.name, self.address = f"lab{host}", f"{subnet}.{host}"
                return self
        taken = f"address({self.ip or f'{subnet}.0/{LENGTH}'})"
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), taken)

    def __exit__(self, *_: object) -> None:
        """Take the cable away, rather than leave it to the kernel, which does so when it likes."""
        if not self.name:
            return
        try:
            with Netlink() as route:
                route.delete_link(self.name)
        except OSError as error:
            # ENODEV: it went with the namespace already.
            if error.errno != errno.ENODEV:
                raise
        finally:
            os.close(self.namespace)


class Lock:
    """The one lock of all runtimes that work on the bridge. See flock(2)."""

    def __enter__(self) -> None:
        """Wait for it and take it; the kernel drops it with its process, however that ends."""
        try:
            linux.mkdir(os.path.dirname(LOCK), 0o755)
        except FileExistsError:
            pass
        while True:
            flags = linux.O_RDWR | linux.O_CREAT | linux.O_NOFOLLOW
            self.fd = linux.open_file(LOCK, flags, 0o600)
            linux.flock(self.fd, linux.LOCK_EX)
            # `labrun clean` may have removed the file meanwhile: then another one is the lock.
            if os.path.exists(LOCK) and os.path.samestat(os.fstat(self.fd), os.stat(LOCK)):
                return
            os.close(self.fd)

    def __exit__(self, *_: object) -> None:
        """Let go."""
        os.close(self.fd)


def find_or_make_bridge(route: Netlink) -> tuple[int, str]:
    """Return the bridge's index, and the first three numbers of its addresses.

    Raises OSError: EEXIST where something that isn't ours has its name.
    """
    try:
        index, attributes = route.get_link(BRIDGE)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        # With an address of its own a bridge keeps it; else it takes its ports' as they come.
        fixed = attribute(netlink.IFLA_ADDRESS, hardware_address("10.88.0.1"))
        route.new_link(BRIDGE, "bridge", fixed, attribute(netlink.IFLA_GROUP, number(TAG)))
        index, attributes = route.get_link(BRIDGE)
    if attributes.get(netlink.IFLA_GROUP) != number(TAG):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), f'bridge("{BRIDGE}")')
    # A runtime that was killed between the two steps has left the second to us.
    for address in route.addresses(index):
        return index, address.rpartition(".")[0]
    subnet = free_subnet(route.routes())
    route.add_address(BRIDGE, f"{subnet}.1", LENGTH)
    return index, subnet


def free_subnet(routes: list[tuple[str, int]]) -> str:
    """Return the first of SUBNETS that no route of the host leads to, as 10.88.0.

    Routes to more than a /8 are meant for "everywhere else", and don't count.
    """
    for subnet in SUBNETS:
        ours = int.from_bytes(ipv4(f"{subnet}.0"), "big")
        for target, length in routes:
            shift = 32 - min(length, LENGTH)
            if length >= 8 and int.from_bytes(ipv4(target), "big") >> shift == ours >> shift:
                break
        else:
            return subnet
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL), "subnet()")


def hosts(subnet: str, ip: str) -> list[int]:
    """Return the last numbers of the addresses to try: all, or that of the one asked for.

    Raises OSError: EADDRNOTAVAIL for one that no container of this bridge can have.
    """
    if not ip:
        return list(range(2, 255))
    network, last = dotted(ipv4(ip)[:3]), ipv4(ip)[3]
    if network != subnet or last not in range(2, 255):
        words = f"address({ip} of {subnet}.0/{LENGTH})"
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL), words)
    return [last]


def plug_in(route: Netlink, address: str, bridge: int, namespace: int) -> None:
    """Make the cable for `address`: one end on the bridge, the other made inside, as eth0.

    Raises FileExistsError where another container has it. See veth(4).
    """
    # Were it made outside and moved in, a kill in between would leave it on the host.
    peer = netlink.IFINFO.pack(0, 0, 0, 0, 0)
    peer += attribute(netlink.IFLA_IFNAME, netlink.string("eth0"))
    peer += attribute(netlink.IFLA_NET_NS_FD, number(namespace))
    peer += attribute(netlink.IFLA_ADDRESS, hardware_address(address))
    master = attribute(netlink.IFLA_MASTER, number(bridge))
    name = f"lab{address.rpartition('.')[2]}"
    route.new_link(name, "veth", master, data=netlink.nested(netlink.VETH_INFO_PEER, peer))


def hardware_address(address: str) -> bytes:
    """Return the Ethernet address for an IPv4 one: who gets it next is not taken for another."""
    # The 2 says that it is ours to choose: locally administered. See IEEE 802.
    return b"\x02\x6c" + ipv4(address)


def bring_up(address: str) -> None:
    """In the child: set `lo` up, and give eth0, if there is one, its address and a way out."""
    with Netlink() as route:
        route.set_link("lo")
        if address:
            route.add_address("eth0", address, LENGTH)
            route.set_link("eth0")
            # What the bridge does with it is the host's business: its forwarding stays as it is.
            route.add_default_route(f"{address.rpartition('.')[0]}.1")
