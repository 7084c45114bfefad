"""A picture of two networks and the cable between them, drawn from what the kernel reports."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from checks import visitor
from checks.bench import Bench
from checks.trial import Container
from labs.texts import say

WIDEST = 92
NARROW = 72
"""Columns below which the networks stand on each other."""
CABLE = 6
"""Columns between the networks."""
MOST = 4
"""Lines of the host's own devices, and of other containers' cables, at most."""

PLAIN = str.maketrans("┌┐└┘─│┼●·…", "++++-|+o-~")
"""What stands for the lines where they can't be spelled."""


@dataclass(frozen=True)
class Link:
    """A network device."""

    index: int
    name: str
    kind: str
    """Such as `bridge` or `veth`; "" for hardware and `lo`."""
    up: bool
    master: int
    """The bridge that it is plugged into; 0 for none."""
    peer: int
    """The index of a cable's other end, in the network where that is."""
    addresses: Sequence[str] = ()

    def __str__(self) -> str:
        """Return name and addresses, and that it is down."""
        down = () if self.up else (say("demo.picture_down"),)
        return "  ".join([self.name, *self.addresses, *down])


@dataclass(frozen=True)
class Network:
    """A network namespace: its devices, and its default route."""

    namespace: str
    """Such as `net:[4026531840]`."""
    links: Sequence[Link]
    default: str = ""
    """The gateway."""
    through: int = 0
    """The index of the device that leads there."""

    def ports(self, bridge: Link) -> list[Link]:
        """Return what is plugged into a bridge."""
        return [link for link in self.links if link.master == bridge.index]

    def lines(self, link: Link) -> list[str]:
        """Return what there is to say of a device."""
        if self.default and link.index == self.through:
            return [str(link), f"  default via {self.default}"]
        return [str(link)]


@dataclass(frozen=True)
class Networks:
    """The host's network and a container's."""

    host: Network
    container: Network

    def cable(self) -> tuple[Link, Link] | None:
        """Return both ends of the cable between them: the host's, and the container's."""
        for inner in self.container.links:
            for outer in self.host.links:
                ends = (outer.peer, inner.peer) == (inner.index, outer.index)
                if outer.kind == inner.kind == "veth" and ends:
                    return outer, inner
        return None


def look(bench: Bench, container: Container) -> Networks:
    """Return both networks, as rtnetlink(7) reports them just now."""
    # Before the visits, each of which would load it.
    with visitor.signals_held():
        import pyroute2  # noqa: F401  # only loaded here

    return Networks(
        read(bench.link("net"), *bench.see_network(reported)),
        read(container.link("net"), *container.see_network(reported)),
    )


Reported = tuple[list[dict[str, Any]], list[tuple[int, str]], tuple[str, int]]
"""Devices, as Link has them; addresses by device; gateway and device of the default route."""


