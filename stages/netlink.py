"""rtnetlink: how the kernel's network is asked and told. One message a request, one answer each.

A library would do; importing pyroute2 takes ten times as long as a whole start. See rtnetlink(7).
"""

from __future__ import annotations

import os
from struct import Struct

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

AF_INET = 2

# netlink(7)
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
NLA_F_NESTED = 0x8000

# rtnetlink(7)
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 20, 22, 24, 26
RTM_NEWQDISC = 36
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 10, 18, 20
IFLA_GROUP, IFLA_NET_NS_FD = 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
TCA_KIND, TCA_OPTIONS, TC_H_ROOT = 1, 2, 0xFFFFFFFF
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1
IFF_UP = 1

HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
IFINFO = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
IFADDR = Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
RTMSG = Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, …
TCMSG = Struct("=BxxxiIII")  # struct tcmsg: family, link's index, handle, parent, info
ATTRIBUTE = Struct("=HH")  # struct rtattr: length, type


class Netlink:
    """A socket to the kernel's network, that of the namespace it was opened in."""

    def __init__(self) -> None:
        """Open it. See netlink(7)."""
        kind = linux.SOCK_RAW | linux.SOCK_CLOEXEC
        self.fd = linux.socket(linux.AF_NETLINK, kind, linux.NETLINK_ROUTE)

    def __enter__(self) -> Netlink:
        """Hold it open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self.fd)

    def ask(self, words: str, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request; return the bodies of the answers, or raise the kernel's OSError."""
        flags |= NLM_F_REQUEST if flags & NLM_F_DUMP == NLM_F_DUMP else NLM_F_REQUEST | NLM_F_ACK
        message = HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body
        answers: list[bytes] = linux.netlink(self.fd, words, exchange, message)
        return answers

    def new_link(self, name: str, kind: str, *attributes: bytes, data: bytes = b"") -> None:
        """Make a link of that kind, and set it up; EEXIST where there is one of that name."""
        info = attribute(IFLA_INFO_KIND, kind.encode()) + nested(IFLA_INFO_DATA, data)
        body = IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + attribute(IFLA_IFNAME, string(name))
        body += b"".join(attributes) + nested(IFLA_LINKINFO, info)
        words = f'RTM_NEWLINK("{name}", {kind}, up)'
        self.ask(words, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)

    def set_link(self, name: str, *attributes: bytes) -> None:
        """Set attributes of a link, and set it up."""
        body = IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + attribute(IFLA_IFNAME, string(name))
        self.ask(f'RTM_NEWLINK("{name}", up)', RTM_NEWLINK, 0, body + b"".join(attributes))

    def get_link(self, name: str) -> tuple[int, dict[int, bytes]]:
        """Return a link's index and its attributes; ENODEV where there is none of that name."""
        body = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, string(name))
        answer = self.ask(f'RTM_GETLINK("{name}")', RTM_GETLINK, 0, body)[0]
        return IFINFO.unpack_from(answer)[2], dict(attributes_of(answer, IFINFO.size))

    def links(self) -> list[tuple[int, dict[int, bytes]]]:
        """Return index and attributes of every link."""
        body = IFINFO.pack(0, 0, 0, 0, 0)
        answers = self.ask("RTM_GETLINK()", RTM_GETLINK, NLM_F_DUMP, body)
        return [
            (IFINFO.unpack_from(answer)[2], dict(attributes_of(answer, IFINFO.size)))
            for answer in answers
        ]

    def delete_link(self, name: str) -> None:
        """Delete a link, and with one end of a veth pair the other. ENODEV where there is none."""
        body = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, string(name))
        self.ask(f'RTM_DELLINK("{name}")', RTM_DELLINK, 0, body)

    def set_queue(self, name: str, kind: str, options: bytes, words: str) -> None:
        """Give a link a queueing discipline of that kind for all that leaves it. See tc(8)."""
        body = TCMSG.pack(0, self.get_link(name)[0], 0, TC_H_ROOT, 0)
        body += attribute(TCA_KIND, string(kind)) + options
        flags = NLM_F_CREATE | NLM_F_EXCL
        self.ask(f'RTM_NEWQDISC("{name}", {kind}, {words})', RTM_NEWQDISC, flags, body)

    def add_address(self, link: str, address: str, length: int) -> None:
        """Give a link an address in a network whose prefix has that length."""
        index, packed = self.get_link(link)[0], ipv4(address)
        body = IFADDR.pack(AF_INET, length, 0, RT_SCOPE_UNIVERSE, index)
        body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
        words = f'RTM_NEWADDR({address}/{length} on "{link}")'
        self.ask(words, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)

    def addresses(self, index: int) -> list[str]:
        """Return the IPv4 addresses of the link with that index."""
        body = IFADDR.pack(AF_INET, 0, 0, 0, 0)
        found = []
        for answer in self.ask("RTM_GETADDR()", RTM_GETADDR, NLM_F_DUMP, body):
            if IFADDR.unpack_from(answer)[4] == index:
                found.append(dotted(dict(attributes_of(answer, IFADDR.size))[IFA_LOCAL]))
        return found

    def add_default_route(self, gateway: str) -> None:
        """Send whatever is for elsewhere to `gateway`."""
        kinds = (RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST)
        body = RTMSG.pack(AF_INET, 0, 0, 0, *kinds, 0) + attribute(RTA_GATEWAY, ipv4(gateway))
        words = f"RTM_NEWROUTE(default via {gateway})"
        self.ask(words, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)

    def routes(self) -> list[tuple[str, int]]:
        """Return the destination and prefix length of each IPv4 route, whatever its table."""
        body = RTMSG.pack(AF_INET, *[0] * 8)
        found = []
        for answer in self.ask("RTM_GETROUTE()", RTM_GETROUTE, NLM_F_DUMP, body):
            target = dict(attributes_of(answer, RTMSG.size)).get(RTA_DST, bytes(4))
            found.append((dotted(target), RTMSG.unpack_from(answer)[1]))
        return found


