"""The number of processes."""

import errno
import os

from checks import load
from checks.model import Finding
from checks.probes import asked, kept, limit, probe
from checks.trial import Trial
from checks.words import say

MOST = 16
ATTEMPTS = 40
"""Children that are tried: more than the limit, and fewer than a load may have."""
EVENTS = ("pids.events", "pids.events", "max")


@probe("pids.limit")
def pids_limit(trial: Trial) -> Finding:
    """Forks succeed up to the limit, and are refused, and counted, from there on."""
    bench = trial.bench
    bench.control(bench.pid, "pids")
    with asked(trial, "--pids-limit", str(MOST)) as (container, notes):
        control = bench.control(container.pid, "pids")
        shown = kept(control, "pids.max", "pids.max")
        before, events = control.counted(*EVENTS)
        with load.at_work(container.pid, load.fork(ATTEMPTS)) as work:
            work.has_children = True
            born, refused = work.told() or (0, 0)
            there, there_file = control.smallest("pids.current", "pids.current")
        after, _ = control.counted(*EVENTS)
    if not refused:
        return limit(False, (), say("pids.all", count=born, limit=MOST), *notes, shown)
    reason = os.strerror(refused)
    stopped = say("pids.refused", count=born, reason=reason)
    if refused != errno.EAGAIN or after <= before:
        return limit(False, (), stopped, say("pids.uncounted", file=events), *notes, shown)
    faults = [] if there == MOST else [say("pids.other", file=there_file, count=there, limit=MOST)]
    seen = [
        stopped,
        say("pids.there", file=there_file, count=there),
        say("pids.counted", file=events, count=after - before),
    ]
    return limit(True, faults, *seen, *notes, shown)
