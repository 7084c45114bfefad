"""Control groups: what of the tree of groups is seen, and from when on a command is in its own."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks import load
from checks.bench import argv_of
from checks.cgroup import Control
from checks.model import Finding
from checks.probes import asked, kept, limit, probe, same_namespace, wall, with_namespace
from checks.trial import PATIENCE, Container, NotStarted, Trial, bearers
from checks.words import say

JOINS = "LABRUN_JOINS"
"""The variable that says how often a command is started; who joins late may be lucky."""
STARTS = 20
ASKED = {
    # the option, the controller, its file on v1 and on v2, and what that begins with then
    "--memory": ("64m", "memory", ("memory.limit_in_bytes", "memory.max"), "67108864"),
    "--cpus": ("1", "cpu", ("cpu.cfs_quota_us", "cpu.max"), "100000"),
    "--pids-limit": ("64", "pids", ("pids.max", "pids.max"), "64"),
}
FORKS = 'exec 3>&1; { echo "$0" >&3; read wait; } | read wait'
"""A command that forks first of all: two children, which wait in a builtin. No `&`: for that a
shell opens /dev/null, and ROOT may lack it."""


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


@dataclass(frozen=True)
class Start:
    """One start of a command: who was where."""

    command: int
    early: dict[int, dict[str, Control]]
    """The groups of whoever has the command's arguments, as soon as they were seen."""
    now: dict[int, dict[str, Control]]
    """Those of the command and its children, when they were all there."""
    faults: list[str]
    """Limits that the command's groups don't keep, as evidence."""
    shown: list[str]
    """What the groups keep, and what must be said."""


@probe("cgroup.join")
def join(trial: Trial) -> Finding:
    """What the command forks first of all is in the limited groups, at every start.

    It stays where it was born: whoever moves the command later leaves it behind.
    """
    for _, controller, _, _ in ASKED.values():
        trial.bench.control(trial.bench.pid, controller)
    starts = int(os.environ.get(JOINS, STARTS))
    early = 0
    for number in range(1, starts + 1):
        start = _start(trial)
        if start.faults:
            return limit(False, (), *start.faults, *start.shown)
        if elsewhere := [*_elsewhere(start, number)]:
            return limit(False, (), *elsewhere, *start.shown)
        early += len(start.early)
    seen = say("cgroup.joined", starts=starts, early=early, pid=max(start.now))
    return limit(True, (), seen, *start.shown)


def _start(trial: Trial) -> Start:
    """Start a command on a busy machine: a runtime that joins late has more time to be late."""
    bench = trial.bench
    early: dict[int, dict[str, Control]] = {}

    def watch(process: subprocess.Popen[bytes], command: Sequence[str]) -> None:
        assert process.stdout
        until = time.monotonic() + PATIENCE
        while not select.select([process.stdout], [], [], 0)[0]:
            # Whoever is left by its parent becomes a child of the bench's pid 1.
            for pid in (*_descendants(process.pid), *_descendants(bench.pid)):
                if pid not in early and _bears(pid, command):
                    with contextlib.suppress(OSError):
                        early[pid] = _controls(trial, pid)
            if process.poll() is not None or time.monotonic() > until:
                return

    options = [word for option, row in ASKED.items() for word in (option, row[0])]
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(load.at_work(bench.canaries.process, load.burn()))
        started = asked(trial, *options, line=FORKS, watch=watch)
        container, notes = stack.enter_context(started)
        now = {pid: _controls(trial, pid) for pid in _family(container)}
        own = now[container.pid]
        shown = [kept(own[controller], *names) for _, controller, names, _ in ASKED.values()]
        return Start(container.pid, early, now, _unlimited(own), [*shown, *notes])


def _controls(trial: Trial, pid: int) -> dict[str, Control]:
    """Return the groups that hold a process, by the controllers that are asked to limit it."""
    return {row[1]: trial.bench.control(pid, row[1]) for row in ASKED.values()}


def _unlimited(controls: dict[str, Control]) -> list[str]:
    """Return which limits are not kept in the groups, as evidence."""
    faults = []
    for option, (value, controller, names, wanted) in ASKED.items():
        control = controls[controller]
        texts = [text for _, text in control.texts(*names)]
        if wanted not in [text.split()[0] for text in texts]:
            shown = ", ".join(texts) or "-"
            faults.append(say("cgroup.no_limit", option=f"{option} {value}", found=shown))
    return faults


def _elsewhere(start: Start, number: int) -> Iterator[str]:
    """Yield where somebody is, or was, who is not in the groups with the limits, as evidence."""
    limited = start.now[start.command]
    for found in (start.early, start.now):
        for pid in found.keys() & start.now.keys():
            who = say("cgroup.child", pid=pid)
            if pid == start.command:
                who = say("cgroup.command", pid=pid)
            for controller, control in found[pid].items():
                if control != limited[controller]:
                    places = {
                        "start": number,
                        "who": who,
                        "controller": controller,
                        "group": control.directory or control.outer,
                        "limited": limited[controller].directory,
                    }
                    first = found is start.early
                    yield (
                        say("cgroup.at_first", **places) if first else say("cgroup.later", **places)
                    )


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and theirs. See proc_pid_task_children(5)."""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            file = Path(f"/proc/{pid}/task/{task}/children")
            for child in map(int, file.read_text(encoding="ascii").split()):
                yield child
                yield from _descendants(child)


def _bears(pid: int, command: Sequence[str]) -> bool:
    with contextlib.suppress(OSError):
        return argv_of(Path(f"/proc/{pid}")) == list(command)
    return False


def _family(container: Container) -> list[int]:
    """Wait until the command has its children; return it and them. Raises NotStarted."""
    command = argv_of(Path(f"/proc/{container.pid}"))
    until = time.monotonic() + PATIENCE
    while len(family := bearers(command)) < 3:
        if time.monotonic() > until:
            raise NotStarted(say("cgroup.no_child"))
        time.sleep(0.02)  # nobody tells us of the births of others' children
    return family
