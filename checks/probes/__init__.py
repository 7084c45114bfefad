"""The probes: each observes one axis of isolation, and yields a verdict with its evidence."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping

from checks.model import Finding, Verdict
from checks.runtimes import NotStarted, Trial, Unsupported
from checks.visitor import Hindered

Probe = Callable[[Trial], Finding]
_probes: dict[str, Probe] = {}


def probe(axis: str) -> Callable[[Probe], Probe]:
    """Register a function as the probe of one axis."""

    def register(function: Probe) -> Probe:
        _probes[axis] = function
        return function

    return register


def probes() -> Mapping[str, Probe]:
    """Return every probe by its axis."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return _probes


def observe(axis: str, trial: Trial) -> Finding:
    """Return what the axis's probe finds; what keeps it from looking is a finding, too.

    `unknown` where the question can't be put to this runtime or on this machine, `broken` where
    the runtime did not run what it was given.
    """
    look = probes().get(axis)
    if look is None:
        return Finding(Verdict.UNKNOWN, ("no probe for this axis yet",))
    try:
        return look(trial)
    except (Unsupported, Hindered) as error:
        return Finding(Verdict.UNKNOWN, (str(error),))
    except NotStarted as error:
        return Finding(Verdict.BROKEN, (f"the command did not run: {error}",))
    except Exception as error:
        # The judge's own mistake, or the machine's: never the runtime's fault, and never a pass.
        return Finding(Verdict.UNKNOWN, (f"the probe itself failed: {error!r}",))


def wall(isolated: bool, *evidence: str) -> Finding:
    """Return the finding on a wall: it isolates, or it leaks."""
    return Finding(Verdict.ISOLATED if isolated else Verdict.LEAKS, evidence)


def promise(faults: list[str], *evidence: str) -> Finding:
    """Return the finding on a promise: broken where there is any fault, else kept."""
    return Finding(Verdict.BROKEN, tuple(faults)) if faults else Finding(Verdict.KEPT, evidence)


def same_namespace(trial: Trial, pid: int, namespace: str) -> tuple[bool, str]:
    """Say whether a process shares a namespace with the host, and both links as evidence."""
    from checks.visitor import link

    host, inside = trial.bench.link(namespace), link(pid, namespace)
    return host == inside, (
        f"{inside} is the host's own (/proc/{pid}/ns/{namespace})"
        if host == inside
        else f"{host} on the host, {inside} inside (/proc/{pid}/ns/{namespace})"
    )
