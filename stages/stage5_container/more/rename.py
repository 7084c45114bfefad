"""`rename`: a container is called something else, also while it runs."""

from __future__ import annotations

import errno
import os
from importlib import import_module

from stages import linux
from stages.stage4_overlayfs import containers
from stages.stage5_container.more.lookup import find
from stages.stage5_container.more.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options


def rename(store: Store, operands: Sequence[str], _: Options) -> int:
    """Give a container another name."""
    word, name = operands
    if not containers.is_name(name):
        raise ValueError(f"{name}: say letters, digits and _ . - (two at least)")
    state = find(store, word)
    before = state.name
    with containers.alone(store):
        if holder := containers.called(store, name):
            raise FileExistsError(errno.EEXIST, f"container {holder} has this name", name)
        draft = f"{state.folder}/.name.{os.getpid()}"
        with open(draft, "x", encoding="ascii") as file:
            file.write(name)
        linux.rename(draft, f"{state.folder}/name")
    if state.facts()["link"]:
        import_module("stages.stage5_container.more.switchboard").rename(state.id, before, name)
    return 0


VERBS = {"rename": Verb("CONTAINER NAME", 2, 2, "give it another name", [], rename)}
