"""Inter-process communication: what a stranger on the host left for others to find."""

from checks import kernel
from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.runtimes import Trial


@probe("ipc.shm")
def shm(trial: Trial) -> Finding:
    """A System V segment of the host's cannot be attached."""
    canaries = trial.bench.canaries

    def read() -> str:
        return kernel.shm_read(canaries.shm, len(canaries.secret)).decode("ascii", "replace")

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "ipc")
        try:
            content = container.visit(read)
        except OSError as error:
            return wall(not shared, f"inside, {error.strerror}: segment {canaries.shm}", evidence)
    known = content == canaries.secret
    what = "was read inside" if known else "is another segment inside"
    return wall(not known and not shared, f"the host's segment {canaries.shm} {what}", evidence)
