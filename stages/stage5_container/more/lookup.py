"""Which container is meant, and whether it runs."""

from __future__ import annotations

import errno
import os
import select

from stages import linux
from stages.stage4_overlayfs import containers
from stages.stage5_container.options import Contained
from stages.stage5_container.state import State, is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stages.stage4_overlayfs.store import Store


def find(store: Store, word: str) -> State:
    """Return a container by its name, its ID, or how that begins; or raise FileNotFoundError."""
    return State(store, containers.find(store, word))


def running(state: State) -> dict[str, Any]:
    """Return how it is; raise OSError, ESRCH, where it doesn't run."""
    facts = state.facts()
    if facts["status"] != "running" or not is_alive(facts):
        why = f"it doesn't run: `start {state.name or state.id}` starts it"
        raise OSError(errno.ESRCH, why, state.name or state.id)
    return facts


def made_again(state: State) -> Contained:
    """Return the container as it was asked for, to be started again."""
    saved = state.config()
    container = Contained(saved["operands"], saved["options"])
    container.saved["anonymous"] = container.anonymous = saved.get("anonymous", [])
    container.id, container.folder, container.name = state.id, state.folder, state.name
    container.store = state.store.root
    try:
        # What the image's name leads to may be another image by now.
        with open(f"{state.folder}/image", encoding="ascii") as file:
            container.image = file.read().strip()
    except FileNotFoundError:
        container.image = ""
    return container


def send(facts: dict[str, Any], signum: int, who: str = "pid") -> bool:
    """Send a signal to its command, or its monitor; return False where that is gone."""
    try:
        fd = linux.pidfd_open(facts[who] or -1)
    except (ProcessLookupError, OSError):
        return False
    try:
        # Its number may be another's by now; but what the descriptor stands for stays.
        if not is_alive(facts, who):
            return False
        linux.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def wait_for_end(facts: dict[str, Any], seconds: float | None = None) -> bool:
    """Wait until its monitor has ended, so that all is tidy; False where that takes longer.

    The command may have ended before, and be noted so: then the monitor is still tidying up.
    """
    if not is_alive(facts, "monitor"):
        return True
    try:
        fd = linux.pidfd_open(facts["monitor"])
    except ProcessLookupError:
        return True
    try:
        if not is_alive(facts, "monitor"):
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))
    finally:
        os.close(fd)
