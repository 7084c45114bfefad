"""Networks that somebody has made: each a bridge of its own, whose containers know their names.

    networks/NAME    in the store: what the network is, as JSON

The bridge is there as long as a container is plugged in. `bridge` is the network of all who don't
say another: the one of the other stages, and it knows no names, as with Docker.
"""

from __future__ import annotations

import errno
import os
import time

from stages import linux, netlink
from stages.light import NamedTuple, dumps, loads
from stages.netlink import Netlink, attribute, ipv4, number
from stages.stage2_namespaces.more.bridge import (
    BRIDGE,
    LENGTH,
    SUBNETS,
    TAG,
    Lock,
    find_or_make_bridge,
    free_subnet,
    hardware_address,
)
from stages.stage4_overlayfs.containers import is_name
from stages.stage5_container.more import members

LONGEST = 128
PREFIX = "lab-"
"""How the bridge of such a network is called; then come the first 8 digits of its ID."""
BUILT_IN = ("bridge", "host", "none")


class Network(NamedTuple):
    """A network, as the store keeps it."""

    name: str
    id: str
    subnet: str
    """The first three numbers of its addresses."""
    created: str
    """When, as RFC 3339 has it."""

    @property
    def bridge(self) -> str:
        """Return its bridge's name."""
        return f"{PREFIX}{self.id[:8]}" if self.id else BRIDGE

    def cable(self, address: str) -> str:
        """Return what the cable of an address is called: 15 bytes at most (IFNAMSIZ)."""
        last = address.rpartition(".")[2]
        return f"lab{self.id[:8]}.{last}" if self.id else f"lab{last}"

    def make_bridge(self, route: Netlink) -> tuple[int, str]:
        """Return the bridge's index and its subnet; made where it isn't there."""
        if not self.id:
            return find_or_make_bridge(route)
        try:
            index, attributes = route.get_link(self.bridge)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            require_free(self.subnet, route.routes())
            fixed = attribute(netlink.IFLA_ADDRESS, hardware_address(f"{self.subnet}.1"))
            tag = attribute(netlink.IFLA_GROUP, number(TAG))
            route.new_link(self.bridge, "bridge", fixed, tag)
            index, attributes = route.get_link(self.bridge)
        if attributes.get(netlink.IFLA_GROUP) != number(TAG):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), f'bridge("{self.bridge}")')
        # A runtime that was killed between the two steps has left the second to us.
        if not route.addresses(index):
            route.add_address(self.bridge, f"{self.subnet}.1", LENGTH)
        return index, self.subnet


DEFAULT = Network("bridge", "", "", "")


def find(store: str, word: str) -> Network:
    """Return a network by its name, its ID, or how that begins; raise OSError, ENOENT."""
    if word == DEFAULT.name:
        return DEFAULT
    there = listed(store)
    for network in there:
        if word in (network.name, network.id):
            return network
    matching = [network for network in there if word and network.id.startswith(word)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(["bridge", "host", "none", *(network.name for network in there)])
    why = "several begin so: say more of it" if matching else f"there is {names}"
    raise FileNotFoundError(
        errno.ENOENT, f"no network has this name: {why}" if not matching else why, f"network {word}"
    )


def listed(store: str) -> list[Network]:
    """Return the networks of a store, by name."""
    try:
        names = sorted(os.listdir(f"{store}/networks"))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if not name.startswith("."):
            with open(f"{store}/networks/{name}", encoding="utf-8") as file:
                found.append(Network(*loads(file.read())))
    return found


def create(store: str, name: str, subnet: str = "") -> Network:
    """Make a network, with the first subnet that is free or the one that is asked for.

    Raises ValueError for a name or a subnet that can't be, FileExistsError for one that is taken.
    """
    if not is_name(name, 1) or len(name) > LONGEST:
        raise ValueError(f"network {name}: say letters, digits and _ . -")
    if name in BUILT_IN:
        raise ValueError(f"network {name}: it is always there: choose another name")
    asked = first_three(subnet) if subnet else ""
    folder = f"{store}/networks"
    os.makedirs(folder, 0o700, exist_ok=True)
    with Lock(), Netlink() as route:
        there = listed(store)
        if any(name == other.name for other in there):
            why = f"there is one: `network rm {name}` removes it"
            raise FileExistsError(errno.EEXIST, why, f"network {name}")
        taken = [(f"{other.subnet}.0", LENGTH) for other in there]
        if asked:
            require_free(asked, [*route.routes(), *taken])
        else:
            # The first one is the shared bridge's, which may come at any time.
            asked = free_subnet([*route.routes(), *taken, (f"{SUBNETS[0]}.0", LENGTH)])
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        network = Network(name, os.urandom(32).hex(), asked, now)
        with open(f"{folder}/.{name}", "w", encoding="utf-8") as file:
            file.write(dumps(network))
            file.flush()
            os.fsync(file.fileno())
        linux.rename(f"{folder}/.{name}", f"{folder}/{name}")
    return network


def remove(store: str, word: str) -> None:
    """Forget a network; raise OSError, EBUSY, while a container is plugged in."""
    if word in BUILT_IN:
        raise ValueError(f"network {word}: it is always there")
    network = find(store, word)
    with Lock(), Netlink() as route:
        inside = [one for one in members.living(route) if one.bridge == network.bridge]
        if inside:
            names = ", ".join(one.names[0] if one.names else one.id[:12] for one in inside)
            raise OSError(errno.EBUSY, f"still in use by {names}: stop it first", f"network {word}")
        linux.unlink(f"{store}/networks/{network.name}")


def first_three(text: str) -> str:
    """Return the first three numbers of 10.9.8.0/24; raise ValueError for anything else."""
    address, _, length = text.partition("/")
    packed = ipv4(address)
    if length != str(LENGTH) or packed[3]:
        raise ValueError(f"--subnet {text}: say a network of 256 addresses: 10.9.8.0/{LENGTH}")
    return address.rpartition(".")[0]


def require_free(subnet: str, routes: list[tuple[str, int]]) -> None:
    """Raise OSError where the host has a route to a part of that network already."""
    ours = int.from_bytes(ipv4(f"{subnet}.0"), "big")
    for target, length in routes:
        shift = 32 - min(length, LENGTH)
        if length >= 8 and int.from_bytes(ipv4(target), "big") >> shift == ours >> shift:
            why = "the host has a route there, or a network of that subnet: name another"
            raise OSError(errno.EADDRINUSE, why, f"--subnet {subnet}.0/{LENGTH}")


def describe(network: Network) -> dict[str, object]:
    """Return what `network inspect` shows, with Docker's keys."""
    with Netlink() as route, Lock():
        inside = [one for one in members.living(route) if one.bridge == network.bridge]
        subnet = network.subnet
        if not network.id:
            try:
                subnet = route.addresses(route.get_link(BRIDGE)[0])[0].rpartition(".")[0]
            except (OSError, IndexError):
                subnet = ""  # nobody has needed it yet
    config = [{"Subnet": f"{subnet}.0/{LENGTH}", "Gateway": f"{subnet}.1"}] if subnet else []
    return {
        "Name": network.name,
        "Id": network.id or BRIDGE,
        "Created": network.created,
        "Scope": "local",
        "Driver": "bridge",
        "IPAM": {"Driver": "default", "Config": config},
        "Options": {"com.docker.network.bridge.name": network.bridge},
        "Containers": {
            one.id: {
                "Name": one.names[0] if one.names else "",
                "IPv4Address": f"{one.address}/{LENGTH}",
            }
            for one in inside
        },
    }
