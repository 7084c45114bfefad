"""Network: a cable from the container to a bridge that all containers share, and an address.

The cable's outer end is called lab2 for the address that ends in .2, and so on. The kernel lets no
name be taken twice: that is the whole book-keeping of addresses. It can't race, and it can't go
stale, for a cable goes with the network namespace at its other end. See veth(4).
"""

from __future__ import annotations

import errno
import os

from stages import linux, netlink
from stages.netlink import Netlink, attribute, number
from stages.stage2_namespaces.more.bridge import (
    LENGTH,
    TAG,
    Lock,
    find_or_make_bridge,
    hardware_address,
    hosts,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage2_namespaces.options import Isolated


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
    ours = attribute(netlink.IFLA_GROUP, number(TAG))
    route.new_link(name, "veth", master, ours, data=netlink.nested(netlink.VETH_INFO_PEER, peer))


def bring_up(address: str) -> None:
    """In the child: set `lo` up, and give eth0, if there is one, its address and a way out."""
    with Netlink() as route:
        route.set_link("lo")
        if address:
            route.add_address("eth0", address, LENGTH)
            route.set_link("eth0")
            # What the bridge does with it is the host's business: its forwarding stays as it is.
            route.add_default_route(f"{address.rpartition('.')[0]}.1")
