"""`commit`: an image of what a container has written, on top of the image it was made from."""

from __future__ import annotations

from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.more.commit import commit as commit_image
from stages.stage5_container.more.freeze import frozen, set_frozen
from stages.stage5_container.more.lookup import find
from stages.stage5_container.more.rm import own_mounts
from stages.stage5_container.more.verb import Verb, last, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options


def commit(store: Store, operands: Sequence[str], options: Options) -> int:
    """Make the image; meanwhile the container stands still, so that it is of one moment."""
    own_mounts()
    state = find(store, operands[0])
    driver = containers.driver_of(store, state.id)
    if not driver:
        raise ValueError(f"{operands[0]}: it was never started: there is nothing yet")
    facts = state.facts()
    pause = facts["status"] == "running" and bool(facts["groups"]) and not frozen(facts)
    if pause:
        set_frozen(facts, True)
    try:
        name, changes = operands[1] if operands[1:] else "", options.get("--change", ())
        notes = {"author": last(options, "--author"), "comment": last(options, "--message")}
        say(commit_image(store, driver, state.id, name, changes, notes=notes).digest)
    finally:
        if pause:
            set_frozen(facts, False)
    return 0


VERBS = {
    "commit": Verb(
        "CONTAINER [NAME]", 1, 2, "make an image of it",
        [("-c", "--change", "LINE", 'an instruction for it: CMD ["/bin/sh"]'),
         ("-m", "--message", "TEXT", "a comment on it"), ("-a", "--author", "NAME", "whose it is")],
        commit,
    ),
}  # fmt: skip