def reported() -> Reported:
    """Return what this network consists of."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        links = []
        for row in ip.get_links():
            info = row.get_attr("IFLA_LINKINFO")
            links.append(
                {
                    "index": row["index"],
                    "name": row.get_attr("IFLA_IFNAME"),
                    "kind": (info.get_attr("IFLA_INFO_KIND") if info else "") or "",
                    "up": bool(row["flags"] & 1),  # IFF_UP
                    "master": row.get_attr("IFLA_MASTER") or 0,
                    "peer": row.get_attr("IFLA_LINK") or 0,
                }
            )
        addresses = [
            (row["index"], f"{row.get_attr('IFA_ADDRESS')}/{row['prefixlen']}")
            for row in ip.get_addr(family=socket.AF_INET)
        ]
        default = ("", 0)
        for row in ip.get_routes(family=socket.AF_INET):
            if row["dst_len"] == 0 and row.get_attr("RTA_TABLE") == 254:  # RT_TABLE_MAIN
                default = (row.get_attr("RTA_GATEWAY") or "", row.get_attr("RTA_OIF") or 0)
                break
    return links, addresses, default


def read(
    namespace: str,
    links: Sequence[dict[str, Any]],
    addresses: Sequence[tuple[int, str]],
    default: tuple[str, int],
) -> Network:
    """Return the network of which that was reported."""
    found = []
    for row in links:
        own = [address for index, address in addresses if index == row["index"]]
        found.append(Link(**row, addresses=own))
    return Network(namespace, found, *default)


def draw(networks: Networks, width: int, *, spells: bool = True) -> list[str]:
    """Return the picture, line by line, at most `width` columns wide."""
    width = min(width, WIDEST)
    host, container = networks.host, networks.container
    names = [
        f"{say(f'demo.{name}')} · {network.namespace}"
        for name, network in (("host", host), ("container", container))
    ]
    if host.namespace == container.namespace:
        title = f"{say('demo.host')} = {say('demo.container')} · {host.namespace}"
        lines = _framed(title, _devices(host), width)
    elif width < NARROW:
        ends = networks.cable()
        between = [f"    │ veth: {ends[0].name} ── {ends[1].name}"] if ends else [""]
        inner = [f"  {row}" for link in container.links for row in container.lines(link)]
        left = [*_devices(host), *(["", *_bridge(host, ends[0])[0]] if ends else [])]
        lines = [*_framed(names[0], left, width), *between, *_framed(names[1], inner, width)]
    else:
        lines = _beside(networks, names, width)
    return lines if spells else [line.translate(PLAIN) for line in lines]


def _beside(networks: Networks, names: Sequence[str], width: int) -> list[str]:
    """Return both networks side by side, and the cable on one line through both frames."""
    host, container = networks.host, networks.container
    wide = (width - CABLE) * 11 // 20
    left = _Column(_devices(host), wide)
    right = _Column([], width - CABLE - wide)
    ends = networks.cable()
    inner = ends[1] if ends else None
    for link in container.links:
        if link is not inner:
            right.rows += [f"   {row}" for row in container.lines(link)]
    if ends and inner:
        bridge, port = _bridge(host, ends[0])
        # So that the cable is a straight line, whichever side has more above it.
        left.rows += [""] * max(1, len(right.rows) - len(left.rows) - port)
        left.rows += bridge
        left.cable = len(left.rows) - len(bridge) + port
        right.rows += [""] * (left.cable - len(right.rows))
        right.cable = len(right.rows)
        first, *more = container.lines(inner)
        right.rows += [f"─● {first}", *(f"   {row}" for row in more)]
    height = max(len(left.rows), len(right.rows))
    lines = []
    for number, (one, other) in enumerate(
        zip(left.framed(names[0], height), right.framed(names[1], height), strict=True)
    ):
        gap = "veth".center(CABLE, "─") if number - 1 == left.cable and ends else " " * CABLE
        lines.append(f"{one}{set_cell_size(gap, CABLE)}{other}")
    return lines


@dataclass
class _Column:
    """What is inside one frame of two, and in which of its rows the cable is."""

    rows: list[str]
    width: int
    cable: int = -1

    def framed(self, name: str, height: int) -> list[str]:
        """Return the frame, `height` rows high inside, with the cable through one side."""
        rows = [*self.rows, *[""] * (height - len(self.rows))]
        lines = _framed(name, rows, self.width)
        if self.cable >= 0:
            line = lines[self.cable + 1]
            if line[1] == "─":
                # It comes in from the left.
                lines[self.cable + 1] = f"┼{line[1:]}"
            else:
                # It goes out to the right, from the bridge's frame on.
                kept = line[:-1].rstrip()
                lines[self.cable + 1] = kept + "─" * (self.width - 1 - cell_len(kept)) + "┼"
        return lines


def _devices(host: Network) -> list[str]:
    """Return the devices that have an address, but for `lo` and the bridges of containers."""
    shown = [
        link for link in host.links if link.addresses and link.name != "lo" and not host.ports(link)
    ]
    rows = [f"  {row}" for link in shown for row in host.lines(link)]
    if len(rows) > MOST:
        hidden = say(
            "demo.picture_more", count=len(shown) - sum(1 for r in rows[:MOST] if r[2] != " ")
        )
        rows = [*rows[:MOST], f"  {hidden}"]
    return rows


def _bridge(host: Network, port: Link) -> tuple[list[str], int]:
    """Return the bridge that a cable is plugged into, and in which row that is."""
    bridge = next((link for link in host.links if link.index == port.master), None)
    if not bridge:
        return [f"  {port} ●"], 0
    others = [link.name for link in host.ports(bridge) if link.index != port.index]
    rows = [*bridge.addresses]
    if others:
        more = f" … {len(others) - MOST}" if len(others) > MOST else ""
        rows.append(say("demo.picture_others", names=" ".join(others[:MOST]) + more))
    title = f" {bridge.name} · bridge "
    inner = max(cell_len(title), *(cell_len(row) + 2 for row in rows), len(port.name) + 6)
    lines = [f"  ┌{title}{'─' * (inner - cell_len(title))}┐"]
    lines += [f"  │ {set_cell_size(row, inner - 1)}│" for row in rows]
    lines.append(f"  │ {set_cell_size(port.name.rjust(inner - 3), inner - 2)}─●")
    lines.append(f"  └{'─' * inner}┘")
    return lines, len(lines) - 2


def _framed(name: str, rows: Sequence[str], width: int) -> list[str]:
    """Return rows in a frame with a name."""
    inner = width - 2
    title = f" {name} "
    if cell_len(title) > inner - 1:
        title = set_cell_size(title, inner - 1)
    top = f"┌{title}{'─' * (inner - cell_len(title))}┐"
    body = [f"│{set_cell_size(row, inner)}│" for row in rows]
    return [top, *body, f"└{'─' * inner}┘"]
