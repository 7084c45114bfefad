"""Processes: which are seen, and which could be signalled."""

import os

from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.runtimes import Trial
from checks.visitor import status_fields


def numbers(pid: int) -> list[int]:
    """Return a process's pids, from the judge's namespace inwards. See pid_namespaces(7)."""
    return [int(number) for number in status_fields(pid)["NSpid"].split()]


@probe("pid.view")
def view(trial: Trial) -> Finding:
    """The container's /proc shows only its own processes."""
    bench = trial.bench
    canary = numbers(bench.canaries.process)[-1]

    def shown() -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "pid")
        try:
            pids = container.visit(shown)
        except FileNotFoundError:
            pids = []
        if pids and canary in pids and _is_canary(bench.canaries.process, container.pid, canary):
            return wall(
                False,
                f"/proc inside shows {len(pids)} processes, the host's {canary} among them",
                evidence,
            )
        return wall(not shared, f"/proc inside shows {len(pids)} processes", evidence)


def _is_canary(process: int, container: int, number: int) -> bool:
    """Say whether /proc inside has the canary itself under that number, not a namesake."""
    inside = f"/proc/{container}/root/proc/{number}/stat"
    try:
        with open(inside, encoding="utf-8") as seen, open(f"/proc/{process}/stat") as real:
            started = [file.read().rpartition(")")[2].split()[19] for file in (seen, real)]
    except OSError:
        return False
    return started[0] == started[1]


@probe("pid.one")
def one(trial: Trial) -> Finding:
    """COMMAND is pid 1 of a pid namespace of its own."""
    with trial.started() as container:
        pids = numbers(container.pid)
        shared, evidence = same_namespace(trial, container.pid, "pid")
    own = not shared and pids[-1] == 1
    return wall(own, f"COMMAND's pids, from the outside in: {pids} (NSpid)", evidence)


@probe("pid.signal")
def signal(trial: Trial) -> Finding:
    """A process outside has no pid inside, and so cannot be signalled."""
    canary = trial.bench.canaries.process
    number = numbers(canary)[-1]

    def reach() -> None:
        # Signal 0 does nothing: it asks whether one could be sent. See kill(2).
        os.kill(number, 0)

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "pid")
        if not shared:
            return wall(True, evidence, f"the host's process {number} has no number inside")
        try:
            container.visit(reach)
        except PermissionError as error:
            return wall(True, evidence, f"kill({number}, 0) inside: {error.strerror}")
        return wall(False, evidence, f"kill({number}, 0) inside = 0: it could be killed")
