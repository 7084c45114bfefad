"""`pause`, `unpause`: the freezer stops every process where it stands, and none notices."""

from __future__ import annotations

import errno

from stages import linux
from stages.stage3_cgroups.more.files import read_word, wait_until
from stages.stage5_container.more.lookup import find, running
from stages.stage5_container.more.verb import MANY, Verb, each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options


def frozen(facts: dict[str, Any]) -> bool:
    """Return whether a container stands still. See the kernel's cgroup-v1/freezer-subsystem."""
    groups = facts["groups"]
    if path := groups.get("freezer"):
        return read_word(f"{path}/freezer.state") in ("FROZEN", "FREEZING")
    return bool(groups.get("")) and read_word(f"{groups['']}/cgroup.freeze") == "1"


def set_frozen(facts: dict[str, Any], still: bool) -> None:
    """Stop all its processes, or let them go on; return when they have."""
    groups = facts["groups"]
    if path := groups.get("freezer"):
        word = "FROZEN" if still else "THAWED"
        linux.write_file(f"{path}/freezer.state", word)
        wait_until(lambda: read_word(f"{path}/freezer.state") == word)
    elif path := groups.get(""):
        linux.write_file(f"{path}/cgroup.freeze", str(int(still)))
        wait_until(lambda: f"frozen {int(still)}" in read_word(f"{path}/cgroup.events"))
    else:
        raise OSError(errno.ENOTSUP, "it has no control group: none could be had here", "freezer")


def thaw(facts: dict[str, Any]) -> None:
    """Let it go on."""
    set_frozen(facts, False)


def pause(store: Store, operands: Sequence[str], _: Options) -> int:
    """Stop containers where they stand."""

    def still(word: str) -> None:
        facts = running(find(store, word))
        if frozen(facts):
            raise OSError(errno.EALREADY, "it is paused already", word)
        set_frozen(facts, True)

    return each(operands, still)


def unpause(store: Store, operands: Sequence[str], _: Options) -> int:
    """Let containers go on."""

    def go_on(word: str) -> None:
        facts = running(find(store, word))
        if not frozen(facts):
            raise OSError(errno.EALREADY, "it isn't paused", word)
        thaw(facts)

    return each(operands, go_on)


VERBS = {
    "pause": Verb("CONTAINER...", 1, MANY, "stop all processes of containers", [], pause),
    "unpause": Verb("CONTAINER...", 1, MANY, "let them go on", [], unpause),
}
