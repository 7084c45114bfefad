"""`rm`: a container goes, with all that it wrote."""

from __future__ import annotations

import contextlib

from stages.linux import SIGKILL
from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.more.aside import step_aside
from stages.stage4_overlayfs.options import Stacked
from stages.stage5_container.more.lookup import find, wait_for_end
from stages.stage5_container.more.stop import PATIENCE, ask, end
from stages.stage5_container.more.verb import MANY, Verb, each
from stages.stage5_container.state import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options


def rm(store: Store, operands: Sequence[str], options: Options) -> int:
    """Remove containers; with --force those, too, that run."""
    own_mounts()

    if "--force" in options:
        # All at once, so that none waits for another's end.
        for word in operands:
            with contextlib.suppress(OSError):  # it is said below
                ask(find(store, word), SIGKILL)

    def away(word: str) -> None:
        state = find(store, word)
        if "--force" in options:
            end(state, grace=0)
        facts = state.facts()
        if facts["status"] not in LIVE:
            wait_for_end(facts, PATIENCE)
        containers.remove(store, state.id)

    return each(operands, away)


def own_mounts() -> None:
    """Have mounts of our own; an ordinary user's files are root's in a namespace of the user's."""
    container = Stacked(["/", "?"], {})
    container.namespaces |= {"user"} if container.rootless else set()
    step_aside(container)


VERBS = {
    "rm": Verb(
        "CONTAINER...", 1, MANY, "remove containers",
        [("-f", "--force", "", "also those that run: they are killed"),
         ("-v", "--volumes", "", "nothing: volumes have names here, and stay")], rm,
    ),
}  # fmt: skip
