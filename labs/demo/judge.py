"""What a plot proves: the verdict on a load that ran without a limit, and with it."""

from pathlib import Path

from checks.model import Finding, Verdict
from labs.demo.measure import COUNTERS, Measured
from labs.demo.quantity import seconds, told
from labs.texts import say

SWAP = ("memory.memsw.limit_in_bytes - memory.limit_in_bytes", "memory.swap.max")
"""What says how much swap a group may use: on v1, on v2."""
TOLERANCE = 0.10
"""How far a measured rate may be from the limit: the contract's."""
APART = 1.5
"""By how much more a load must take without the limit, for the limit to have been felt."""
FILES = {
    # what is read where: v1, v2
    "cpu": ("cpuacct.usage", "cpu.stat usage_usec"),
    "memory": ("memory.usage_in_bytes", "memory.current"),
    "swap": ("memory.memsw.usage_in_bytes", "memory.current + memory.swap.current"),
    "pids": ("pids.current", "pids.current"),
    "read": ("blkio.throttle.io_service_bytes", "io.stat rbytes"),
    "written": ("blkio.throttle.io_service_bytes", "io.stat wbytes"),
    "received": ("/proc/PID/net/dev", "/proc/PID/net/dev"),
    "sent": ("/proc/PID/net/dev", "/proc/PID/net/dev"),
    "killed": ("memory.oom_control oom_kill", "memory.events oom_kill"),
}


def file(name: str, measured: Measured) -> str:
    """Return the file in which something was counted."""
    return FILES[name][measured.version == "v2"]


def judge(free: Measured, bound: Measured) -> tuple[Verdict, Finding]:
    """Return the verdict on the load without a limit, and the finding on the one with it."""
    if not free.readings or not bound.readings or not bound.series.points:
        unread = Finding(Verdict.UNKNOWN, (say("demo.nothing_counted"),))
        return Verdict.UNKNOWN, unread
    if bound.plot.series in COUNTERS:
        return _rate(free, bound)
    return _level(free, bound)


def _rate(free: Measured, bound: Measured) -> tuple[Verdict, Finding]:
    """Judge what is used by the second: over the time, and within the tolerance."""
    name, limit = bound.plot.series, bound.limit or 0.0
    without, taken = free.average, bound.average
    if without is None or taken is None:
        return Verdict.UNKNOWN, Finding(Verdict.UNKNOWN, (say("demo.too_short"),))
    off = taken / limit - 1
    evidence = [
        say(
            "demo.rate",
            taken=told(name, taken),
            limit=told(name, limit),
            off=f"{off:+.1%}",
            time=seconds(bound.seconds),
            file=file(name, bound),
        ),
        say("demo.rate_free", taken=told(name, without)),
    ]
    periods, throttled = (
        bound.rose(lambda r: r.periods),
        bound.rose(lambda r: r.throttled),
    )
    if name == "cpu" and periods:
        evidence.append(say("demo.throttled", periods=periods, throttled=throttled))
    before = Verdict.UNLIMITED if without > limit * APART else Verdict.UNKNOWN
    if off > TOLERANCE:
        found = Verdict.UNLIMITED
    elif before is Verdict.UNLIMITED and throttled and off < -TOLERANCE:
        # The quota held in the periods in which it was used up; in others there was no CPU free.
        evidence.append(say("demo.busy"))
        found = Verdict.LIMITED
    elif off < -TOLERANCE or before is Verdict.UNKNOWN:
        # Too little is no proof: the machine may have had no more to give.
        found = Verdict.UNKNOWN
    else:
        found = Verdict.LIMITED
    return before, Finding(found, tuple(evidence))


def _level(free: Measured, bound: Measured) -> tuple[Verdict, Finding]:
    """Judge what is had at a time: never above the limit, and an event that says so."""
    name, limit = bound.plot.series, bound.limit or 0.0
    if name == "pids":
        event = bound.rose(lambda r: r.refused)
        said = say("demo.refused", count=event)
    else:
        event = bound.rose(lambda r: r.killed)
        said = say("demo.killed", count=event, file=file("killed", bound))
    evidence = [
        say(
            "demo.level",
            most=told(name, bound.series.most),
            limit=told(name, limit),
            file=file(name, bound),
        ),
        say("demo.level_free", most=told(name, free.series.most)),
    ]
    if event is not None:
        evidence.insert(1, said)
    if name == "swap":
        return _swap(free, bound, evidence)
    kept = bound.series.most <= limit
    before = Verdict.UNLIMITED if free.series.most > limit else Verdict.UNKNOWN
    # v1's pids group counts no refusals on every kernel: then the load without a limit is all.
    if kept and before is Verdict.UNLIMITED and event != 0:
        return before, Finding(Verdict.LIMITED, tuple(evidence))
    found = Verdict.UNKNOWN if kept else Verdict.UNLIMITED
    return before, Finding(found, tuple(evidence))


def _swap(free: Measured, bound: Measured, evidence: list[str]) -> tuple[Verdict, Finding]:
    """Judge whether swap leads around a limit; without any swap, by the files that would allow it.

    Such a machine kills on both sides, and can't show the difference.
    """
    allowed, open_ = bound.allowed.swap, free.allowed.swap
    swaps = len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1
    said = say("demo.swap_allowed", file=SWAP[bound.version == "v2"], bytes=allowed)
    evidence = [evidence[0], said, *evidence[1:], *([] if swaps else [say("demo.no_swap")])]
    before = Verdict.UNLIMITED if open_ is None else Verdict.UNKNOWN
    if allowed is None:
        return before, Finding(Verdict.UNKNOWN, (*evidence, say("demo.swap_uncounted")))
    kept = allowed == 0 and bound.series.most <= (bound.limit or 0)
    return before, Finding(Verdict.LIMITED if kept else Verdict.UNLIMITED, tuple(evidence))
