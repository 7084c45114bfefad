"""Whoever looks after a container: the process that its caller waits for, or one of its own.

There is no daemon. Each container in the background has one small process, which has the other
ends of its pipes or its terminal, keeps its logs, reaps it, notes how it ended, starts it again
where its policy says so, and takes away what was made for it. It dies with nobody, and if it is
killed the container dies, too: none is ever left alone.
"""

from __future__ import annotations

from stages import linux
from stages.light import later
from stages.linux import SIGCHLD, SIGKILL
from stages.stage3_cgroups.v1 import GroupV1
from stages.stage3_cgroups.v2 import GroupV2
from stages.stage5_container.audience import Audience
from stages.stage5_container.door import Door
from stages.stage5_container.loop import IN
from stages.stage5_container.more.devices import DeviceGroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stages.stage3_cgroups.cgroup import ControlGroup
    from stages.stage3_cgroups.more.usage import Usage
    from stages.stage5_container.more import log
    from stages.stage5_container.network import Plug
    from stages.stage5_container.options import Contained
    from stages.stage5_container.state import State
else:
    log = later("stages.stage5_container.more.log")

FIRST, LONGEST = 0.1, 60.0
"""Seconds before the first start again, which double each time; and the most. Docker's."""
PATIENCE = 2.0
"""Seconds that a visitor may take to hear of the end."""
SETTLED = 10.0
"""Seconds after which a command counts as one that runs: the next pause is the first again."""


class Monitor(Audience):
    """The caller's process, as long as the container runs: its streams are the command's."""

    def __init__(self, container: Contained) -> None:
        """Take the container; it is not made yet."""
        super().__init__(container)
        self.restarts, self.pause = 0, FIRST
        self.ever_begun, self.begun_at, self.unwanted = False, 0.0, False
        self.facts: dict[str, Any] = {}

    def look_after(self, state: State) -> None:
        """Take charge of a container that has its place in the store."""
        self.state = state
        self.door = Door(self, state.folder)
        self.be_ready()
        if not self.container.remove:
            self.sinks.append(log.Log(state.folder, self.container.log))

    def give_up(self) -> None:
        """End the command, for good: who wanted it is dead."""
        self.unwanted = True
        self.send(SIGKILL)

    # ---- its life

    def made(self, group: ControlGroup, plug: Plug) -> None:
        """Take note of what belongs to it, which others will look for."""
        self.facts = {"groups": places(group), "address": plug.address, "link": plug.name}
        self.facts["ports"] = plug.ports
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
            visitor.hear_out()
        until = self.now() + PATIENCE
        while any(visitor.waiting for visitor in self.visitors) and self.now() < until:
            self.loop.turn(until - self.now())


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
