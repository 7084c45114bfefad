"""`create`, `start`, `restart`, `attach`: a container that is there before it runs, and after."""

from __future__ import annotations

import contextlib
import errno

from stages.command_line import FAILED, note
from stages.stage4_overlayfs.more.aside import step_aside
from stages.stage5_container.more import attach as other_side
from stages.stage5_container.more.begin import begin
from stages.stage5_container.more.lookup import find, made_again, running, wait_for_end
from stages.stage5_container.more.stop import PATIENCE, end
from stages.stage5_container.more.verb import MANY, Verb, last, line_of, say
from stages.stage5_container.options import whole
from stages.stage5_container.stack import Stack
from stages.stage5_container.state import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.options import Contained


def create(container: Contained) -> int:
    """Make a container that doesn't run yet; say its ID."""
    step_aside(container)
    container.keep = True
    with Stack(container) as stack:
        stack.state.note(status="created")
        say(stack.id)
    return 0


def start(store: Store, operands: Sequence[str], options: Options) -> int:
    """Start containers that don't run."""
    together = "--attach" in options or "--interactive" in options
    if together and len(operands) > 1:
        raise ValueError("--attach: one container at a time")
    status = 0
    for word in operands:
        try:
            ended = start_one(store, word, together=together)
        except (OSError, ValueError) as error:
            note(line_of(error))
            ended = FAILED
        status = status or ended
    return status


def start_one(store: Store, word: str, *, together: bool = False) -> int:
    """Start one, in the background; or be its caller until it ends."""
    state = find(store, word)
    container = made_again(state)
    with contextlib.suppress(OSError):
        running(state)
        if not together:
            say(word)
            return 0  # as Docker has it: what is wanted is so
    facts = state.facts()
    if facts["status"] not in LIVE:
        wait_for_end(facts, PATIENCE)  # its last monitor may still be tidying up
    state.want(True)
    container.detach = not together
    return begin(container, called=word)


def restart(store: Store, operands: Sequence[str], options: Options) -> int:
    """End containers, and start them again."""
    grace = last(options, "--time")
    status = 0
    for word in operands:
        try:
            end(find(store, word), grace=whole("--time", grace) if grace else None)
            status = start_one(store, word) or status
        except (OSError, ValueError) as error:
            note(line_of(error))
            status = FAILED
    return status


def attach(store: Store, operands: Sequence[str], _: Options) -> int:
    """Come to a running container's streams."""
    state = find(store, operands[0])
    container = made_again(state)
    running(state)
    tty, interactive = container.tty, container.interactive
    status = other_side.attach(state.folder, tty=tty, interactive=interactive)
    if status is None:
        raise OSError(errno.ESRCH, "it has just ended", operands[0])
    return status


VERBS = {
    "start": Verb(
        "CONTAINER...", 1, MANY, "start containers that don't run",
        [("-a", "--attach", "", "be its caller, until it ends"),
         ("-i", "--interactive", "", "the same, and type")], start,
    ),
    "restart": Verb(
        "CONTAINER...", 1, MANY, "end containers, and start them again",
        [("-t", "--time", "SECONDS", "how long until it is killed (10)")], restart,
    ),
    "attach": Verb("CONTAINER", 1, 1, "see what it writes, and type", [], attach),
}  # fmt: skip
