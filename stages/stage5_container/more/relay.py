"""The relay: what no rule can carry, read here and written there.

It listens at each published port. So the port is taken, as far as the kernel knows, and another
program that wants it is told so. What comes from other machines never gets here: a rule leads it
to the container before (more/nft.py). What comes to 127.0.0.1 does: it can't be led elsewhere by
a rule. And so does what a container sends to its own port.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import time
from struct import Struct

from stages import linux
from stages.stage5_container.more.publish import Port, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = 1 << 16
"""Bytes that are read at a time, and held at most for one who is slow to take them."""
IDLE = 90.0
"""Seconds after which a UDP client that has gone silent is forgotten: as Docker's relay has it."""
CLIENTS = 4096
"""UDP clients that are remembered at most: each has a socket of its own."""
IP_PKTINFO, IN_PKTINFO = 8, Struct("=i4s4s")
"""See ip(7)."""
READ, WRITE = select.EPOLLIN, select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR


def doors(texts: Sequence[str]) -> list[tuple[Port, socket.socket]]:
    """Return what these -p options ask for, each door with a socket that listens there.

    Raises OSError where a port is another's, ValueError where an option makes no sense.
    """
    found: list[tuple[Port, socket.socket]] = []
    try:
        for port in ports([*texts]):
            listener = listen(port)
            # Where any port would do, the kernel has chosen one.
            found.append((port._replace(outside=listener.getsockname()[1]), listener))
    except BaseException:
        for _, listener in found:
            listener.close()
        raise
    return found


def listen(port: Port) -> socket.socket:
    """Return a socket that listens at a port of the host's; raise OSError where that can't be."""
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    made = socket.socket(socket.AF_INET, kind)
    try:
        if port.protocol == "tcp":
            # Connections of one that has ended may linger, and are no reason to wait. See ip(7).
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        words = f"bind({port.address}:{port.outside}/{port.protocol})"
        linux.request(words, made.bind, (port.address, port.outside))
        if port.protocol == "tcp":
            made.listen(socket.SOMAXCONN)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class Relay:
    """What goes between the host's ports and the container's, until the runtime is gone."""

    def __init__(
        self, alive: int, listeners: Sequence[tuple[Port, socket.socket]], address: str
    ) -> None:
        """Carry it to `address`; `alive` is a pipe that comes to its end with the runtime."""
        self.alive, self.address = alive, address
        self.poll = select.epoll()
        self.poll.register(alive, READ)
        self.doors = {listener.fileno(): (port, listener) for port, listener in listeners}
        self.ends: dict[int, End] = {}
        self.full: set[int] = set()
        """Listeners that nothing is taken from, for there are no descriptors left."""
        self.clients: dict[tuple[int, tuple[object, ...]], Client] = {}
        self.answers: dict[int, Client] = {}
        for fd in self.doors:
            self.poll.register(fd, READ)
        # Two descriptors a connection: as many as we may have.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def serve(self) -> None:
        """Do so."""
        while True:
            for fd, events in self.poll.poll(IDLE if self.clients else -1):
                if fd == self.alive:
                    return
                # One connection that fails is no reason to end the others.
                with contextlib.suppress(OSError):
                    self.act(fd, events)
            self.forget_the_silent()

    def act(self, fd: int, events: int) -> None:
        """Do what has become possible at a descriptor."""
        if fd in self.doors:
            port, listener = self.doors[fd]
            if port.protocol == "tcp":
                self.accept(port, listener)
            else:
                self.carry(port, listener)
        elif fd in self.answers:
            self.answers[fd].answer()
        elif fd in self.ends:
            self.move(self.ends[fd], events)

    # ---- TCP

    def accept(self, port: Port, listener: socket.socket) -> None:
        """Take a connection, and begin one to the container."""
        inner: socket.socket | None = None
        try:
            inner = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            outer, _ = listener.accept()
        except OSError as error:
            if inner:
                inner.close()
            if error.errno in (errno.EMFILE, errno.ENFILE) and self.ends:
                # Who comes now waits in the kernel's queue until another goes.
                self.poll.modify(listener.fileno(), 0)
                self.full.add(listener.fileno())
            raise
        for one in (outer, inner):
            one.setblocking(False)
            # What comes in small pieces is to go on in small pieces, at once. See tcp(7).
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        inner.connect_ex((self.address, port.inside))
        pair = End(outer), End(inner, connecting=True)
        pair[0].other, pair[1].other = pair[1], pair[0]
        for end in pair:
            self.ends[end.fd] = end
            self.poll.register(end.fd, 0)
            self.want(end)

    def move(self, end: End, events: int) -> None:
        """Read from an end, and write to it, what there is."""
        try:
            if end.connecting:
                if failure := end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(failure, os.strerror(failure))
                end.connecting = False
            if events & WRITE:
                end.flush()
            if events & ~WRITE and not end.finished and not end.other.pending:
                end.other.take(end.read())
        except BlockingIOError:
            pass
        except OSError:
            self.close(end)
            return
        if end.finished and end.other.finished and not (end.pending or end.other.pending):
            self.close(end)
            return
        self.want(end, ended=bool(events & ENDED))
        self.want(end.other)

    def want(self, end: End, *, ended: bool = False) -> None:
        """Say what is waited for at an end: room, where something is to go; else what comes."""
        events = WRITE if end.pending or end.connecting else 0
        # Who is slow to take keeps the other from sending: that is TCP's own way, passed on.
        if not (end.finished or end.other.pending or end.other.connecting or end.connecting):
            events |= READ
        if ended and not events:
            # The kernel goes on reporting that, whether or not anything is waited for.
            self.poll.unregister(end.fd)
            end.events = None
        elif end.events is None:
            if events:
                self.poll.register(end.fd, events)
                end.events = events
        elif events != end.events:
            self.poll.modify(end.fd, events)
            end.events = events

    def close(self, end: End) -> None:
        """End a connection, both halves of it."""
        for one in (end, end.other):
            self.ends.pop(one.fd, None)
            one.socket.close()
        for fd in self.full:
            self.poll.modify(fd, READ)
        self.full.clear()

    # ---- UDP

    def carry(self, port: Port, listener: socket.socket) -> None:
        """Take a datagram, and send it to the container from a socket of that client's."""
        data, told, _, sender = listener.recvmsg(PIECE, socket.CMSG_SPACE(IN_PKTINFO.size))
        # struct in_pktinfo: the link, the address to answer from, the one that it was sent to.
        _, asked, _ = IN_PKTINFO.unpack(told[0][2])
        key = listener.fileno(), (*sender, asked)
        client = self.clients.get(key)
        if not client:
            if len(self.clients) >= CLIENTS:
                self.drop(next(iter(self.clients)))
            inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            inner.setblocking(False)
            inner.connect((self.address, port.inside))
            client = self.clients[key] = Client(listener, sender, asked, inner)
            self.answers[inner.fileno()] = client
            self.poll.register(inner.fileno(), READ)
        client.heard = time.monotonic()
        client.inner.send(data)

    def forget_the_silent(self) -> None:
        """Close the sockets of clients from which nothing has come for long."""
        until = time.monotonic() - IDLE
        for key in [key for key, client in self.clients.items() if client.heard < until]:
            self.drop(key)

    def drop(self, key: tuple[int, tuple[object, ...]]) -> None:
        """Forget a client."""
        client = self.clients.pop(key)
        del self.answers[client.inner.fileno()]
        client.inner.close()


