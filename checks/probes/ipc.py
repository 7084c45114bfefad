"""Inter-process communication: what a stranger on the host left for others to find."""

from checks import kernel
from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.trial import Trial
from checks.words import say


@probe("ipc.shm")
def shm(trial: Trial) -> Finding:
    """A System V segment of the host's cannot be attached."""
    segment, secret = trial.bench.canaries.shm, trial.bench.canaries.secret

    def read() -> str:
        return kernel.shm_read(segment, len(secret)).decode("ascii", "replace")

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "ipc")
        try:
            content = container.visit(read)
        except OSError as error:
            refused = say("ipc.shm_none", id=segment, reason=error.strerror)
            return wall(not shared, refused, evidence)
    if content == secret:
        return wall(False, say("ipc.shm_read", id=segment), evidence)
    return wall(not shared, say("ipc.shm_other", id=segment), evidence)
