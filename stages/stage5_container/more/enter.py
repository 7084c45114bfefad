"""`exec`: the command line of it."""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.command_line import failed, occupy_closed_streams
from stages.stage5_container.audience import leave_streams
from stages.stage5_container.execute import execute
from stages.stage5_container.monitor import Monitor
from stages.stage5_container.more.freeze import frozen
from stages.stage5_container.more.lookup import find, made_again, running
from stages.stage5_container.more.verb import MANY, Verb, last
from stages.stage5_container.options import variables
from stages.stage5_container.stack import config_of
from stages.stage5_container.terminal import Raw, window_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.options import Contained


class Guest(Monitor):
    """Whoever has said `exec`: its streams are the command's, and the container's life is not."""

    def __init__(self, container: Contained, told: int) -> None:
        """Take the container, and where to tell that the command runs; -1 for nobody."""
        super().__init__(container)
        self.told = told

    def relays(self) -> bool:
        """Return whether a terminal of the caller's has to be spared."""
        return self.told < 0 and any(os.isatty(fd) for fd in (1, 2))

    def stdin(self) -> str:
        """Return where stdin comes from: from nowhere unless it is asked for."""
        if not self.container.interactive or self.told >= 0:
            return "nothing"
        return "pipe" if os.isatty(0) or self.container.tty else "own"

    def meet(self) -> None:
        """Have the caller's streams carried, and the size of its window."""
        super().meet()
        self.resize(*window_of(0))

    def begun(self, child: int) -> None:
        """Tell that the command runs."""
        if self.told >= 0:
            leave_streams()
            linux.write(self.told, b"r")
            os.close(self.told)

    def failed(self, status: int) -> None:
        """Say nothing: the child has said why."""

    def window_changed(self) -> bool:
        """Tell the command's terminal of its new size; False where it has none."""
        if self.window:
            self.resize(*window_of(0))
        return bool(self.window)


def enter(store: Store, operands: Sequence[str], options: Options) -> int:
    """Run one more command in a container."""
    state = find(store, operands[0])
    facts = running(state)
    if frozen(facts):
        raise OSError(errno.EAGAIN, "it is paused: `unpause` it first", operands[0])
    container = asked_for(made_again(state), config_of(state), operands[1:], options)
    container.rights.prepare(store.root)
    occupy_closed_streams()
    if "--detach" in options:
        return execute_apart(container, facts)
    try:
        with Raw(0 if container.tty and container.interactive else -1):
            return execute(container, facts, Guest(container, -1))
    except OSError as error:
        failed(error, container)


def asked_for(
    container: Contained, config: dict[str, Any], command: Sequence[str], options: Options
) -> Contained:
    """Return the container with what is to be different for this command."""
    container.tty, container.interactive = "--tty" in options, "--interactive" in options
    container.settle(config)
    container.command = list(command)
    container.user = last(options, "--user") or container.user
    container.workdir = last(options, "--workdir") or container.workdir
    if not container.workdir.startswith("/") and container.workdir:
        raise ValueError(f"--workdir {container.workdir}: not an absolute path: say it from /")
    container.environment.update(variables(options))
    if container.user != (config.get("User") or "") and b"HOME" not in container.said:
        container.environment.pop(b"HOME", None)
    return container


def execute_apart(container: Contained, facts: dict[str, Any]) -> int:
    """Run the command in the background; return 0 once it runs."""
    reader, writer = linux.pipe2(linux.O_CLOEXEC)
    child = linux.fork()
    if child == 0:
        status = 125
        try:
            linux.setsid()
            os.close(reader)
            container.tty = False
            status = execute(container, facts, Guest(container, writer))
        except OSError as error:
            failed(error, container)
        finally:
            os._exit(status)
    os.close(writer)
    if linux.read(reader, 1):
        return 0
    ended = linux.waitid(child, linux.WEXITED)
    assert ended
    return ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)


VERBS = {
    "exec": Verb(
        "CONTAINER COMMAND [ARG...]", 2, MANY, "one more command in it",
        [("-d", "--detach", "", "in the background"),
         ("-e", "--env", "K=V", "set K in its environment"),
         ("", "--env-file", "FILE", "a line K=V for each variable"),
         ("-i", "--interactive", "", "with our stdin"),
         ("-t", "--tty", "", "with a terminal of its own"),
         ("-u", "--user", "USER[:GROUP]", "as this user"),
         ("-w", "--workdir", "DIR", "in DIR")], enter,
    ),
}  # fmt: skip
