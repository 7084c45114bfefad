"""The network: devices, routes, addresses, ports and abstract sockets."""

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from checks import load
from checks.load import MIB, Series
from checks.model import Finding
from checks.probes import asked, built, limit, probe, same_namespace, wall
from checks.trial import Container, Trial
from checks.visitor import Hindered
from checks.words import say

DISCARD = 9
"""A port at which nobody listens (RFC 863): the answer that there is nobody is an answer."""
ANSWERS = {0, errno.ECONNREFUSED}
RATE = 1_000_000
"""Bytes a second: `8mbit`, as tc(8) reads it."""
MOST, LEAST = 1.1, 0.8
"""How much of it may come, and must. The limit is on frames: of one with 1514 bytes TCP carries
1448, and a packet that was dropped goes twice."""
SECONDS, SETTLED = 1.8, 0.5
"""How long is measured, and what is left out of it: a bucket of tokens may begin full."""
ENOUGH = 16 * MIB
"""Bytes that end it at once."""
TRIES = 6
"""A machine that stands still for longer than a bucket lasts loses what would have come then."""
RECEIVED, SENT = 0, 8
"""Where /proc/PID/net/dev has the bytes of a device. See proc_pid_net(5)."""
NEIGHBOUR_FAILED = {0x00, 0x01, 0x20}
"""No state yet, incomplete and failed: nobody answered for that address. See rtnetlink(7)."""


def routes(pid: int) -> list[str]:
    """Return a process's IPv4 routes, as `DESTINATION/LENGTH via GATEWAY dev DEVICE`.

    See /proc/net/route in proc_pid_net(5).
    """
    found = []
    table = Path(f"/proc/{pid}/net/route").read_text(encoding="ascii").splitlines()[1:]
    for device, destination, gateway, *_, mask in (row.split()[:8] for row in table):
        length = int(mask, 16).bit_count()
        target = f"{_address(destination)}/{length}" if length else "default"
        via = f" via {_address(gateway)}" if int(gateway, 16) else ""
        found.append(f"{target}{via} dev {device}")
    return found


def _address(text: str) -> str:
    """Return an address that the kernel printed as a number in the machine's byte order."""
    return socket.inet_ntoa(bytes.fromhex(text)[::-1])


def devices(pid: int) -> list[str]:
    """Return the names of a process's network devices."""
    rows = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return [row.partition(":")[0].strip() for row in rows]


@probe("net.routes")
def net_routes(trial: Trial) -> Finding:
    """The host's routes are not the container's."""
    bench = trial.bench
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "net")
        host, inside = routes(bench.pid), routes(container.pid)
    if bench.canaries.route:
        canary = next(row for row in host if row.startswith(f"{bench.canaries.route}/32"))
        if canary in inside:
            return wall(False, say("net.canary_in", pid=container.pid, route=canary), evidence)
        text = say("net.canary_out", pid=container.pid, route=canary)
        return wall(not shared, text, evidence)
    if not shared:
        return wall(True, evidence)
    default = [row for row in inside if row.startswith("default")]
    if shown := default or inside:
        return wall(False, say("net.routes_shared", pid=container.pid, route=shown[0]), evidence)
    return wall(False, say("net.routes_empty", pid=container.pid), evidence)


def _in_sysfs() -> list[str]:
    """Return the devices that /sys shows: those of the namespace that it was mounted in."""
    folder = "/sys/class/net"
    with suppress(OSError):
        return [name for name in os.listdir(folder) if os.path.islink(f"{folder}/{name}")]
    return []


def _is_hosts_sysfs(trial: Trial, container: Container) -> bool:
    """Say whether /sys inside is the host's: each network namespace has a sysfs of its own."""
    inside = f"/proc/{container.pid}/root/sys"
    with suppress(OSError):
        return os.stat(inside).st_dev == os.stat(trial.bench.path("/sys")).st_dev
    return False


@probe("net.devices")
def net_devices(trial: Trial) -> Finding:
    """The host's network devices are not the container's, and /sys inside shows none of them."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "net")
        inside = devices(container.pid)
        in_sysfs = container.visit(_in_sysfs)
        hosts = bool(in_sysfs) and _is_hosts_sysfs(trial, container)
    pid, listed = container.pid, " ".join(inside)
    if (link := trial.bench.canaries.link) in inside:
        seen = say("net.devices_canary", pid=pid, devices=listed, link=link)
        return wall(False, seen, evidence)
    seen = say("net.devices", pid=pid, devices=listed)
    if hosts or {*in_sysfs} - {*inside}:
        shown = say("net.devices_sysfs", devices=" ".join(sorted(in_sysfs)))
        return wall(False, shown, seen, evidence)
    return wall(not shared, seen, evidence)


def _bound(container: Container, port: int) -> socket.socket:
    """Return a socket that listens at `port` in the container's network. Raises OSError."""
    ours, theirs = socket.socketpair()

    def bind() -> None:
        with socket.create_server(("", port)) as listener:
            socket.send_fds(theirs, [b"."], [listener.fileno()])

    with ours, theirs:
        # A socket belongs to the network in which it was made, whoever holds it.
        container.see_network(bind)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fd)


