"""Clocks: whether the boot-time clock is the container's own."""

import secrets
import time

from checks.model import Finding
from checks.probes import built, probe, same_namespace, with_namespace
from checks.trial import Trial
from checks.words import say


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@probe("time.offset")
def offset(trial: Trial) -> Finding:
    """The boot-time clock inside is ahead of the host's by what was asked for."""
    asked = 86400 + secrets.randbelow(86400)
    with with_namespace(trial, "time", "--boottime", str(asked)) as (container, notes):
        shared, evidence = same_namespace(trial, container.pid, "time")
        # Read before and after: so the shift is known without allowing for what a visit takes.
        before = trial.bench.see(_uptime)
        inside = container.visit(_uptime)
        after = trial.bench.see(_uptime)
    shift = round(inside - (before + after) / 2)
    read = say("time.shift", shift=shift, asked=asked)
    faults = [] if before <= inside - asked <= after else [read]
    return built(shared, faults, *([] if faults and not shared else [read]), *notes, evidence)