def exchange(fd: int, message: bytes) -> list[bytes]:
    """Send a message and gather what comes back, until the kernel says that this was all."""
    os.write(fd, message)
    bodies: list[bytes] = []
    while True:
        chunk = os.read(fd, 1 << 16)
        start = 0
        while start < len(chunk):
            length, kind, *_ = HEADER.unpack_from(chunk, start)
            body = chunk[start + HEADER.size : start + length]
            if kind == NLMSG_ERROR:
                # Where it reports success it is the acknowledgement that was asked for.
                if failure := -int.from_bytes(body[:4], "little", signed=True):
                    raise OSError(failure, os.strerror(failure))
                return bodies
            if kind == NLMSG_DONE:
                return bodies
            bodies.append(body)
            start += aligned(length)


def aligned(length: int) -> int:
    """Return where the next message or attribute begins: at a multiple of 4."""
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute as the kernel reads it: length, kind, value. See rtnetlink(7)."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value.ljust(aligned(len(value)), b"\0")


def nested(kind: int, attributes: bytes) -> bytes:
    """Return an attribute that holds attributes; nothing where there are none to hold."""
    return attribute(kind | NLA_F_NESTED, attributes) if attributes else b""


def attributes_of(body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield kind and value of each attribute of an answer."""
    while start < len(body):
        length, kind = ATTRIBUTE.unpack_from(body, start)
        yield kind & ~NLA_F_NESTED, body[start + ATTRIBUTE.size : start + length]
        start += aligned(length)


def string(text: str) -> bytes:
    """Return text as C has it."""
    return os.fsencode(text) + b"\0"


def number(value: int) -> bytes:
    """Return a number of 32 bits as the kernel has it."""
    return Struct("=I").pack(value)


def ipv4(address: str) -> bytes:
    """Return the four bytes of an address such as 10.88.0.2; raise ValueError for anything else."""
    parts = address.split(".")
    if len(parts) != 4 or not all(p.isascii() and p.isdigit() and int(p) < 256 for p in parts):
        raise ValueError(f"{address}: not an IPv4 address, which is four numbers: 10.88.0.7")
    return bytes(int(part) for part in parts)


def dotted(packed: bytes) -> str:
    """Return an address as it is written."""
    return ".".join(map(str, packed))
