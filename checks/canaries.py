"""Canaries: things on the bench that a container must not be able to reach.

All are made afresh and named at random, so that no runtime can know them beforehand.
"""

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any

from checks import kernel

ROUTES = "198.51.100"
"""TEST-NET-2 (RFC 5737): addresses that belong to nobody."""


def nonce(prefix: str = "canary") -> str:
    """Return a name that nobody has used or can guess."""
    return f"{prefix}-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Canaries:
    """Where the canaries of one bench are. What is "" or -1 is not there.

    `file`, `private` (for root alone) and `posix_shm` are files on the bench, outside ROOT, that
    hold `secret`; `directory` is where the first two are. `process` is a pid as the judge numbers
    it. `shm` and `msg` are the ids of a System V segment and of a queue, and hold `secret`; `sem`
    is the id of a semaphore with the value `semaphore`. `mqueue` is the name of a POSIX queue,
    `abstract` of a listening socket; `port` is a TCP listener on the bench's 127.0.0.1.
    """

    secret: str
    directory: str
    file: str
    private: str
    mount: str
    link: str
    route: str
    hostname: str
    abstract: str
    port: int
    shm: int
    domainname: str
    sem: int = -1
    semaphore: int = -1
    msg: int = -1
    mqueue: str = ""
    posix_shm: str = ""
    process: int = 0


def plant(scratch: str, *, machine: bool) -> Canaries:
    """Plant canaries around the calling process, which keeps those alive that need a process.

    On a `machine` that is somebody's own, what would be seen by others (links, routes, mounts, the
    host name) is left alone, and what would outlive a judge that is killed (queues, semaphores).
    """
    secret = nonce("secret")
    directory = os.path.join(scratch, nonce())
    os.mkdir(directory, 0o755)
    file = _write(os.path.join(directory, nonce()), secret, 0o644)
    private = _write(os.path.join(directory, nonce("private")), secret, 0o600)
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = nonce()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"\0{abstract}")
    unix.listen()
    # They live as long as the process that planted them.
    listener_fd, _ = listener.detach(), unix.detach()
    port: int = socket.socket(fileno=os.dup(listener_fd)).getsockname()[1]
    link = route = mount = ""
    hostname, domainname = os.uname().nodename, kernel.getdomainname()
    lasting: dict[str, Any] = {}
    if not machine:
        hostname = nonce("bench")
        domainname = nonce("domain")
        kernel.sethostname(hostname)
        kernel.setdomainname(domainname)
        mount = os.path.join(scratch, nonce())
        os.mkdir(mount)
        kernel.mount("canary", mount, "tmpfs", data="size=64k")
        link, route = _plant_network()
        lasting = _plant_ipc(secret)
    return Canaries(
        secret,
        directory,
        file,
        private,
        mount,
        link,
        route,
        hostname,
        abstract,
        port,
        kernel.shm_create(secret.encode()),
        domainname,
        **lasting,
    )


def _write(file: str, secret: str, mode: int) -> str:
    """Write the secret to a new file of that mode, whatever the umask; return its path."""
    with open(file, "x", encoding="ascii") as canary:
        os.fchmod(canary.fileno(), mode)
        canary.write(secret)
    return file


def _plant_ipc(secret: str) -> dict[str, Any]:
    """Leave in this ipc namespace, and in /dev/shm, what outlives the process that made it."""
    value = 1 + secrets.randbelow(32767)  # SEMVMX, semop(2)
    queue = f"/{nonce()}"
    kernel.mq_create(queue)
    return {
        "sem": kernel.sem_create(value),
        "semaphore": value,
        "msg": kernel.msg_create(secret.encode()),
        "mqueue": queue,
        "posix_shm": _write(f"/dev/shm/{nonce()}", secret, 0o666),
    }


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
