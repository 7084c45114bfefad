"""Whoever looks after a container: the process that its caller waits for, or one of its own.

There is no daemon. Each container in the background has one small process, which has the other
ends of its pipes or its terminal, keeps its logs, reaps it, notes how it ended, starts it again
where its policy says so, and takes away what was made for it. It dies with nobody, and if it is
killed the container dies, too: none is ever left alone.
"""

from __future__ import annotations

import os
import time

from stages import linux
from stages.command_line import note
from stages.linux import SIGCHLD, SIGKILL
from stages.stage1_chroot.process import INSIST, PASSED_ON
from stages.stage3_cgroups.v1 import GroupV1
from stages.stage3_cgroups.v2 import GroupV2
from stages.stage5_container.door import Door, Visitor
from stages.stage5_container.loop import IN, Loop, Writer
from stages.stage5_container.more.devices import DeviceGroup
from stages.stage5_container.more.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from stages.stage3_cgroups.cgroup import ControlGroup
    from stages.stage3_cgroups.more.usage import Usage
    from stages.stage5_container.loop import Sink
    from stages.stage5_container.network import Plug
    from stages.stage5_container.options import Contained
    from stages.stage5_container.state import State

FIRST, LONGEST = 0.1, 60.0
"""Seconds before the first start again, which double each time; and the most. Docker's."""
PATIENCE = 2.0
"""Seconds that a visitor may take to hear of the end."""
SETTLED = 10.0
"""Seconds after which a command counts as one that runs: the next pause is the first again."""


