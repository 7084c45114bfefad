"""A container's control group: made and limited before there is a child, gone when it has ended.

There are two interfaces of the kernel's: v1, with a tree of groups for each controller, and v2,
with one tree for all. Both have the same seam here (`Group`), and only this room knows which of
them a machine has: some have both, and then each controller is in one of them.
See cgroups(7).
"""

from __future__ import annotations

import os

from stages.stage3_cgroups.more.find import Trees
from stages.stage3_cgroups.more.keeper import Keeper
from stages.stage3_cgroups.v1 import GroupV1
from stages.stage3_cgroups.v2 import GroupV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from stages.stage3_cgroups.limits import Limits
    from stages.stage3_cgroups.more.usage import Usage

    class Group(Protocol):
        """The seam: what the rest asks of a control group, whichever interface it has."""

        door: int | None
        """A descriptor that clone3(2) bears a child through into the group; None: it joins."""

        def prepare(self) -> None:
            """Find the place for it; raise OSError where a wanted controller can't be had."""

        def create(self) -> None:
            """Make it, without a process and without a limit."""

        def limit(self, limits: Limits) -> None:
            """Write the limits; raise OSError with the file that the kernel refused."""

        def join(self) -> None:
            """Move the calling process in."""

        def read(self, usage: Usage) -> None:
            """Add to `usage` what the kernel has counted."""

        def freeze(self) -> None:
            """Stop every process in it where it stands."""

        def remove(self) -> None:
            """Kill what is still in it, and remove it; no error where it is gone."""

        def leave(self) -> None:
            """Give back the place that was found for it."""


class ControlGroup:
    """The group of one container, whatever trees it is in."""

    def __init__(self, limits: Limits) -> None:
        """Look for the trees; nothing is made yet."""
        self.limits = limits
        # 32 bits at random: two runs never meet, and `labrun clean` knows whose it is.
        self.name = f"labrun-run-{os.urandom(4).hex()}"
        self.trees = trees = Trees()
        trees.require(limits.controllers())
        self.parts: list[Group] = []
        if trees.v1:
            self.parts.append(GroupV1(self.name, trees.v1, limits))
        if trees.v2 and (not trees.v1 or limits.controllers() - trees.on_v1()):
            self.parts.append(GroupV2(self.name, trees, limits))

    def __enter__(self) -> ControlGroup:
        """Make the group and limit it; nobody is in it yet."""
        for part in self.parts:
            part.prepare()
        # SIGKILL leaves a runtime no time to tidy up: somebody has to stand by before there is
        # anything to tidy.
        self.keeper = Keeper(self.remove)
        try:
            for part in self.parts:
                part.create()
                part.limit(self.limits)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away, with whatever still runs in it."""
        self.remove()
        self.keeper.dismiss()
        for part in self.parts:
            part.leave()

    @property
    def door(self) -> int | None:
        """The descriptor through which a child is born inside; None where there is none."""
        return next((part.door for part in self.parts if part.door is not None), None)

    def join(self) -> None:
        """In the child, before all else: be in the group, where it was not born there."""
        for part in self.parts:
            part.join()

    def read(self, usage: Usage) -> Usage:
        """Return `usage` with what the kernel has counted."""
        for part in self.parts:
            part.read(usage)
        return usage

    def freeze(self) -> None:
        """Stop every process of the container where it stands."""
        for part in self.parts:
            part.freeze()

    def remove(self) -> None:
        """Remove it from each tree."""
        for part in self.parts:
            part.remove()
