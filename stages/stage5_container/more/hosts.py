"""/etc/hosts, /etc/hostname and /etc/resolv.conf: files of the container's, outside of its image.

    containers/ID/hosts, hostname, resolv.conf    in the store

They are mounted on the image's. A mount is of a file, not of a name: one that is replaced by a
rename stays as it was inside. So they are written in place.
"""

from __future__ import annotations

import os

from stages import linux
from stages.light import read_text
from stages.netlink import ipv4
from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage5_container.more.seam import Wired

FILES = ("hosts", "hostname", "resolv.conf")
"""What `rm` has to remove of a container's folder."""
LOCAL = (
    # as Docker has them; the names of the groups are Debian's
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)
BEHIND_RESOLVED = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved says whom it asks itself: its own address is the host's 127.0.0.53."""
GATEWAY = "host-gateway"
"""What stands for the host's own address on the bridge, in --add-host."""


def path_of(container: Wired, name: str) -> str:
    """Return where one of the files is: with another's network it is that container's, too."""
    folder = container.folder
    if is_shared(container):
        other = containers.find(Store(container.store), container.network.partition(":")[2])
        folder = f"{os.path.dirname(folder)}/{other}"
    return f"{folder}/{name}"


def is_shared(container: Wired) -> bool:
    """Return whether a container has the network of another, and so its files."""
    return container.network.startswith("container:")


def write(container: Wired, address: str) -> dict[str, str]:
    """Write the files; return where each is, by where it is to be inside."""
    if not is_shared(container):
        # Once it is plugged in, others of its network may be there already (more/switchboard.py).
        if not (address and os.path.exists(path_of(container, "hosts"))):
            rewrite(path_of(container, "hosts"), own_lines(container, address))
        rewrite(path_of(container, "hostname"), [container.hostname or os.uname().nodename])
        rewrite(path_of(container, "resolv.conf"), resolvers(container))
    places = {f"etc/{name}": path_of(container, name) for name in FILES}
    return {target: path for target, path in places.items() if os.path.exists(path)}


def own_lines(container: Wired, address: str) -> list[str]:
    """Return what stands in /etc/hosts whoever else is there."""
    lines = read_lines("/etc/hosts") if container.network == "host" else [*LOCAL]
    for text in container.hosts:
        name, at = host(text)
        if at == GATEWAY:
            at = f"{address.rpartition('.')[0]}.1" if address else ""
        if at:
            lines.append(f"{at}\t{name}")
    if address and container.hostname:
        lines.append(f"{address}\t{container.hostname}")
    return lines


def host(text: str) -> tuple[str, str]:
    """Return name and address of NAME:ADDRESS, or NAME=ADDRESS; raise ValueError."""
    name, equals, at = text.partition("=") if "=" in text else text.partition(":")
    if not equals or not name or not at or any(c.isspace() or c == "#" for c in text):
        raise ValueError(f"--add-host {text}: say NAME:ADDRESS")
    if ":" not in at and at != GATEWAY:
        ipv4(at)
    return name, at


def resolvers(container: Wired) -> list[str]:
    """Return the lines of /etc/resolv.conf: the host's, as far as they make sense in there.

    See resolv.conf(5).
    """
    if container.dns:
        return [f"nameserver {server(address)}" for address in container.dns]
    lines = read_lines("/etc/resolv.conf")
    if container.network == "host":
        return lines
    servers = [line for line in lines if line.startswith("nameserver")]
    if servers and not any(map(reachable, servers)) and os.path.exists(BEHIND_RESOLVED):
        lines = read_lines(BEHIND_RESOLVED)
    kept = [line for line in lines if not line.startswith("nameserver") or reachable(line)]
    if not any(line.startswith("nameserver") for line in kept):
        # Docker names Google's here. Whom to tell what is looked up is not ours to choose.
        kept.append("# the host has no nameserver that can be reached from here: say --dns ADDRESS")
    return kept


def server(address: str) -> str:
    """Return the address of a nameserver; raise ValueError for what is none."""
    if ":" in address:
        raise ValueError(f"--dns {address}: containers have IPv4 alone: say an IPv4 address")
    ipv4(address)
    return address


def reachable(line: str) -> bool:
    """Return whether a nameserver is one for others, too: 127.0.0.1 is another place in there."""
    words = line.split()
    if len(words) < 2:
        return False
    # Containers have IPv4 alone.
    return not words[1].startswith("127.") and ":" not in words[1]


def read_lines(path: str) -> list[str]:
    """Return the lines of a file, none where it isn't there."""
    try:
        return read_text(path).splitlines()
    except FileNotFoundError:
        return []


def rewrite(path: str, lines: Sequence[str]) -> None:
    """Write a file in place, so that whoever has it mounted sees it; made where it isn't there."""
    text = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
    flags = linux.O_RDWR | linux.O_CREAT | linux.O_NOFOLLOW | linux.O_CLOEXEC
    fd = linux.open_file(path, flags, 0o644)
    try:
        # The container writes it, too, and may have made it endless.
        if os.pread(fd, len(text) + 1, 0) == text:
            return
        # Whole before it is cut: who reads meanwhile finds no empty file.
        linux.write(fd, text)
        os.ftruncate(fd, len(text))
    finally:
        os.close(fd)
