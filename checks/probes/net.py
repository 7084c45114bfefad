"""The network: devices and routes, as /proc/PID/net shows them to the host."""

import socket
from pathlib import Path

from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.trial import Trial
from checks.words import say


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


@probe("net.devices")
def net_devices(trial: Trial) -> Finding:
    """The host's network devices are not the container's."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "net")
        inside = devices(container.pid)
    pid, listed = container.pid, " ".join(inside)
    if (link := trial.bench.canaries.link) in inside:
        seen = say("net.devices_canary", pid=pid, devices=listed, link=link)
        return wall(False, seen, evidence)
    return wall(not shared, say("net.devices", pid=pid, devices=listed), evidence)
