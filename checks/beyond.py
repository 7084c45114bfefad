"""Beyond the bench: another machine, that the bench is connected to, and that knows no way back.

It is a network namespace with one link. The judge acts in it by its sockets, which belong to the
network that they were made in, whoever holds them.
"""

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

from checks import kernel
from checks.bench import Bench

T = TypeVar("T")

BENCH, BEYOND = "203.0.113.1", "203.0.113.2"
"""TEST-NET-3 (RFC 5737): addresses that belong to nobody."""
See = Callable[[Callable[[], None]], None]
"""What has a thing done in one network: a bench's `see_network`, or a container's."""


def socket_of(
    see: See, kind: socket.SocketKind, bound: tuple[str, int] | None = None
) -> socket.socket:
    """Return a socket of another network, which listens, or is bound, where that is asked for.

    Raises OSError.
    """
    ours, theirs = socket.socketpair()

    def make() -> None:
        with socket.socket(type=kind) as made:
            if bound:
                # Connections that have ended may linger, and are no reason. See ip(7).
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
                made.bind(bound)
                if kind == socket.SOCK_STREAM:
                    made.listen()
            socket.send_fds(theirs, [b"."], [made.fileno()])

    with ours, theirs:
        see(make)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    made = socket.socket(fileno=fd)
    made.settimeout(PATIENCE)
    return made


PATIENCE = 3.0
"""Seconds that an answer may take: all of this is one machine."""


class Beyond:
    """The other machine, as long as the block lasts."""

    def __init__(self, bench: Bench) -> None:
        """Take the bench that it is to be connected to."""
        self.bench = bench
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Make it. Raises OSError."""
        # The visitor's own imports would be looked for where it is.
        import pyroute2  # noqa: F401  # only loaded here

        link = f"bd{secrets.token_hex(4)}"
        ours, theirs = socket.socketpair()

        def make() -> None:
            from pyroute2 import IPRoute

            here = os.open("/proc/self/ns/net", os.O_RDONLY)
            kernel.unshare(kernel.CLONE_NEWNET)
            with IPRoute() as ip:
                ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
                peer = {"ifname": link, "net_ns_fd": here}
                ip.link("add", ifname="up", kind="veth", peer=peer)
                index = ip.link_lookup(ifname="up")[0]
                ip.addr("add", index=index, address=BEYOND, prefixlen=24)
                ip.link("set", index=index, state="up")
            socket.send_fds(theirs, [b"."], [os.open("/proc/self/ns/net", os.O_RDONLY)])

        def connect() -> None:
            from pyroute2 import IPRoute

            with IPRoute() as ip:
                index = ip.link_lookup(ifname=link)[0]
                ip.addr("add", index=index, address=BENCH, prefixlen=24)
                ip.link("set", index=index, state="up")

        with ours, theirs:
            self.bench.see_network(make)
            _, (self._namespace,), _, _ = socket.recv_fds(ours, 1, 1)
        self._open.callback(os.close, self._namespace)
        try:
            self.bench.see_network(connect)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it go: the kernel takes it away, with both ends of the link."""
        self._open.close()

    def see_network(self, look: Callable[[], T]) -> T:
        """Return what `look()` returns in its network."""

        def go() -> T:
            kernel.setns(self._namespace, kernel.CLONE_NEWNET)
            return look()

        return self.bench.see_network(go)
