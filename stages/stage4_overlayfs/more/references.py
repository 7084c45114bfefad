"""What an image is called where others fetch it: REGISTRY/REPOSITORY:TAG@DIGEST, and the defaults.

The defaults are Docker's: `busybox` is docker.io/library/busybox:latest.
"""

from __future__ import annotations

from typing import NamedTuple

from stages.stage4_overlayfs.more.names import check_digest, full_name, shown

HUB, HUB_SERVER = "docker.io", "registry-1.docker.io"
"""Docker's own registry as people write it, and the host that answers for it."""


class Reference(NamedTuple):
    """An image in a registry; `tag` or `digest` is "" where it wasn't said, but never both."""

    host: str
    repository: str
    tag: str
    digest: str

    @property
    def server(self) -> str:
        """Return the host, with its port, that is asked."""
        return HUB_SERVER if self.host == HUB else self.host

    @property
    def meant(self) -> str:
        """Return what the registry is asked for: the digest, which can't come to mean another."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{self.host}/{self.repository}{tag}{digest}"


def reference_to(text: str) -> Reference:
    """Return what a person's words lead to; raise ValueError where they are no reference."""
    scheme, colon, rest = text.partition("://")
    if colon and scheme in ("http", "https", "docker", "oci"):
        raise ValueError(f"{shown(text)}: a name has no {scheme}:// before it: say {shown(rest)}")
    name, at, digest = text.partition("@")
    if at:
        check_digest(digest)
    place, _, tag = full_name(name).rpartition(":")
    if at and place == name:
        tag = ""  # nobody said `latest`
    first, slash, rest = place.partition("/")
    if not slash and is_host(place):
        raise ValueError(f"{text}: a registry, and no image of it: say {text}/NAME")
    host, repository = (first, rest) if slash and is_host(first) else (HUB, place)
    if host in (HUB, f"index.{HUB}"):
        host = HUB
        repository = repository if "/" in repository else f"library/{repository}"
    check_port(host)
    return Reference(host, repository, tag, digest)


def is_host(word: str) -> bool:
    """Return whether the first word of a name is a registry: as Docker tells it from a folder."""
    return "." in word or ":" in word or word == "localhost" or word != word.lower()


def check_port(host: str) -> None:
    """Raise ValueError where a host's port is none."""
    _, colon, port = host.rpartition("]")[2].partition(":")
    if colon and not (len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"{shown(host)}: {shown(port)} is not a port: say one from 1 to 65535")
