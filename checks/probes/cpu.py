"""CPU time: how much, where, and how it is shared."""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from checks import load
from checks.load import Load
from checks.model import Finding
from checks.probes import asked, kept, limit, probe
from checks.trial import Trial
from checks.visitor import Hindered
from checks.words import say

QUOTA = 0.25
"""CPUs that are asked for."""
TOLERANCE = 0.1
PERIODS = 20
PERIOD = 0.1
"""Seconds: what a quota is for, as Docker asks for it. Over whole periods it doesn't matter where
one of them began."""
TRIES = 3
"""What is off is measured again: a judge that wakes up late on a busy machine measures too much."""
THROTTLED = 0.8
"""The share of periods that are throttled from which on it is the quota that holds a load back,
and not the machine's other work."""
STAT = ("cpu.stat", "cpu.stat")
SHARES = (1024, 256)
FEWEST, MOST = 2.5, 5.5
"""The ratio that shares of 4:1 may come out as. On v1 they are the kernel's own weights. On v2
runtimes convert them: by the older rule to 39:10, by runc's newer one (1.3) to 100:34. A ratio that
is not asked for is 1."""
NEAR_1 = 0.2
ENOUGH, LEAST = 0.7, 0.15
"""Seconds of CPU time that two loads must have had together: then, or at the end."""


def _stat(text: str) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name. See proc_pid_stat(5)."""
    return text.rpartition(")")[2].split()


def _used(loads: Sequence[Load], seconds: float) -> tuple[float, float]:
    """Return how much CPU time these use in about so many seconds, and in how many exactly."""
    began, before = time.monotonic(), sum(work.seconds for work in loads)
    time.sleep(seconds)
    ended, after = time.monotonic(), sum(work.seconds for work in loads)
    return after - before, ended - began


@probe("cpu.quota")
def cpu_quota(trial: Trial) -> Finding:
    """Loads that would use two CPUs get a quarter of one, and the kernel counts how often."""
    bench = trial.bench
    bench.control(bench.pid, "cpu")
    with asked(trial, "--cpus", str(QUOTA)) as (container, notes):
        control = bench.control(container.pid, "cpu")
        for _ in range(TRIES):
            # A load lives for 5 s only.
            with ExitStack() as loads:
                burning = [
                    loads.enter_context(load.at_work(container.pid, load.burn())) for _ in range(2)
                ]
                for work in burning:
                    work.told()
                # Between two bursts: a moment too late then measures nothing too much.
                time.sleep(PERIOD / 2)
                periods, _ = control.counted(*STAT, "nr_periods")
                throttled, file = control.counted(*STAT, "nr_throttled")
                used, wall = _used(burning, PERIODS * PERIOD)
                periods = control.counted(*STAT, "nr_periods")[0] - periods
                throttled = control.counted(*STAT, "nr_throttled")[0] - throttled
            share = used / wall
            if abs(share / QUOTA - 1) <= TOLERANCE or share > 2 * QUOTA:
                break
        shown = kept(control, "cpu.cfs_quota_us", "cpu.max")
    seen = [
        say("cpu.share", share=share, asked=QUOTA, used=used, wall=wall),
        say("cpu.throttled", file=file, count=throttled, periods=periods),
        *notes,
        shown,
    ]
    if share > QUOTA * (1 + TOLERANCE) or not throttled:
        return limit(False, (), *seen)
    if share >= QUOTA * (1 - TOLERANCE):
        return limit(True, (), *seen)
    if throttled < THROTTLED * periods:
        raise Hindered(say("cpu.starved", share=share, asked=QUOTA))
    return limit(True, [say("cpu.too_little", share=share, asked=QUOTA)], *seen)


@probe("cpu.set")
def cpu_set(trial: Trial) -> Finding:
    """The command, and a load that asks for all CPUs, run on the one that was asked for."""
    bench = trial.bench
    bench.control(bench.pid, "cpuset")
    everywhere = sorted(os.sched_getaffinity(bench.pid))
    if len(everywhere) < 2:
        raise Hindered(say("cpu.one_cpu"))
    cpu = everywhere[-1]
    seen_on = set()
    with asked(trial, "--cpuset-cpus", str(cpu)) as (container, notes):
        control = bench.control(container.pid, "cpuset")
        own = sorted(os.sched_getaffinity(container.pid))
        with load.at_work(container.pid, load.burn(everywhere)) as work:
            allowed = work.told() or []
            for _ in range(20):
                stat = Path(f"/proc/{work.pid}/stat").read_text(encoding="utf-8")
                seen_on.add(int(_stat(stat)[36]))
                time.sleep(0.01)
        shown = kept(control, "cpuset.cpus", "cpuset.cpus.effective")
    seen = [
        say("cpu.allowed", pid=container.pid, cpus=_listed(own)),
        say("cpu.ran", all=_listed(everywhere), cpus=_listed(allowed), seen=_listed(seen_on)),
        *notes,
        shown,
    ]
    return limit(own == allowed == [cpu] and seen_on == {cpu}, (), *seen)


def _listed(cpus: Sequence[int] | set[int]) -> str:
    return ",".join(map(str, sorted(cpus)))


@probe("cpu.weight")
def cpu_weight(trial: Trial) -> Finding:
    """Two containers with shares of 4:1, each with a load on the same CPU, get time accordingly."""
    bench = trial.bench
    bench.control(bench.pid, "cpu")
    cpu = min(os.sched_getaffinity(bench.pid))
    with ExitStack() as stack:
        both = [stack.enter_context(asked(trial, "--cpu-shares", str(shares))) for shares in SHARES]
        shown = [
            kept(bench.control(container.pid, "cpu"), "cpu.shares", "cpu.weight")
            for container, _ in both
        ]
        for _ in range(TRIES):
            times = _compete([container.pid for container, _ in both], cpu)
            ratio = times[0] / max(times[1], 1e-9)
            if sum(times) >= LEAST and (FEWEST <= ratio <= MOST or abs(ratio - 1) < NEAR_1):
                break
    seen = [
        say("cpu.ratio", cpu=cpu, more=times[0], less=times[1], ratio=ratio, asked=4),
        *both[0][1],
        *shown,
    ]
    if sum(times) < LEAST:
        raise Hindered(say("cpu.starved", share=sum(times), asked=LEAST))
    faults = [say("cpu.too_much", ratio=ratio)] if ratio > MOST else []
    return limit(ratio >= FEWEST, faults, *seen)


def _compete(pids: list[int], cpu: int) -> list[float]:
    """Return the CPU time that a load in each process's groups gets, all of them on one CPU."""
    with ExitStack() as stack:
        loads = [stack.enter_context(load.at_work(pid, load.burn([cpu]))) for pid in pids]
        for work in loads:
            work.told()
        before = [work.seconds for work in loads]
        until = time.monotonic() + 3
        while True:
            time.sleep(0.5)
            times = [work.seconds - at for work, at in zip(loads, before, strict=True)]
            if sum(times) >= ENOUGH or time.monotonic() > until:
                return times
