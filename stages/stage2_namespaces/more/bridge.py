"""The bridge that all containers share: its lock, its tag, its network, and who may have what."""

from __future__ import annotations

import errno
import os

from stages import linux, netlink
from stages.netlink import Netlink, attribute, dotted, ipv4, number

BRIDGE = "labrun0"
TAG = int.from_bytes(b"lab", "big")
"""The group of every link that is ours (7102818), set as it is made: none is ever without it."""
LOCK = "/run/labrun/network.lock"
"""Held by whoever looks at the bridge in order to make it, use it or remove it."""
SUBNETS = [f"{a}.{b}" for a in ("10.88", "172.30", "192.168") for b in range(256)]
"""The networks for the bridge, of 256 addresses each: the first that the host has no route to."""
LENGTH = 24


class Lock:
    """The one lock of all runtimes that work on the bridge. See flock(2)."""

    def __enter__(self) -> None:
        """Wait for it and take it; the kernel drops it with its process, however that ends."""
        flags = linux.O_RDWR | linux.O_CREAT | linux.O_NOFOLLOW
        while True:
            make_folder(os.path.dirname(LOCK))
            try:
                self.fd = linux.open_file(LOCK, flags, 0o600)
            except FileNotFoundError:
                continue  # `labrun clean` has removed the folder once more
            linux.flock(self.fd, linux.LOCK_EX)
            # It may have removed the file meanwhile: then what we hold is no lock any more.
            if os.fstat(self.fd).st_nlink:
                return
            os.close(self.fd)

    def __exit__(self, *_: object) -> None:
        """Let go."""
        os.close(self.fd)


def make_folder(path: str) -> None:
    """Make a folder where there is none."""
    try:
        linux.mkdir(path, 0o755)
    except FileExistsError:
        return


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


def hardware_address(address: str) -> bytes:
    """Return the Ethernet address for an IPv4 one: who gets it next is not taken for another."""
    # The 2 says that it is ours to choose: locally administered. See IEEE 802.
    return b"\x02\x6c" + ipv4(address)