class Monitor:
    """The caller's process, as long as the container runs: its streams are the command's."""

    def __init__(self, container: Contained) -> None:
        """Take the container; it is not made yet."""
        self.container, self.loop = container, Loop()
        self.sinks: list[Sink] = []
        self.feed: Writer | None = None
        self.ahead, self.fed, self.at_end = b"", False, False
        self.window: Callable[[int, int], None] | None = None
        self.size = (0, 0)
        self.signals, self.restarts, self.pause = -1, 0, FIRST
        self.ever_begun, self.begun_at, self.unwanted = False, 0.0, False
        self.facts: dict[str, Any] = {}
        self.visitors: list[Visitor] = []
        self.sender: Callable[[int], None] | None = None

    def now(self) -> float:
        """Return a time in seconds that only goes on."""
        return time.monotonic()

    # ---- what the caller has to do with it

    def relays(self) -> bool:
        """Return whether the command's output comes by here: for logs, or to spare a terminal.

        With --rm there will be nobody to ask for logs: then the streams are the caller's own.
        """
        return not self.container.remove or any(os.isatty(fd) for fd in (0, 1, 2))

    def stdin(self) -> str:
        """Return what the command's stdin is: "own", the caller's own; a "pipe"; or "nothing".

        A caller's terminal is never handed on: the command would be in another session of it.
        """
        return "pipe" if os.isatty(0) else "own"

    def look_after(self, state: State) -> None:
        """Take charge of a container that has its place in the store."""
        self.state = state
        self.door = Door(self, state.folder)
        self.be_ready()
        if not self.container.remove:
            self.sinks.append(Log(state.folder, self.container.log))

    def be_ready(self) -> None:
        """Have signals come by the loop, and the caller's streams."""
        self.signals = linux.signalfd(PASSED_ON | {SIGCHLD})
        self.meet()

    def meet(self) -> None:
        """Have the caller's streams carried."""
        if self.relays() or self.container.tty:
            self.sinks.append(Caller(self.loop))
        if self.stdin() == "pipe":
            self.loop.watch(0, IN, self.type)

    def type(self) -> None:
        """Hand on what comes from the caller's stdin."""
        if self.feed and self.feed.full:
            return
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""  # EIO: the terminal has been hung up
        if data:
            self.put(data)
        else:
            self.loop.forget(0)
            self.put_end()

    def flush(self) -> None:
        """Wait until the caller has all that was written; or wants no more of it."""
        self.unwanted_rest = False
        self.loop.watch(self.signals, IN, self.tire)
        callers = [sink for sink in self.sinks if isinstance(sink, Caller)]
        while any(caller.waiting for caller in callers) and not self.unwanted_rest:
            self.loop.turn()
        self.loop.forget(self.signals)

    def tire(self) -> None:
        """Give up the rest: a signal that would have ended the command ends the waiting for it."""
        if linux.read_signal(self.signals) not in (SIGCHLD, linux.SIGWINCH):
            self.unwanted_rest = True

    def insist(self, child: int) -> None:
        """Say that the command is going to be killed."""
        note(f"second SIGINT within {INSIST:g} s: killing process {child}, asked twice")

    def window_changed(self) -> bool:
        """Return whether a change of the caller's window is told otherwise than by a signal."""
        return False

    # ---- what is typed

    def put(self, data: bytes) -> None:
        """Have the command read it, also what is typed before there is one."""
        if self.feed:
            self.feed.put(data)
        elif not self.fed:
            self.ahead += data

    def put_end(self) -> None:
        """Have the command come to the end of its stdin."""
        self.at_end = True
        if self.feed:
            self.feed.end()

    def feed_from(self, feed: Writer | None) -> None:
        """Take where the command reads from; None where it doesn't any more."""
        self.feed = feed
        if feed and not self.fed:
            self.fed = True
            feed.put(self.ahead)
        if feed and self.at_end and not self.container.tty:
            feed.end()

    # ---- what visitors have to do with it

    def resize(self, rows: int, columns: int) -> None:
        """Have the command's window be of that size, now and when it is started again."""
        self.size = (rows, columns)
        if self.window:
            self.window(rows, columns)

    def send(self, signum: int) -> None:
        """Hand a signal on to the command."""
        if self.sender:
            self.sender(signum)

    def give_up(self) -> None:
        """End the command, for good: who wanted it is dead."""
        self.unwanted = True
        self.send(SIGKILL)

    # ---- its life

    def made(self, group: ControlGroup, plug: Plug) -> None:
        """Take note of what belongs to it, which others will look for."""
        self.facts = {"groups": places(group), "address": plug.address, "link": plug.name}
        self.facts["stop_signal"] = self.container.signal_to_stop()

    def begun(self, child: int) -> None:
        """Take note that its command runs."""
        self.ever_begun, self.begun_at = True, self.now()
        told = {"restarts": self.restarts, "error": "", "oom_killed": False, **self.facts}
        self.state.started(child, **told)

    def counted(self, usage: Usage) -> None:
        """Take note of what the kernel has counted: whether it killed somebody for memory."""
        if usage.oom_kills:
            self.state.note(oom_killed=True)

    def failed(self, status: int) -> None:
        """Take note that it could not be run."""
        self.state.note(error=f"it could not be started: status {status}")

    def wants_again(self, status: int) -> bool:
        """Note how the command ended; wait, and return True where it is to be run again."""
        policy, tries = self.container.restart, self.container.tries
        again = policy in ("always", "unless-stopped")
        again |= policy == "on-failure" and status != 0 and (not tries or self.restarts < tries)
        if not again or not self.ever_begun or self.unwanted or self.state.unwanted:
            return False
        if self.now() - self.begun_at > SETTLED:
            self.pause = FIRST
        self.state.ended(status, again=True, restarts=self.restarts)
        wanted = self.rest(self.pause)
        self.pause = min(self.pause * 2, LONGEST)
        self.restarts += wanted
        return wanted

    def rest(self, seconds: float) -> bool:
        """Wait so long; return False as soon as somebody wants its end."""
        until = self.now() + seconds
        self.loop.watch(self.signals, IN, self.heed)
        while self.now() < until and not (self.unwanted or self.state.unwanted):
            self.loop.turn(until - self.now())
        self.loop.forget(self.signals)
        return not (self.unwanted or self.state.unwanted)

    def heed(self) -> None:
        """End the pause: there is no command to have the signal."""
        self.unwanted |= linux.read_signal(self.signals) not in (SIGCHLD, linux.SIGWINCH)

    def over(self, status: int) -> None:
        """Tell all who wait how it has ended; nothing of it is left but what was to stay."""
        self.door.close()
        for visitor in list(self.visitors):
            visitor.tell(b"x%d" % status)
        until = self.now() + PATIENCE
        while any(visitor.waiting for visitor in self.visitors) and self.now() < until:
            self.loop.turn(until - self.now())


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
        self.caller.tell(b"r" + self.state.id.encode())
        linux.setsid()
        # Whoever reads what the caller writes waits for the last that could write it.
        leave_streams()
        linux.chdir("/")


def leave_streams() -> None:
    """Have /dev/null for the streams that were the caller's."""
    null = linux.open_file("/dev/null", linux.O_RDWR | linux.O_CLOEXEC)
    for fd in (0, 1, 2):
        linux.dup2(null, fd)
    os.close(null)


class Caller:
    """The caller's stdout and stderr."""

    def __init__(self, loop: Loop) -> None:
        """Write there whenever they take it."""
        self.writers = {1: Writer(loop, 1), 2: Writer(loop, 2)}

    @property
    def full(self) -> bool:
        """Return whether the caller has to catch up first."""
        return any(writer.full for writer in self.writers.values())

    @property
    def waiting(self) -> bool:
        """Return whether something is still to be written."""
        return any(writer.waiting for writer in self.writers.values())

    def deaf(self, stream: int) -> bool:
        """Return whether whoever read it has gone, as head(1) does."""
        return self.writers[stream].broken

    def take(self, stream: int, data: bytes) -> None:
        """Take what the command wrote."""
        self.writers[stream].put(data)


def places(group: ControlGroup) -> dict[str, Any]:
    """Return where a control group is: for each controller of v1, and "" for v2."""
    found: dict[str, str] = {}
    for part in group.parts:
        if isinstance(part, GroupV1):
            found.update(part.paths)
        elif isinstance(part, GroupV2) and part.path:
            found[""] = part.path
        elif isinstance(part, DeviceGroup) and part.path:
            found["devices"] = part.path
    return found