class End:
    """One end of a connection that is carried on."""

    other: End

    def __init__(self, made: socket.socket, *, connecting: bool = False) -> None:
        """Begin with nothing to write."""
        self.socket, self.fd, self.connecting = made, made.fileno(), connecting
        self.pending = b""
        self.finished = False
        """Nothing more comes from here."""
        self.events: int | None = 0
        """What is waited for; None: nothing, and it isn't listened to either."""

    def read(self) -> bytes:
        """Return what has come; b"" where nothing will any more."""
        data = self.socket.recv(PIECE)
        self.finished = not data
        return data

    def take(self, data: bytes) -> None:
        """Write it, as far as there is room; at the end, say so."""
        self.pending += data
        self.flush()

    def flush(self) -> None:
        """Write what is still to be written."""
        if self.pending:
            with contextlib.suppress(BlockingIOError):
                self.pending = self.pending[self.socket.send(self.pending) :]
        if not self.pending and self.other.finished:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                # The other side has gone already.
                if error.errno != errno.ENOTCONN:
                    raise


class Client:
    """Who sends datagrams to a port, and the socket by which the container answers."""

    def __init__(
        self, listener: socket.socket, sender: tuple[str, int], asked: bytes, inner: socket.socket
    ) -> None:
        """Begin now; `asked` is the address of the host's that the client knows."""
        self.listener, self.sender, self.asked, self.inner = listener, sender, asked, inner
        self.heard = time.monotonic()

    def answer(self) -> None:
        """Carry an answer back."""
        data = self.inner.recv(PIECE)
        self.heard = time.monotonic()
        # The host has several addresses, and a client listens to the one that it has asked.
        source = IN_PKTINFO.pack(0, self.asked, bytes(4))
        self.listener.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, self.sender)
