"""`rm`: a container goes, with all that it wrote."""

from __future__ import annotations

import errno
import os
import time

from stages.linux import SIGKILL
from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.more.aside import step_aside
from stages.stage4_overlayfs.options import Stacked
from stages.stage5_container.more.lookup import find, wait_for_end
from stages.stage5_container.more.stop import PATIENCE, hurry, known, see_end
from stages.stage5_container.more.verb import MANY, Verb, each
from stages.stage5_container.more.volumes import discard
from stages.stage5_container.state import LIVE, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.state import State


PAUSE = 0.05
"""Seconds until it is looked whether another has removed it."""


def rm(store: Store, operands: Sequence[str], options: Options) -> int:
    """Remove containers; with --force those, too, that run."""
    own_mounts()
    force = "--force" in options
    going = hurry(store, operands, 0, SIGKILL) if force else {}

    def away(word: str) -> None:
        state, facts = going.get(word) or known(store, word)
        if word in going:
            see_end(state, facts)
        volumes = "--volumes" in options
        if force:
            remove_with_others(state, volumes=volumes)
            return
        facts = state.facts()
        if facts["status"] not in LIVE:
            wait_for_end(facts, PATIENCE)
        remove(state, volumes=volumes)

    status = each(operands, away)
    # As Docker has it: what was to be gone is gone, whoever has removed it.
    return 0 if force and all(is_gone(store, word) for word in operands) else status


def remove_with_others(state: State, *, volumes: bool) -> None:
    """Remove a container whose monitor may be at it, with --rm, or another `rm`; or see it gone."""
    until = time.monotonic() + PATIENCE
    while os.path.isdir(state.folder):
        try:
            remove(state, volumes=volumes)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT) or time.monotonic() > until:
                raise
            if state.facts()["status"] in LIVE and error.errno == errno.EBUSY:
                raise  # somebody has started it again
            time.sleep(PAUSE)


def is_gone(store: Store, word: str) -> bool:
    """Return whether there is no container that is called so."""
    try:
        return not find(store, word)
    except FileNotFoundError:
        return True


def remove(state: State, *, volumes: bool = False) -> None:
    """Remove a container that doesn't run; with `volumes` those, too, that nobody has named."""
    # One of stage 4's, or half made, has no config, and no volumes.
    asked = read(f"{state.folder}/config.json")
    unwanted = asked.get("anonymous", ()) if volumes or "--rm" in asked.get("options", ()) else ()
    containers.remove(state.store, state.id)
    for name in unwanted:
        discard(state.store, name)


def own_mounts() -> None:
    """Have mounts of our own; an ordinary user's files are root's in a namespace of the user's."""
    container = Stacked(["/", "?"], {})
    container.namespaces |= {"user"} if container.rootless else set()
    step_aside(container)


VERBS = {
    "rm": Verb(
        "CONTAINER...", 1, MANY, "remove containers",
        [("-f", "--force", "", "also those that run: they are killed"),
         ("-v", "--volumes", "", "and its volumes that nobody has named")], rm,
    ),
}  # fmt: skip
