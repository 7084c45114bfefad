"""-p: which port of the host's leads to which port of the container's, spelled as Docker does.

-p 8080:80        port 8080 of every address of the host's leads to 80 inside
-p 80             some free port does; `port` says which
-p 127.0.0.1:8080:80/udp
-p 8000-8002:80-82
"""

from __future__ import annotations

from stages.light import NamedTuple
from stages.netlink import ipv4

ANY = "0.0.0.0"
PROTOCOLS = ("tcp", "udp")


class Port(NamedTuple):
    """One door: address (0.0.0.0: all) and port of the host's, 0 for a free one; port inside."""

    protocol: str
    address: str
    outside: int
    inside: int

    def __str__(self) -> str:
        """Return it as -p has it."""
        return f"{self.address}:{self.outside}:{self.inside}/{self.protocol}"


def ports(texts: list[str]) -> list[Port]:
    """Return the doors that these options ask for; raise ValueError where one makes no sense."""
    found: list[Port] = []
    for text in texts:
        for port in parse(text):
            if port not in found:
                found.append(port)
    return found


def parse(text: str) -> list[Port]:
    """Return the doors of one -p."""
    asked = f"--publish {text}"
    rest, _, protocol = text.partition("/")
    if (protocol or "tcp") not in PROTOCOLS:
        raise ValueError(f"{asked}: {protocol} is none of tcp, udp")
    if "[" in rest or rest.count(":") > 2:
        raise ValueError(f"{asked}: containers have IPv4 alone: say an IPv4 address, or none")
    *before, inside = rest.split(":")
    outside = before.pop() if before else ""
    address = before[0] if before else ""
    if address:
        try:
            ipv4(address)
        except ValueError as error:
            raise ValueError(f"{asked}: {error}") from None
    inner = numbers(asked, inside)
    outer = numbers(asked, outside) if outside else [0] * len(inner)
    if len(inner) != len(outer):
        raise ValueError(f"{asked}: as many ports outside as inside: {len(outer)}, {len(inner)}")
    return [
        Port(protocol or "tcp", address or ANY, out, into)
        for out, into in zip(outer, inner, strict=True)
    ]


def numbers(asked: str, text: str) -> list[int]:
    """Return the ports of 80 or 80-82."""
    first, _, last = text.partition("-")
    words = (first, last or first)
    if not all(word.isascii() and word.isdigit() and 0 < int(word) < 65536 for word in words):
        raise ValueError(f"{asked}: a port is a number from 1 to 65535: say HOST:CONTAINER")
    if int(words[0]) > int(words[1]):
        raise ValueError(f"{asked}: {text} ends before it begins")
    return list(range(int(words[0]), int(words[1]) + 1))
