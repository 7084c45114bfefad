"""Who is plugged in: a file for each cable, as long as the cable is there.

    /run/labrun/network-COOKIE/CABLE       a Member, as JSON
    /run/labrun/network-COOKIE/rules       what nft was told last
    /run/labrun/network-COOKIE/forwarding  the links that we have switched forwarding on for

COOKIE is the kernel's number for the network namespace that the host's end is in: a machine may
have several that are a host to somebody, and what is written of one that is gone must not be taken
for another's. A file whose cable is gone, or is another by now (the kernel numbers them),
is a killed runtime's, and counts for nothing. All of it is used with the bridges' lock held.
"""

from __future__ import annotations

import _socket
import os

from stages import linux, netlink
from stages.light import NamedTuple, dumps, loads, suppress
from stages.stage2_namespaces.more.bridge import LOCK, make_folder
from stages.stage5_container.more.publish import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.netlink import Netlink

RULES, FORWARDING = "rules", "forwarding"
SO_NETNS_COOKIE = 71
"""See socket(7); the number is that of every machine but SPARC and PA-RISC."""


class Member(NamedTuple):
    """A container that is plugged in."""

    id: str
    cable: str
    number: int
    """The cable's number: the kernel gives none twice."""
    bridge: str
    subnet: str
    """The first three numbers of its network's addresses."""
    network: str
    """Its network's name."""
    address: str
    ports: list[Port]
    names: list[str]
    """What others of its network may call it; none on the shared bridge, as with Docker."""
    hosts: str
    """The file that is its /etc/hosts."""
    lines: list[str]
    """What stands there of itself."""
    link: str
    """What the cable's other end is called, inside: eth0, and more where `connect` has added some.
    """


def folder() -> str:
    """Return where the notes of this network namespace are."""
    return f"{os.path.dirname(LOCK)}/network-{cookie()}"


def cookie() -> int:
    """Return the number of this network namespace: none other on this boot has it.

    Before Linux 5.14 only its inode is known, and that is given to another when it is gone.
    """
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        return int.from_bytes(probe.getsockopt(_socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
    except OSError:
        return os.stat("/proc/self/ns/net").st_ino
    finally:
        probe.close()


def note(name: str) -> str:
    """Return what one of the notes says, "" where there is none."""
    try:
        with open(f"{folder()}/{name}", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(name: str, text: str) -> None:
    """Write a note, whole or not at all; an empty one is none."""
    place = folder()
    if not text:
        forget(place, name)
        return
    make_folder(os.path.dirname(place))
    make_folder(place)
    try:
        with open(f"{place}/.{name}", "w", encoding="utf-8") as file:
            file.write(text)
        linux.rename(f"{place}/.{name}", f"{place}/{name}")
    except OSError:
        forget(place, f".{name}")
        raise


def forget(place: str, name: str) -> None:
    """Remove a note, and with the last one the folder."""
    with suppress(FileNotFoundError):
        linux.unlink(f"{place}/{name}")
    with suppress(OSError):
        os.rmdir(place)


def sweep() -> None:
    """Remove what was being written when its writer was killed: with the lock, nobody else is."""
    with suppress(FileNotFoundError):
        for name in os.listdir(folder()):
            if name.startswith("."):
                forget(folder(), name)


def add(member: Member) -> None:
    """Note that a container is plugged in."""
    write(member.cable, dumps(member))


def remove(member: Member) -> None:
    """Forget it."""
    write(member.cable, "")


def living(route: Netlink) -> list[Member]:
    """Return who is plugged in, and forget who no longer is."""
    found = listed()
    if not found:
        return []
    # What is the same number under the same name is the same cable.
    there = {(attributes[netlink.IFLA_IFNAME], index) for index, attributes in route.links()}
    alive = []
    for member in found:
        if (netlink.string(member.cable), member.number) in there:
            alive.append(member)
        else:
            remove(member)
    return alive


def listed() -> list[Member]:
    """Return who has a note, whether or not it is still plugged in; sorted by cable."""
    try:
        names = sorted(os.listdir(folder()))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name in (RULES, FORWARDING) or name.startswith("."):
            continue
        fields = loads(note(name) or "[]")
        if len(fields) == len(Member._fields):
            member = Member(*fields)
            found.append(member._replace(ports=[Port(*port) for port in member.ports]))
    return found


def of(identity: str) -> Member | None:
    """Return how a container is plugged in, None where it isn't: for `inspect` and `port`."""
    with netlink.Netlink() as route:
        links = {index for index, _ in route.links()}
    return next((one for one in listed() if one.id == identity and one.number in links), None)