def _connect(place: tuple[str, int] | str) -> int:
    """Return errno of an attempt to connect to a TCP port or a Unix socket; 0 where it worked."""
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(3)
        return client.connect_ex(place)


@probe("net.ports")
def ports(trial: Trial) -> Finding:
    """A port that is taken on the host can be bound in two containers at once."""
    port = trial.bench.canaries.port
    with ExitStack() as stack:
        containers = [stack.enter_context(trial.started()) for _ in range(2)]
        shared, evidence = same_namespace(trial, containers[0].pid, "net")
        if containers[0].see_network(lambda: _connect(("127.0.0.1", port))) == 0:
            return wall(False, say("net.port_reached", port=port), evidence)
        for container in containers:
            try:
                stack.enter_context(_bound(container, port))
            except OSError as error:
                taken = say("net.port_taken", port=port, pid=container.pid, reason=error.strerror)
                return wall(False, taken, evidence)
    return wall(not shared, say("net.port_bound", port=port), evidence)


@probe("net.abstract")
def abstract(trial: Trial) -> Finding:
    """Nobody inside can connect to the host's abstract socket."""
    name = trial.bench.canaries.abstract
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "net")
        refusal = container.visit(lambda: _connect(f"\0{name}"))
    if refusal == 0:
        return wall(False, say("net.abstract_reached", name=name), evidence)
    shut = say("net.abstract_shut", name=name, reason=os.strerror(refusal))
    return wall(not shared, shut, evidence)


