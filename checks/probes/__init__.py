"""The probes: each observes one axis of isolation, and yields a verdict with its evidence."""

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence

from checks import kernel
from checks.cgroup import Control
from checks.images import NoImages, Refused
from checks.model import Finding, Verdict
from checks.runtimes import Unsupported, namespaces
from checks.trial import Container, NoSuchOption, NotStarted, Trial, Watch
from checks.visitor import Hindered, link
from checks.words import say

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
    look = probes()[axis]
    try:
        # Before anything is looked at: a daemon is a part of the host, not what a run left there.
        trial.runtime.prepare(trial.bench)
        return look(trial)
    except (Unsupported, Hindered) as error:
        return Finding(Verdict.UNKNOWN, (str(error),))
    except NotStarted as error:
        return Finding(Verdict.BROKEN, (str(error),))
    except Exception as error:
        # The judge's own mistake, or the machine's: never the runtime's fault, and never a pass.
        return Finding(Verdict.UNKNOWN, (say("probe.failed", reason=repr(error)),))


def wall(isolated: bool, *evidence: str) -> Finding:
    """Return the finding on a wall: it isolates, or it leaks."""
    return Finding(Verdict.ISOLATED if isolated else Verdict.LEAKS, evidence)


def built(shared: bool, faults: list[str], *evidence: str) -> Finding:
    """Return the finding on a wall with something behind it: isolated, leaks, or broken."""
    if faults and not shared:
        return Finding(Verdict.BROKEN, (*faults, *evidence))
    return wall(not shared, *evidence)


def limit(limited: bool, faults: Sequence[str], *evidence: str) -> Finding:
    """Return the finding on a limit: unlimited, broken where it is another one, or limited."""
    if not limited:
        return Finding(Verdict.UNLIMITED, evidence)
    return Finding(Verdict.BROKEN if faults else Verdict.LIMITED, (*faults, *evidence))


def kept(control: Control, v1: str, v2: str) -> str:
    """Return what the kernel keeps of a limit in the command's group, as evidence."""
    found = control.texts(v1, v2)
    if not found:
        return say("cgroup.none", file=control.file(v1, v2))
    file, text = found[0]
    return say("probe.kept", file=file, value=text.replace("\n", "; ") or "-")


def promise(faults: list[str], *evidence: str) -> Finding:
    """Return the finding on a promise: broken where there is any fault, else kept."""
    return Finding(Verdict.BROKEN, tuple(faults)) if faults else Finding(Verdict.KEPT, evidence)


def same_namespace(trial: Trial, pid: int, namespace: str) -> tuple[bool, str]:
    """Say whether a process shares a namespace with the host, and both links as evidence."""
    host, inside = trial.bench.link(namespace), link(pid, namespace)
    if host == inside:
        return True, say("probe.shared", link=inside, pid=pid, namespace=namespace)
    return False, say("probe.own", host=host, inside=inside, pid=pid, namespace=namespace)


def engine(look: Probe) -> Probe:
    """Have a probe find a promise broken where the runtime can't be asked to keep it."""

    @functools.wraps(look)
    def judged(trial: Trial) -> Finding:
        try:
            return look(trial)
        except (NoImages, Refused, Unsupported) as error:
            return Finding(Verdict.BROKEN, (str(error),))

    return judged


@contextlib.contextmanager
def with_namespace(
    trial: Trial, namespace: str, *options: str
) -> Iterator[tuple[Container, list[str]]]:
    """Start a command in one more new namespace than usual; give it, and what must be said.

    A runtime that can't be asked for one is looked at as it is. Raises Hindered where nobody could
    make one here.
    """
    flag = kernel.NAMESPACES[namespace]
    try:
        trial.bench.see(lambda: kernel.unshare(flag))
    except OSError as error:
        said = say("probe.no_namespace", namespace=namespace, reason=error.strerror)
        raise Hindered(said) from None
    with asked(trial, *namespaces(namespace), *options, namespace=True) as started:
        yield started


@contextlib.contextmanager
def asked(
    trial: Trial,
    *options: str,
    otherwise: Sequence[str] = (),
    line: str = "",
    watch: Watch | None = None,
    namespace: bool = False,
) -> Iterator[tuple[Container, list[str]]]:
    """Start a command with these options, for a limit or a namespace; give it, and what to say.

    A runtime that can't be asked is looked at as it is, or with the options `otherwise`.
    """
    with contextlib.ExitStack() as stack:
        notes: list[str] = []
        ways = [options, tuple(otherwise), ()] if otherwise else [options, ()]
        while True:
            try:
                started = trial.started(options=ways.pop(0), line=line, watch=watch)
                container = stack.enter_context(started)
                break
            except (Unsupported, NoSuchOption) as error:
                if not ways:
                    raise
                missed = say("probe.no_limit", reason=error)
                if namespace:
                    missed = say("probe.not_asked", reason=error)
                notes = notes or [missed]
        yield container, notes
