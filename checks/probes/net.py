"""The network: devices and routes, as /proc/PID/net shows them to the host."""

import socket
from pathlib import Path

from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.runtimes import Trial


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
        where = f"/proc/{container.pid}/net/route"
    if bench.canaries.route:
        canary = next(row for row in host if row.startswith(f"{bench.canaries.route}/32"))
        seen = "is" if canary in inside else "is not"
        text = f"the host's canary route, {canary}, {seen} in {where}"
        return wall(not shared and canary not in inside, text, evidence)
    if shared:
        default = [row for row in inside if row.startswith("default")]
        shown = (default or inside or ["an empty table"])[0]
        return wall(False, f"{shown}: the host's own, in {where}", evidence)
    return wall(True, evidence)


@probe("net.devices")
def net_devices(trial: Trial) -> Finding:
    """The host's network devices are not the container's."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "net")
        inside = devices(container.pid)
    shown = f"/proc/{container.pid}/net/dev: {' '.join(inside)}"
    return wall(not shared and trial.bench.canaries.link not in inside, shown, evidence)