def interfaces() -> dict[str, Any]:
    """Return this network's devices, IPv4 addresses and default routes, by rtnetlink(7)."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        links = list(ip.get_links())
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
        return {
            "up": [names[link["index"]] for link in links if link["flags"] & 1],
            # A device that came after the first answer isn't in it: the host's come and go.
            "addresses": [
                (names[row["index"]], row.get_attr("IFA_ADDRESS"))
                for row in ip.get_addr(family=socket.AF_INET)
                if row["index"] in names
            ],
            "defaults": [
                (row.get_attr("RTA_GATEWAY") or "", names.get(row.get_attr("RTA_OIF"), ""))
                for row in ip.get_routes(family=socket.AF_INET)
                if row["dst_len"] == 0 and row.get_attr("RTA_TABLE") == 254  # RT_TABLE_MAIN
            ],
        }


def _answer(gateway: str) -> Callable[[], str]:
    """Return what asks a gateway for an answer, and returns why none came, or ""."""

    def ask() -> str:
        from pyroute2 import IPRoute

        code = _connect((gateway, DISCARD))
        if code in ANSWERS:
            return ""
        # A firewall that says nothing is no fault of the network's: does somebody have the address?
        with IPRoute() as ip:
            for row in ip.get_neighbours(family=socket.AF_INET, dst=gateway):
                if row["state"] not in NEIGHBOUR_FAILED:
                    return ""
        return os.strerror(code)

    return ask


@probe("net.own-address")
def own_address(trial: Trial) -> Finding:
    """The container has lo up, an address that nobody else has, and a gateway that answers."""
    # The visitor's own imports would be looked for in the container.
    import pyroute2  # noqa: F401  # only loaded here

    with trial.started() as container, trial.started() as other:
        shared, evidence = same_namespace(trial, container.pid, "net")
        inside = container.see_network(interfaces)
        taken = [*trial.bench.see_network(interfaces)["addresses"]]
        if shared:
            listed = ", ".join(f"{address} ({name})" for name, address in taken)
            return wall(False, say("net.addresses_shared", addresses=listed), evidence)
        taken += other.see_network(interfaces)["addresses"]
        faults = _lacks(inside, {address for name, address in taken if name != "lo"})
        if not faults:
            gateway, device = inside["defaults"][0]
            if reason := container.see_network(_answer(gateway)) if gateway else "":
                faults.append(say("net.gateway_silent", gateway=gateway, reason=reason))
    own = [f"{address} ({name})" for name, address in inside["addresses"] if name != "lo"]
    seen = []
    if not faults:
        seen = [say("net.own", addresses=", ".join(own), gateway=gateway or "-", device=device)]
    return built(False, faults, *seen, evidence)


def _lacks(inside: dict[str, Any], taken: set[str]) -> list[str]:
    """Return what a network lacks: `lo` up, an address of its own on a device, a default route."""
    own = [(name, address) for name, address in inside["addresses"] if name != "lo"]
    faults = [] if "lo" in inside["up"] else [say("net.lo_down")]
    if not [name for name, _ in own if name in inside["up"]]:
        faults.append(say("net.no_address"))
    faults += [
        say("net.address_taken", address=address, device=name)
        for name, address in own
        if address in taken
    ]
    if not inside["defaults"]:
        faults.append(say("net.no_default"))
    return faults


@probe("net.rate")
def net_rate(trial: Trial) -> Finding:
    """What a load in the container's network sends over its device is limited, and what it gets."""
    import pyroute2  # noqa: F401  # only loaded here

    options = ("--net", "bridge", "--net-rate", "8mbit")
    with asked(trial, *options, otherwise=options[:2]) as (container, notes):
        shared, evidence = same_namespace(trial, container.pid, "net")
        if shared:
            return limit(False, (), evidence, *notes)
        inside = container.see_network(interfaces)
        if not (inside["defaults"] and inside["defaults"][0][0]):
            return limit(False, (), say("net.no_device"), *notes, evidence)
        gateway, device = inside["defaults"][0]
        own = next(address for name, address in inside["addresses"] if name == device)
        outcomes = []
        for measure, address, column in ((_sent, gateway, SENT), (_received, own, RECEIVED)):
            before = _counted(container.pid, device, column)
            for _ in range(TRIES):
                rate = load.rate(measure(trial, container, address), SETTLED)
                if LEAST * RATE <= rate <= MOST * RATE or rate > 2 * RATE:
                    break
            size = _counted(container.pid, device, column) - before
            places = {
                "rate": rate * 8 / 1e6,
                "asked": RATE * 8 / 1e6,
                "pid": container.pid,
                "device": device,
                "size": size / 1e6,
            }
            sent = column == SENT
            said = say("net.sent", **places) if sent else say("net.received", **places)
            outcomes.append((rate, said))
    seen = [text for _, text in outcomes]
    faults = [say("net.too_slow", said=text) for rate, text in outcomes if rate < LEAST * RATE]
    limited = all(rate <= MOST * RATE for rate, _ in outcomes)
    return limit(limited, faults, *([] if faults and limited else seen), *notes)


def _counted(pid: int, device: str, column: int) -> int:
    """Return a device's count of bytes, RECEIVED or SENT."""
    for row in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counts = row.partition(":")
        if name.strip() == device:
            return int(counts.split()[column])
    return 0


def _of_the_bench(trial: Trial) -> socket.socket:
    """Return a TCP socket that belongs to the bench's network."""
    ours, theirs = socket.socketpair()

    def make() -> None:
        with socket.socket() as made:
            socket.send_fds(theirs, [b"."], [made.fileno()])

    with ours, theirs:
        trial.bench.see_network(make)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fd)


def _sent(trial: Trial, container: Container, gateway: str) -> Series:
    """Return what comes out of the container, to its gateway: to the bench. Raises Hindered."""
    with _of_the_bench(trial) as listener:
        listener.bind(("", 0))
        listener.listen()
        listener.settimeout(3)
        work = load.send((gateway, listener.getsockname()[1]), SECONDS + 0.5)
        with load.at_work(container.pid, work, network=True) as sender:
            if code := sender.told():
                raise Hindered(say("net.gateway_silent", gateway=gateway, reason=os.strerror(code)))
            connected, _ = listener.accept()
            with connected:
                return load.drain(connected, SECONDS, ENOUGH)


def _received(trial: Trial, container: Container, address: str) -> Series:
    """Return what comes into the container, from the bench. Raises Hindered."""
    work = load.receive(SECONDS, ENOUGH)
    with load.at_work(container.pid, work, network=True) as receiver:
        port = receiver.told()
        with _of_the_bench(trial) as client:
            client.settimeout(3)
            if code := client.connect_ex((address, port)):
                raise Hindered(say("net.own_silent", address=address, reason=os.strerror(code)))
            load.pump(client, SECONDS + 0.5)
        series: Series = receiver.told() or []
        return series
