"""Control groups: what of the tree of groups is seen."""

import os

from checks.model import Finding
from checks.probes import probe, same_namespace, wall, with_namespace
from checks.trial import Trial
from checks.words import say


@probe("cgroup.view")
def view(trial: Trial) -> Finding:
    """The command's own group is `/` to it, in every hierarchy."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with with_namespace(trial, "cgroup") as (container, notes):
            shared, evidence = same_namespace(trial, container.pid, "cgroup")

            def groups() -> list[str]:
                # The kernel writes paths from the root of the *reader's* cgroup namespace.
                name = f"{container.pid}/cgroup"
                with open(os.open(name, os.O_RDONLY, dir_fd=proc), encoding="utf-8") as file:
                    return file.read().splitlines()

            inside = container.visit(groups, root=False)
    finally:
        os.close(proc)
    below = [row for row in inside if row.split(":", 2)[2] != "/"]
    if below:
        shown = say("cgroup.below", row=below[0], pid=container.pid)
        return wall(False, shown, *notes, evidence)
    top = say("cgroup.top", count=len(inside), pid=container.pid)
    return wall(not shared, top, *notes, evidence)
