"""Canaries: things on the bench that a container must not be able to reach.

All are made afresh and named at random, so that no runtime can know them beforehand.
"""

import os
import secrets
import socket
from dataclasses import dataclass

from checks import kernel

ROUTES = "198.51.100"
"""TEST-NET-2 (RFC 5737): addresses that belong to nobody."""


def nonce(prefix: str = "canary") -> str:
    """Return a name that nobody has used or can guess."""
    return f"{prefix}-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Canaries:
    """Where the canaries of one bench are. `link`, `route` and `mount` are "" where there is none.

    `file` and `directory` are paths on the bench, outside ROOT, and the file holds `secret`;
    `process` is a pid as the judge numbers it; `shm` is the id of a System V segment that holds
    `secret`; `port` is a TCP listener on the bench's 127.0.0.1.
    """

    secret: str
    directory: str
    file: str
    mount: str
    link: str
    route: str
    hostname: str
    abstract: str
    port: int
    shm: int
    process: int = 0


def plant(scratch: str, *, machine: bool) -> Canaries:
    """Plant canaries around the calling process, which keeps those alive that need a process.

    On a `machine` that is somebody's own, what would be seen by others (links, routes, mounts, the
    host name) is left alone.
    """
    secret = nonce("secret")
    directory = os.path.join(scratch, nonce())
    os.mkdir(directory, 0o755)
    file = os.path.join(directory, nonce())
    with open(file, "w", encoding="ascii") as canary:
        os.fchmod(canary.fileno(), 0o644)
        canary.write(secret)
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = nonce()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"\0{abstract}")
    unix.listen()
    # They live as long as the process that planted them.
    listener_fd, _ = listener.detach(), unix.detach()
    port: int = socket.socket(fileno=os.dup(listener_fd)).getsockname()[1]
    link = route = mount = ""
    hostname = os.uname().nodename
    if not machine:
        hostname = nonce("bench")
        kernel.sethostname(hostname)
        mount = os.path.join(scratch, nonce())
        os.mkdir(mount)
        kernel.mount("canary", mount, "tmpfs", data="size=64k")
        link, route = _plant_network()
    return Canaries(
        secret,
        directory,
        file,
        mount,
        link,
        route,
        hostname,
        abstract,
        port,
        kernel.shm_create(secret.encode()),
    )


def _plant_network() -> tuple[str, str]:
    """Give this network namespace a link, an address, a default route, and a canary route."""
    from pyroute2 import IPRoute

    link = f"cn{secrets.token_hex(4)}"
    canary = f"{ROUTES}.{128 + secrets.randbelow(120)}"
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        ip.link("add", ifname=link, kind="veth", peer={"ifname": f"{link}p"})
        index = ip.link_lookup(ifname=link)[0]
        ip.addr("add", index=index, address=f"{ROUTES}.2", prefixlen=25)
        for end in (index, ip.link_lookup(ifname=f"{link}p")[0]):
            ip.link("set", index=end, state="up")
        ip.route("add", dst="default", gateway=f"{ROUTES}.1")
        ip.route("add", dst=f"{canary}/32", oif=index)
    return link, canary
