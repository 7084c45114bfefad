"""Users: whether root inside is root outside."""

import os
from pathlib import Path

from checks.model import Finding
from checks.probes import probe, same_namespace, wall, with_namespace
from checks.trial import Trial
from checks.visitor import status_fields
from checks.words import say


@probe("user.root")
def root(trial: Trial) -> Finding:
    """Uid 0 inside is not uid 0 outside, and may not read what only root may."""
    private, secret = trial.bench.canaries.private, trial.bench.canaries.secret
    folder = os.open(trial.bench.path(os.path.dirname(private)), os.O_PATH | os.O_DIRECTORY)

    def read() -> str:
        # By the open folder: so the file's mode alone decides, not where the root is.
        with open(os.open(os.path.basename(private), os.O_RDONLY, dir_fd=folder), "rb") as file:
            return file.read().decode("ascii")

    try:
        with with_namespace(trial, "user") as (container, notes):
            shared, evidence = same_namespace(trial, container.pid, "user")
            uid = int(status_fields(container.pid)["Uid"].split()[1])
            outside = _outside(container.pid)
            try:
                opened = container.visit(read) == secret
            except PermissionError as error:
                opened = False
                notes.append(say("user.shut", reason=error.strerror))
    finally:
        os.close(folder)
    pid = container.pid
    if uid == 0:
        return wall(False, say("user.root", pid=pid), *notes, evidence)
    if outside == 0:
        return wall(False, say("user.mapped_to_root", pid=pid), *notes, evidence)
    if opened:
        return wall(False, say("user.read"), *notes, evidence)
    return wall(not shared, say("user.other", uid=uid, pid=pid), *notes, evidence)


def _outside(pid: int) -> int | None:
    """Return which uid of ours is uid 0 inside; None where none is. See user_namespaces(7)."""
    rows = Path(f"/proc/{pid}/uid_map").read_text(encoding="ascii").splitlines()
    return next((int(row.split()[1]) for row in rows if row.split()[0] == "0"), None)
