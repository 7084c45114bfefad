"""nft: the kernel's packet rules, in a table of our own, written whole each time.

No rule of anybody else's is touched, and with the table all of ours go at once. What another
table drops stays dropped, though: a packet passes only if every table lets it. See nft(8),
libnftables-json(5).
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.light import dumps
from stages.stage2_namespaces.more.bridge import LENGTH, TAG
from stages.stage5_container.more.publish import ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stages.stage5_container.more.members import Member
    from stages.stage5_container.more.publish import Port

    Term = dict[str, Any]

TABLE = {"family": "ip", "name": "labrun"}
PLACES = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Where nft is looked for behind PATH: an ordinary PATH has no sbin."""

CHAINS = (
    # name, type, hook, priority: the numbers are NF_IP_PRI_NAT_DST, _NAT_SRC and _FILTER
    ("published", "nat", "prerouting", -100),
    ("from_host", "nat", "output", -100),
    ("way_out", "nat", "postrouting", 100),
    ("between", "filter", "forward", 0),
)


def rules(members: Sequence[Member], *, closed: bool) -> str:
    """Return what nft is to be told for these containers, "" for none.

    `closed`: the host forwards for us alone, so nobody else's packets are to pass.
    """
    if not members:
        return ""
    networks = sorted({(member.bridge, member.subnet) for member in members})
    doors = [(port, member.address) for member in members for port in member.ports]
    # A container that asks for its own door gets the relay: a bridge sends no frame back by the
    # port that it came in by.
    found = [
        ("published", [is_not("iifname", "lo"), of("saddr", one[1], "!="), *door(*one)])
        for one in doors
        if public(one)
    ]
    # 127.0.0.1 can't be led elsewhere: the kernel drops a packet on a real link that comes from
    # there as a Martian, unless route_localnet is on, and that opens the host's own services on
    # 127.0.0.1 to all who can send to that link (CVE-2020-8558). So the relay listens there.
    found += [("from_host", [not_loopback(), *door(*one)]) for one in doors if public(one)]
    for bridge, subnet in networks:
        ours = prefix(subnet)
        # Its own address means nothing beyond the host.
        found.append(
            ("way_out", [of("saddr", ours), is_not("oifname", bridge), {"masquerade": None}])
        )
        # From a neighbour by the host's address: the answer has to come back through the host.
        pair = [of("saddr", ours), of("daddr", ours), has("status", "dnat")]
        found.append(("way_out", [*pair, {"masquerade": None}]))
    found.append(("between", [has("state", ["established", "related"]), ACCEPT]))
    for bridge, _ in networks:
        found.append(("between", [equals("iifname", bridge), equals("oifname", bridge), ACCEPT]))
    found += [
        ("between", [equals("oifgroup", TAG), has("status", "dnat"), ACCEPT]),
        # What is not published is not to be reached, nor is another network's container.
        ("between", [equals("oifgroup", TAG), {"drop": None}]),
        ("between", [equals("iifgroup", TAG), ACCEPT]),
    ]
    if closed:
        found.append(("between", [{"drop": None}]))
    return written(found)


def written(found: Sequence[tuple[str, Sequence[Term]]]) -> str:
    """Return the table with these rules, in place of what it was: all or nothing, at once."""
    commands: list[Term] = [*REMOVAL, {"add": {"table": TABLE}}]
    place = {"family": TABLE["family"], "table": TABLE["name"]}
    for name, kind, hook, priority in CHAINS:
        chain = place | {"name": name, "type": kind, "hook": hook, "prio": priority}
        commands.append({"add": {"chain": chain | {"policy": "accept"}}})
    for chain_name, terms in found:
        commands.append({"add": {"rule": place | {"chain": chain_name, "expr": [*terms]}}})
    return dumps({"nftables": commands})


# Adding a table that is there does nothing; removing one that isn't fails.
REMOVAL: tuple[Term, ...] = ({"add": {"table": TABLE}}, {"delete": {"table": TABLE}})
ACCEPT: Term = {"accept": None}


def match(left: Term, op: str, right: object) -> Term:
    """Return a condition."""
    return {"match": {"op": op, "left": left, "right": right}}


def equals(key: str, value: object) -> Term:
    """Return the condition that a packet's link is that."""
    return match({"meta": {"key": key}}, "==", value)


def is_not(key: str, value: object) -> Term:
    """Return the condition that a packet's link is another."""
    return match({"meta": {"key": key}}, "!=", value)


def has(key: str, value: object) -> Term:
    """Return a condition on the connection that a packet belongs to."""
    return match({"ct": {"key": key}}, "in", value)


def of(field: str, value: object, op: str = "==") -> Term:
    """Return the condition that an address of the packet's is that, or in that network."""
    return match({"payload": {"protocol": "ip", "field": field}}, op, value)


def prefix(subnet: str) -> Term:
    """Return a network's addresses."""
    return {"prefix": {"addr": f"{subnet}.0", "len": LENGTH}}


def not_loopback() -> Term:
    """Return the condition that a packet is not for 127.0.0.1, or another of its kind."""
    return of("daddr", {"prefix": {"addr": "127.0.0.0", "len": 8}}, "!=")


def public(one: tuple[Port, str]) -> bool:
    """Return whether others may come to a door: not to one that is for 127.0.0.1 alone."""
    return not one[0].address.startswith("127.")


def door(port: Port, address: str) -> list[Term]:
    """Return how a packet for a door of the host's becomes one for the container."""
    # Every address of the host's, or the one that was said.
    host = match({"fib": {"result": "type", "flags": ["daddr"]}}, "==", "local")
    if port.address != ANY:
        host = of("daddr", port.address)
    number = {"payload": {"protocol": port.protocol, "field": "dport"}}
    target = {"addr": address, "port": port.inside}
    return [host, match(number, "==", port.outside), {"dnat": target}]


def apply(text: str) -> None:
    """Have the kernel know these rules, in place of what we told it before; "": none."""
    tell(text or dumps({"nftables": REMOVAL}))


def tell(text: str) -> None:
    """Give nft its commands; raise OSError with what it complains about."""
    linux.request("nft -j -f -", run_nft, find_nft(), text)


def find_nft() -> str:
    """Return where nft is; raise FileNotFoundError where it isn't."""
    for place in f"{os.environ.get('PATH', '')}:{PLACES}".split(":"):
        if place.startswith("/") and os.access(f"{place}/nft", os.X_OK):
            return f"{place}/nft"
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "nft -j -f -")


def run_nft(program: str, text: str) -> None:
    """Run nft to its end."""
    said = os.memfd_create("said")
    given = os.memfd_create("given")
    try:
        os.write(given, text.encode())
        os.lseek(given, 0, os.SEEK_SET)
        pid = os.posix_spawn(
            program,
            ["nft", "-j", "-f", "-"],
            {"LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given, 0),
                (os.POSIX_SPAWN_DUP2, said, 1),
                (os.POSIX_SPAWN_DUP2, said, 2),
            ],
            # Ctrl-C is for the command, not for half a table; and nothing is held back.
            setpgroup=0,
            setsigmask=(),
        )
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            os.lseek(said, 0, os.SEEK_SET)
            lines = os.read(said, 4096).decode(errors="replace").splitlines()
            raise OSError(errno.EIO, lines[0] if lines else f"it ended with {status}")
    finally:
        os.close(said)
        os.close(given)
