"""A monitor that is a process of its own, which nobody waits for."""

from __future__ import annotations

from stages import linux
from stages.stage5_container.audience import leave_streams
from stages.stage5_container.door import Visitor
from stages.stage5_container.monitor import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from stages.stage5_container.options import Contained


class Background(Monitor):
    """A process of its own, which nobody waits for."""

    def __init__(self, container: Contained, caller: socket) -> None:
        """Take the container, and a socket to whoever has begun it."""
        super().__init__(container)
        self.caller = Visitor(self, caller)

    def relays(self) -> bool:
        """Return True: there is no other way for its output."""
        return True

    def stdin(self) -> str:
        """Return whether somebody may want to type."""
        return "pipe" if self.container.interactive else "nothing"

    def meet(self) -> None:
        """Do nothing: whoever wants the streams comes to the door."""

    def begun(self, child: int) -> None:
        """Take note that its command runs; from now on this process is by itself."""
        first = not self.ever_begun
        super().begun(child)
        if not first:
            return
        linux.setsid()
        # Whoever reads what the caller writes waits for the last that could write it.
        leave_streams()
        linux.chdir("/")
        self.caller.tell(b"r" + self.state.id.encode())
