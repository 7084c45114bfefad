"""Processes: which are seen, and which could be signalled."""

import os

from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.trial import Trial
from checks.visitor import status_fields
from checks.words import say


def numbers(pid: int) -> list[int]:
    """Return a process's pids, from the judge's namespace inwards. See pid_namespaces(7)."""
    return [int(number) for number in status_fields(pid)["NSpid"].split()]


@probe("pid.view")
def view(trial: Trial) -> Finding:
    """The container's /proc shows only its own processes."""
    bench = trial.bench
    canary = numbers(bench.canaries.process)[-1]

    def shown() -> list[int]:
        # The visitor that looks is none of the container's.
        me = os.readlink("/proc/self") if os.path.lexists("/proc/self") else ""
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != me]

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "pid")
        try:
            pids = container.visit(shown)
        except FileNotFoundError:
            pids = []
        if canary in pids and _is_canary(bench.canaries.process, container.pid, canary):
            return wall(False, say("pid.view_leaks", canary=canary, count=len(pids)), evidence)
    if not pids:
        return wall(not shared, say("pid.view_empty"), evidence)
    listed = ", ".join(map(str, sorted(pids)))
    return wall(not shared, say("pid.view_own", pids=listed), evidence)


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
    listed = ", ".join(map(str, pids))
    return wall(own, say("pid.numbers", pid=container.pid, pids=listed), evidence)


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
            return wall(True, evidence, say("pid.no_number", canary=number))
        try:
            container.visit(reach)
        except PermissionError as error:
            refused = say("pid.refused", canary=number, reason=error.strerror)
            return wall(True, evidence, refused)
        return wall(False, evidence, say("pid.reached", canary=number))
