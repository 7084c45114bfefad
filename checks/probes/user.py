"""Users: whether root inside is root outside."""

from checks.model import Finding
from checks.probes import probe, wall
from checks.trial import Trial
from checks.visitor import status_fields
from checks.words import say


@probe("user.root")
def root(trial: Trial) -> Finding:
    """Uid 0 inside is not uid 0 outside."""
    with trial.started() as container:
        uid = int(status_fields(container.pid)["Uid"].split()[1])
    if uid == 0:
        return wall(False, say("user.root", pid=container.pid))
    return wall(True, say("user.other", uid=uid, pid=container.pid))
