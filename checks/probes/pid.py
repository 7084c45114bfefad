"""Processes: which are seen, which could be signalled, and what becomes of them."""

import contextlib
import os
import time
from pathlib import Path
from signal import SIGKILL

from checks.bench import argv_of
from checks.model import Finding
from checks.probes import built, probe, same_namespace, wall
from checks.trial import HOLD, PATIENCE, NotStarted, Trial, alive, bearers
from checks.visitor import link, status_fields
from checks.words import say


def numbers(pid: int) -> list[int]:
    """Return a process's pids, from the judge's namespace inwards. See pid_namespaces(7)."""
    return [int(number) for number in status_fields(pid)["NSpid"].split()]


@probe("pid.view")
def view(trial: Trial) -> Finding:
    """The container's /proc shows its own processes, and no others."""
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
        if canary in pids and _is_shown(bench.canaries.process, container.pid, canary):
            return wall(False, say("pid.view_leaks", canary=canary, count=len(pids)), evidence)
        own = numbers(container.pid)[-1]
        shown_itself = own in pids and _is_shown(container.pid, container.pid, own)
    if not pids:
        return built(shared, [say("pid.view_empty")], evidence)
    listed = ", ".join(map(str, sorted(pids)))
    faults = [] if shown_itself else [say("pid.view_other", own=own, pids=listed)]
    return built(shared, faults, say("pid.view_own", pids=listed), evidence)


def _is_shown(process: int, container: int, number: int) -> bool:
    """Say whether /proc inside has this very process under that number, not a namesake."""
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

    def reach() -> bool:
        # Signal 0 does nothing: it asks whether one could be sent. See kill(2).
        os.kill(number, 0)
        return os.getpid() == number

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "pid")
        try:
            namesake = container.visit(reach)
        except PermissionError as error:
            refused = say("pid.refused", canary=number, reason=error.strerror)
            return wall(True, evidence, refused)
        except ProcessLookupError:
            return wall(not shared, evidence, say("pid.no_number", canary=number))
        # Somebody inside may bear the same number: the visitor, or one of the container's own.
        namesake |= any(numbers(pid)[-1] == number for pid in members(container.pid))
    if namesake and not shared:
        return wall(True, evidence, say("pid.namesake", canary=number))
    return wall(False, evidence, say("pid.reached", canary=number))


def members(pid: int) -> list[int]:
    """Return all processes in the pid namespace of the process `pid`."""
    namespace = link(pid, "pid")
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if link(int(process.name), "pid") == namespace:
                    found.append(int(process.name))
    return sorted(found)


FAMILY = f'{HOLD} | read wait <"$go"'
"""Two children, which wait in a builtin and have the command's arguments: so the host can tell them
by these. No `&`: for that a shell opens /dev/null, and ROOT may lack it."""


@probe("pid.reap")
def reap(trial: Trial) -> Finding:
    """Neither when pid 1 is killed, nor when the runtime is, does a process live on."""
    evidence = []
    for culprit in (init := say("pid.init"), say("pid.runtime")):
        with trial.started(script=FAMILY) as container, container.holding():
            command = argv_of(Path(f"/proc/{container.pid}"))
            everybody = _grown(command)
            first = container.pid
            # Only in a pid namespace of the container's own is whoever is there the container's.
            foreign = trial.bench.link("pid"), link(os.getpid(), "pid")
            if link(container.pid, "pid") not in foreign:
                everybody = members(container.pid)
                first = next(pid for pid in everybody if numbers(pid)[-1] == 1)
            os.kill(first if culprit == init else container.process.pid, SIGKILL)
            if left := _outlive(everybody, command):
                shown = ", ".join(map(str, left))
                return wall(False, say("pid.left", culprit=culprit, pids=shown))
        evidence.append(say("pid.gone", culprit=culprit, count=len(everybody)))
    return wall(True, *evidence)


def _grown(command: list[str]) -> list[int]:
    """Wait until the command has its children; return it and them. Raises NotStarted."""
    until = time.monotonic() + PATIENCE
    while len(family := bearers(command)) < 3:
        if time.monotonic() > until:
            raise NotStarted(say("pid.no_children"))
        time.sleep(0.02)  # nobody tells us of the births of others' children
    return family


def _outlive(everybody: list[int], command: list[str], patience: float = 5.0) -> list[int]:
    """Return which of these processes do not end within patience, and end them."""
    until = time.monotonic() + patience
    while left := sorted({*filter(alive, everybody), *bearers(command)}):
        if time.monotonic() > until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, SIGKILL)
            break
        time.sleep(0.02)  # they are not our children: the kernel tells their parent, not us
    return left
