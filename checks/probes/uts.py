"""The host name: whose would change."""

import os

from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.trial import Trial
from checks.words import say


@probe("uts.hostname")
def hostname(trial: Trial) -> Finding:
    """The container has a uts namespace of its own; nobody's name is changed to find out."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "uts")
        name = container.visit(lambda: os.uname().nodename)
    if shared:
        return wall(False, say("uts.shared", name=name), evidence)
    return wall(True, evidence)
