"""Users: whether root inside is root outside."""

from checks.model import Finding
from checks.probes import probe, wall
from checks.runtimes import Trial
from checks.visitor import status_fields


@probe("user.root")
def root(trial: Trial) -> Finding:
    """Uid 0 inside is not uid 0 outside."""
    with trial.started() as container:
        uid = int(status_fields(container.pid)["Uid"].split()[1])
        where = f"/proc/{container.pid}/status"
    return wall(uid != 0, f"the command's uid, seen from the host: {uid} ({where})")
