"""Peers: adapters for programs that nobody here wrote, so that the same questions reach them."""

import shutil
from collections.abc import Mapping

from checks.peers import dockerd
from checks.peers.docker import Docker
from checks.peers.oci import Crun, Runc
from checks.peers.plain import Bwrap, Chroot, Host, Unshare
from checks.peers.podman import Podman
from checks.runtimes import Runtime, Unsupported
from checks.words import say

PEERS: Mapping[str, type[Runtime]] = {
    "host": Host,
    "chroot": Chroot,
    "unshare": Unshare,
    "bwrap": Bwrap,
    "runc": Runc,
    "crun": Crun,
    "docker": Docker,
    "podman": Podman,
}


def missing(name: str) -> list[str]:
    """Return which programs a peer lacks here."""
    if name == "docker":
        return dockerd.missing()
    return [] if name == "host" or shutil.which(name) else [name]


def runtime(command: str) -> Runtime:
    """Return the runtime for `--runtime`: `@PEER`, or a command line.

    Raises ValueError for a peer that nobody knows, Unsupported for one that is not installed.
    """
    if not command.startswith("@"):
        return Runtime(command)
    name = command[1:]
    if name not in PEERS:
        peers = ", ".join(f"@{peer}" for peer in PEERS)
        raise ValueError(say("runtime.no_peer", peer=command, peers=peers))
    if lacking := missing(name):
        raise Unsupported(say("runtime.not_installed", program=", ".join(lacking)))
    return PEERS[name](command)
