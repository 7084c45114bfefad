"""`network connect`: a container in more than one network, each by a cable of its own.

    containers/ID/networks    those besides its own, as JSON: name, address asked for, aliases

eth0 and the way out stay those of the network that it was made with. An end that comes in later has
its address from us: nobody inside needs to have the right to give it one.
"""

from __future__ import annotations

import errno
import json
import os

from stages import linux
from stages.netlink import Netlink
from stages.stage2_namespaces.more.bridge import LENGTH, Lock
from stages.stage5_container.more import members, networks, switchboard
from stages.stage5_container.more.hosts import path_of
from stages.stage5_container.more.members import Member
from stages.stage5_container.network import is_bridged, open_network
from stages.stage5_container.state import is_alive, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stages.stage5_container.more.networks import Network
    from stages.stage5_container.more.seam import Wired

    Asked = tuple[str, str, list[str]]

FILE = "networks"


def connect(container: Wired, facts: dict[str, Any], asked: Asked) -> None:
    """Plug a container into one more network, now and whenever it is started again.

    Raises OSError, EEXIST, where it is in it; ValueError for one that has no bridge of its own.
    """
    if not is_bridged(container.network or "bridge"):
        why = f"with --network {container.network} it has no other network"
        raise ValueError(f"{container.name}: {why}: make it with one of `network ls`")
    network = networks.find(container.store, asked[0])
    before = listed(container.folder)
    if network.name in (container.network or "bridge", *(one[0] for one in before)):
        why = f"it is in network {network.name} already"
        raise FileExistsError(errno.EEXIST, why, container.name)
    with Lock(), Netlink() as route:
        if is_alive(facts):
            namespace = open_network(facts["pid"])
            try:
                plug_in(route, container, network, asked, namespace)
                switchboard.settle(route)
            finally:
                os.close(namespace)
        keep(container.folder, [*before, (network.name, *asked[1:])])


def disconnect(container: Wired, word: str) -> None:
    """Take a container out of a network that `connect` has put it in.

    Raises FileNotFoundError where it isn't in it; ValueError for the one that it was made with.
    """
    before = listed(container.folder)
    # A network may have been removed while the container didn't run.
    known = any(one[0] == word for one in before)
    name = word if known else networks.find(container.store, word).name
    if name == (container.network or "bridge"):
        raise ValueError(f"{container.name}: it was made with network {word}: make another one")
    left = [one for one in before if one[0] != name]
    if left == before:
        why = f"it is not in network {name}"
        raise FileNotFoundError(errno.ENOENT, why, container.name)
    with Lock(), Netlink() as route:
        keep(container.folder, left)
        for member in members.living(route):
            if member.id == os.path.basename(container.folder) and member.network == name:
                switchboard.unplug(route, member)
        switchboard.settle(route)


def plug_in_all(route: Netlink, container: Wired, namespace: int) -> None:
    """Plug a container that starts into the networks besides its own."""
    for asked in listed(container.folder):
        plug_in(route, container, networks.find(container.store, asked[0]), asked, namespace)


def plug_in(
    route: Netlink, container: Wired, network: Network, asked: Asked, namespace: int
) -> None:
    """Make the cable, note it, and give its end inside an address."""
    identity = os.path.basename(container.folder)
    taken = {one.link for one in members.living(route) if one.id == identity}
    link = next(name for name in (f"eth{count}" for count in range(1, 256)) if name not in taken)
    _, ip, aliases = asked
    cable, address = switchboard.lay_cable(route, network, ip, namespace, link)
    member = Member(
        *switchboard.seat(route, container, network, cable, address),
        [],
        [*switchboard.names_of(container), *aliases] if network.id else [],
        path_of(container, "hosts"),
        [f"{address}\t{container.hostname}"] if container.hostname else [],
        link,
    )
    try:
        set_up(namespace, link, address)
        members.add(member)
    except BaseException:
        switchboard.unplug(route, member)
        raise


def set_up(namespace: int, link: str, address: str) -> None:
    """Give the end inside its address: done by a child, for a socket belongs to one namespace."""
    child = linux.fork()
    if child == 0:
        status = 1
        try:
            linux.setns(namespace, linux.CLONE_NEWNET)
            with Netlink() as route:
                route.add_address(link, address, LENGTH)
                route.set_link(link)
            status = 0
        except OSError as error:
            status = error.errno or 1
        finally:
            os._exit(status)
    ended = linux.waitid(child, linux.WEXITED)
    assert ended
    if ended.si_status:
        raise OSError(ended.si_status, os.strerror(ended.si_status), f"{link}({address})")


def listed(folder: str) -> list[Asked]:
    """Return the networks that a container was put in."""
    try:
        with open(f"{folder}/{FILE}", encoding="utf-8") as file:
            return [(name, ip, aliases) for name, ip, aliases in json.load(file)]
    except FileNotFoundError:
        return []


def keep(folder: str, asked: list[Asked]) -> None:
    """Write down in which networks a container is to be."""
    write_text(f"{folder}/{FILE}", json.dumps(asked))


def seats(identity: str, folder: str) -> dict[str, str]:
    """Return where a container is besides its own network, with its address there; "" for none."""
    found = {name: "" for name, _, _ in listed(folder)}
    if found:
        with Netlink() as route:
            links = {index for index, _ in route.links()}
        here = [one for one in members.listed() if one.id == identity and one.number in links]
        found |= {one.network: one.address for one in here if one.network in found}
    return found
