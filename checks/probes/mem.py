"""Memory: what is taken above the limit is not given."""

import signal
from pathlib import Path

from checks import load
from checks.load import MIB
from checks.model import Finding
from checks.probes import asked, kept, limit, probe
from checks.trial import Trial, alive
from checks.visitor import Hindered
from checks.words import say

LIMIT = 32 * MIB
OPTIONS = ("--memory", "32m", "--memory-swap", "32m")
"""Memory, and memory and swap together: no swap at all."""
HALF, OVER = LIMIT // 2, LIMIT * 3 // 2
"""What must live, and what must die. A load's own pages, some 4 MiB, come on top."""
EVENTS = ("memory.oom_control", "memory.events")


def _allocate(pid: int, size: int) -> tuple[int, int]:
    """Return how much of `size` was taken under a process's limits, and which signal ended it."""
    reached = 0
    with load.at_work(pid, load.allocate(size)) as work:
        while (more := work.told()) is not None:
            reached = more
        return reached, work.ended()


@probe("mem.limit")
def mem_limit(trial: Trial) -> Finding:
    """Half of the limit can be taken; at more than it the kernel kills, and counts that."""
    bench = trial.bench
    bench.control(bench.pid, "memory")
    with asked(trial, *OPTIONS) as (container, notes):
        control = bench.control(container.pid, "memory")
        shown = kept(control, "memory.limit_in_bytes", "memory.max")
        half, half_signal = _allocate(container.pid, HALF)
        before, events = control.counted(*EVENTS, "oom_kill")
        above = control.outside(*EVENTS, "oom_kill")
        over, over_signal = _allocate(container.pid, OVER)
        after, _ = control.counted(*EVENTS, "oom_kill")
        # With memory.oom.group the command is killed as well, and its group may be gone already;
        # on v2 those above count it, too.
        killed = max(after - before, control.outside(*EVENTS, "oom_kill") - above)
        peak, peak_file = control.smallest("memory.max_usage_in_bytes", "memory.peak")
    if not over_signal:
        lived = say("mem.lived", size=over // MIB, limit=LIMIT // MIB)
        return limit(False, (), lived, *notes, shown)
    died = say("mem.died", size=OVER // MIB, reached=over // MIB, signal=_name(over_signal))
    if over_signal != signal.SIGKILL or killed < 1:
        return limit(False, (), died, say("mem.uncounted", file=events), *notes, shown)
    faults = []
    if half_signal:
        faults.append(say("mem.too_early", size=HALF // MIB, reached=half // MIB))
    if not alive(bench.canaries.process):
        faults.append(say("mem.outside", pid=bench.canaries.process))
    seen = [say("mem.half", size=HALF // MIB), died, say("mem.counted", file=events, count=killed)]
    if peak is not None:
        seen.append(say("mem.peak", file=peak_file, peak=peak / MIB))
    return limit(True, faults, *seen, *notes, shown)


def _name(number: int) -> str:
    return signal.Signals(number).name


@probe("mem.swap")
def mem_swap(trial: Trial) -> Finding:
    """Where memory and swap together are limited to the memory, nothing is left to swap to.

    No swap is used for this, nor need there be any: what counts is what the kernel keeps.
    """
    bench = trial.bench
    bench.control(bench.pid, "memory")
    with asked(trial, *OPTIONS) as (container, notes):
        control = bench.control(container.pid, "memory")
        value, file = control.smallest("memory.memsw.limit_in_bytes", "memory.swap.max")
        shown = [
            kept(control, "memory.memsw.limit_in_bytes", "memory.swap.max"),
            kept(control, "memory.limit_in_bytes", "memory.max"),
        ]
        there = (control.outer / Path(file).name).exists()
    if not there and not _swaps():
        raise Hindered(say("mem.no_accounting", file=Path(file).name))
    # v1 counts memory and swap together, v2 swap alone.
    most = 0 if control.unified else LIMIT
    return limit(value is not None and value <= most, (), *notes, *shown)


def _swaps() -> list[str]:
    """Return the machine's swap devices. See proc_swaps(5)."""
    return Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
