"""The helper: a process beside the runtime that listens at its ports, and tidies up after it.

When the runtime is killed, its end of a pipe closes: then the helper takes the network down. What
it carries, and why, is the relay's (more/relay.py); without ports it only waits.
"""

from __future__ import annotations

import os

from stages import linux
from stages.light import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket

    from stages.stage5_container.more.publish import Port
    from stages.stage5_container.more.seam import Wired

    Doors = Sequence[tuple[Port, socket]]

RELAY = "stages.stage5_container.more.relay"


class Helper:
    """A child that lives as long as the runtime does."""

    def __init__(self, container: Wired, tidy: Callable[[str], None]) -> None:
        """Take the ports, and fork it; `tidy` is what it does where the runtime dies."""
        doors: Doors = []
        if container.publish:
            # Sockets take long to load, and most containers publish nothing.
            doors = import_module(RELAY).doors(container.publish)
        self.ports = [port for port, _ in doors]
        try:
            reader, self.writer = linux.pipe2(linux.O_CLOEXEC)
            self.pid = linux.fork()
            if self.pid == 0:
                help_out(reader, doors, lambda: tidy(os.path.basename(container.folder)))
            os.close(reader)
            linux.setpgid(self.pid, self.pid)
        finally:
            for _, listener in doors:
                listener.close()

    def lead_to(self, address: str) -> None:
        """Tell it where the container is."""
        linux.write(self.writer, f"{address}\n".encode())

    def dismiss(self) -> None:
        """End it: all is tidy."""
        linux.kill(self.pid, linux.SIGKILL)
        linux.waitid(self.pid, linux.WEXITED)
        os.close(self.writer)

    def take_over(self) -> None:
        """Have it tidy up, as though this process were dead; return when it has."""
        os.close(self.writer)
        linux.waitid(self.pid, linux.WEXITED)


def help_out(reader: int, doors: Doors, tidy: Callable[[], None]) -> None:
    """Be the helper, whatever happens."""
    try:
        # What ends a whole process group, as Ctrl-C does, must not end it.
        linux.setpgid(0, 0)
        linux.watch = None
        close_all_but(reader, *(listener.fileno() for _, listener in doors))
        address = b""
        while not address.endswith(b"\n") and (part := os.read(reader, 64)):
            address += part
        if address and doors:
            import_module(RELAY).Relay(reader, doors, address.decode().strip()).serve()
        elif address:
            os.read(reader, 1)
        tidy()
    finally:
        os._exit(0)


def close_all_but(*kept: int) -> None:
    """Close all others: who waits for the command's output waits for its last holder."""
    first = 0
    for fd in sorted(kept):
        if fd > first:
            linux.close_range(first, fd - 1)
        first = fd + 1
    linux.close_range(first, 0xFFFFFFFF)
