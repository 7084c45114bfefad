"""What a container reaches, and what reaches it: ports, NAT, names."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from checks import names
from checks.beyond import BENCH, BEYOND, PATIENCE, Beyond, See, socket_of
from checks.canaries import ROUTES, nonce
from checks.images import Images, NoImages, Refused
from checks.model import Finding
from checks.probes import engine, probe, promise
from checks.probes.net import interfaces
from checks.trial import Container, Trial
from checks.words import say

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS = {"tcp": TCP, "udp": UDP}
INSIDE = 8000
"""The port that a container's server has: one that takes no privilege."""
DNS = 53


def _free_port(trial: Trial) -> int:
    """Return a port that is free on the bench, for TCP and for UDP."""
    while True:
        with socket_of(trial.bench.see_network, TCP, ("", 0)) as tcp:
            port: int = tcp.getsockname()[1]
            with suppress(OSError), socket_of(trial.bench.see_network, UDP, ("", port)):
                return port


def _talk(client: socket.socket, place: tuple[str, int], server: socket.socket) -> str:
    """Send a word to a place, and have `server` answer; return who it was asked by.

    Raises OSError where the word does not come to the server, or the answer not back.
    """
    word, answer = nonce("ask").encode(), nonce("answer").encode()
    client.connect(place)
    client.send(word)
    if server.type == TCP:
        accepted, (asker, _) = server.accept()
        with accepted:
            accepted.settimeout(PATIENCE)
            heard = accepted.recv(len(word), socket.MSG_WAITALL)
            accepted.send(answer)
    else:
        heard, address = server.recvfrom(len(word))
        asker = address[0]
        server.sendto(answer, address)
    if heard != word or client.recv(len(answer)) != answer:
        raise OSError(0, say("net.garbled"))
    return str(asker)


@probe("net.publish")
def publish(trial: Trial) -> Finding:
    """A published port answers from another machine, from the host, and on its 127.0.0.1."""
    bench, port = trial.bench, _free_port(trial)
    options = [word for kind in KINDS for word in ("--publish", f"{port}:{INSIDE}/{kind}")]
    faults, seen = [], []
    with Beyond(bench) as beyond:
        places: list[tuple[str, See, str]] = [
            (say("net.from_beyond"), beyond.see_network, BENCH),
            (say("net.from_host"), bench.see_network, BENCH),
            (say("net.from_loopback"), bench.see_network, "127.0.0.1"),
        ]
        with trial.started(options=options) as container:
            for kind, number in KINDS.items():
                with socket_of(container.see_network, number, ("", INSIDE)) as server:
                    for where, see, address in places:
                        said = {"where": where, "address": address, "port": port, "kind": kind}
                        try:
                            with socket_of(see, number) as client:
                                asker = _talk(client, (address, port), server)
                            seen.append(say("net.published", **said, asker=asker))
                        except OSError as error:
                            faults.append(say("net.unanswered", **said, reason=_why(error)))
        faults += _still_open(trial, beyond, port)
    return promise(faults, *seen)


def _still_open(trial: Trial, beyond: Beyond, port: int) -> list[str]:
    """Return as a fault that a port is taken, or answers, when its container has gone."""
    try:
        with (
            socket_of(trial.bench.see_network, TCP, ("", port)) as listener,
            socket_of(beyond.see_network, TCP) as client,
        ):
            # Nothing is to lead elsewhere what is meant for the host itself.
            _talk(client, (BENCH, port), listener)
    except OSError as error:
        return [say("net.left_open", port=port, reason=_why(error))]
    return []


def _why(error: OSError) -> str:
    return error.strerror or str(error)


@probe("net.nat")
def nat(trial: Trial) -> Finding:
    """A machine beyond the host answers, though it knows no way to the container's address."""
    faults, seen = [], []
    with Beyond(trial.bench) as beyond, trial.started() as container:
        for kind, number in KINDS.items():
            with socket_of(beyond.see_network, number, (BEYOND, 0)) as server:
                place = server.getsockname()
                try:
                    with socket_of(container.see_network, number) as client:
                        asker = _talk(client, place, server)
                        own = client.getsockname()[0]
                except OSError as error:
                    said = {"address": BEYOND, "kind": kind, "reason": _why(error)}
                    faults.append(say("net.no_way_out", **said))
                    continue
            if asker == BENCH:
                seen.append(say("net.translated", kind=kind, own=own, asker=asker))
            else:
                faults.append(say("net.not_translated", kind=kind, own=own, asker=asker))
    return promise(faults, *seen)


@contextmanager
def _network(trial: Trial) -> Iterator[str]:
    """Have a network made, by a new name, and removed."""
    asked, name = Images(trial), nonce("net")
    asked.must("network create", name)
    try:
        yield name
    finally:
        with suppress(NoImages, Refused):
            asked.must("network rm", name)


