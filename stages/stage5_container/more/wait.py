"""`wait`: until a container ends, whatever becomes of it then."""

from __future__ import annotations

import contextlib
import errno
import os

from stages.command_line import FAILED, note
from stages.stage5_container.door import PACKET, knock
from stages.stage5_container.more.lookup import find, wait_for_end
from stages.stage5_container.more.verb import MANY, Verb, line_of, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.state import State


def wait(store: Store, operands: Sequence[str], _: Options) -> int:
    """Wait for each to end, and say its exit status."""
    status = 0
    for word in operands:
        try:
            say(str(end_of(find(store, word))))
        except OSError as error:
            note(line_of(error))
            status = FAILED
    return status


def end_of(state: State) -> int:
    """Wait for a container to end; return its exit status."""
    # Whoever is inside before its end hears of it, also where the container goes with it (--rm).
    if door := knock(state.folder, b"W"):
        with contextlib.suppress(ConnectionResetError):
            while message := door.recv(PACKET + 1):
                if message[:1] == b"x":
                    wait_for_end(state.facts())
                    return int(message[1:])
    wait_for_end(state.facts())
    if not os.path.isdir(state.folder):
        raise OSError(errno.ENOENT, "it is gone, and how it ended nobody knows", state.id)
    return int(state.facts()["exit_code"])


VERBS = {"wait": Verb("CONTAINER...", 1, MANY, "until they end; say how", [], wait)}
