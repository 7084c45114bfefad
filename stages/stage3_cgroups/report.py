"""--explain: what the limits did to a command, by the kernel's own counters."""

from __future__ import annotations

from stages.command_line import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage3_cgroups.limits import Limits
    from stages.stage3_cgroups.more.usage import Usage


def explain(limits: Limits, usage: Usage, status: int) -> None:
    """Say on stderr, a line each, what the limits did; or that they did nothing."""
    lines = []
    if usage.oom_kills:
        who = "killed by the kernel" if status == 137 else "a process was killed by the kernel"
        limit = amount(limits.memory or 0)
        file = usage.source["memory"]
        lines.append(f"{who}: {file} {limit} reached, oom_kill {usage.oom_kills}")
    elif limits.memory:
        lines.append(f"memory: at most {amount(usage.memory_peak)} of {amount(limits.memory)}")
    if limits.quota and usage.throttled:
        lines.append(
            f"throttled: {usage.source['cpu']} used up in {usage.throttled} of {usage.periods} "
            f"periods, {usage.waited:.1f} s of waiting for {usage.cpu:.1f} s of CPU time"
        )
    elif limits.quota:
        lines.append(f"CPU: {usage.cpu:.1f} s of CPU time, never throttled")
    if usage.refused_forks:
        file = usage.source["pids"]
        lines.append(f"forks refused: {file} {limits.pids} reached, max {usage.refused_forks}")
    for line in lines or ["no limit was reached"]:
        note(line)


def amount(size: int) -> str:
    """Return a number of bytes in MiB, with a digit behind the point where it isn't whole."""
    mebibytes = size / (1 << 20)
    return f"{mebibytes:.0f} MiB" if size % (1 << 20) == 0 else f"{mebibytes:.1f} MiB"