@probe("net.peers")
@engine
def peers(trial: Trial) -> Finding:
    """Containers of one network reach each other by the names that they were given."""
    faults, seen = [], []
    with _network(trial) as network, ExitStack() as stack:
        called = [nonce("one"), nonce("two")]
        there: dict[str, Container] = {}
        for name in called:
            options = ("--network", network, "--name", name)
            there[name] = stack.enter_context(trial.started(options=options))
        for one, other in (called, called[::-1]):
            own = _addresses(there[other])
            found, source = _look_up(there[one], other)
            if found not in own:
                said = {"name": other, "found": found or "-", "addresses": ", ".join(own)}
                faults.append(say("net.unknown_peer", **said, source=source))
                continue
            try:
                with (
                    socket_of(there[other].see_network, TCP, ("", INSIDE)) as server,
                    socket_of(there[one].see_network, TCP) as client,
                ):
                    asker = _talk(client, (found, INSIDE), server)
                said = {"name": other, "found": found, "source": source, "asker": asker}
                seen.append(say("net.peer", **said))
            except OSError as error:
                said = {"name": other, "found": found, "reason": _why(error)}
                faults.append(say("net.silent_peer", **said))
        # Whoever knows every name knows none.
        stranger = nonce("nobody")
        found, source = _look_up(there[called[0]], stranger)
        if found:
            faults.append(say("net.knows_all", name=stranger, found=found, source=source))
    return promise(faults, *seen)


def _addresses(container: Container) -> list[str]:
    import pyroute2  # noqa: F401  # the visitor's own imports would be looked for elsewhere

    found = container.see_network(interfaces)["addresses"]
    return [address for name, address in found if name != "lo"]


def _look_up(container: Container, name: str) -> tuple[str, str]:
    """Return a name's address as a program inside would find it, "" for none; and who knew it.

    First /etc/hosts, then whom /etc/resolv.conf names: hosts(5), resolv.conf(5).
    """
    hosts, servers = container.visit(names.files)
    if name in hosts:
        return hosts[name], "/etc/hosts"
    for server in servers:
        with suppress(OSError), socket_of(container.see_network, UDP) as client:
            client.connect((server, DNS))
            query, number = names.question(name)
            client.send(query)
            if found := names.answer(client.recv(4096), number):
                return found, server
    return "", ", ".join(servers) or "/etc/hosts"


@probe("net.dns")
def dns(trial: Trial) -> Finding:
    """Names are asked of whom the host asks, or of whom --dns says; its own name is known."""
    bench = trial.bench
    server, other = f"{ROUTES}.2", f"{ROUTES}.{130 + secrets.randbelow(100)}"
    faults: list[str] = []
    seen: list[str] = []
    with _resolver_of_the_bench(trial, server):
        with (
            socket_of(bench.see_network, UDP, (server, DNS)) as knows,
            trial.started() as container,
        ):
            hosts, servers = container.visit(names.files)
            hostname = container.visit(lambda: os.uname().nodename)
            own = _addresses(container)
            faults += _unresolved(container, servers, knows, seen)
        for name, wanted in ((hostname, own), ("localhost", ["127.0.0.1"])):
            if hosts.get(name) not in wanted:
                said = {"name": name, "found": hosts.get(name, "-"), "wanted": ", ".join(wanted)}
                faults.append(say("net.own_name", **said))
        seen.append(say("net.own_name_known", name=hostname, address=hosts.get(hostname, "-")))
        with trial.started(options=("--dns", other)) as container:
            _, servers = container.visit(names.files)
        if servers != [other]:
            faults.append(say("net.other_dns", asked=other, found=", ".join(servers) or "-"))
        else:
            seen.append(say("net.dns_asked", asked=other))
    return promise(faults, *seen)


def _unresolved(
    container: Container, servers: list[str], knows: socket.socket, seen: list[str]
) -> list[str]:
    """Ask for a new name inside, and answer in the place of the host's nameserver."""
    name, address = f"{nonce('host')}.test", f"{ROUTES}.{130 + secrets.randbelow(100)}"
    reasons = []
    for server in servers:
        try:
            with socket_of(container.see_network, UDP) as client:
                client.connect((server, DNS))
                query, number = names.question(name)
                client.send(query)
                heard, asker = knows.recvfrom(4096)
                knows.sendto(names.answering(heard, address), asker)
                if names.answer(client.recv(4096), number) == address:
                    seen.append(say("net.resolved", name=name, address=address, server=server))
                    return []
        except OSError as error:
            reasons.append(f"{server}: {_why(error)}")
    said = {"servers": ", ".join(servers) or "-", "reason": "; ".join(reasons) or "-"}
    return [say("net.unresolved", **said)]


@contextmanager
def _resolver_of_the_bench(trial: Trial, server: str) -> Iterator[None]:
    """Have the bench ask `server` for names, in its own copy of /etc."""
    file = Path(trial.bench.path("/etc"), "resolv.conf")

    def write(text: bytes) -> None:
        # A link may lead where nothing is on the bench.
        file.unlink(missing_ok=True)
        file.write_bytes(text)

    before = b""
    with suppress(OSError):
        before = file.read_bytes()
    write(f"nameserver {server}\n".encode())
    try:
        yield
    finally:
        write(before)
