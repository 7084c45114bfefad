"""Host name and domain name: whose would change."""

import os

from checks import kernel
from checks.canaries import nonce
from checks.model import Finding
from checks.probes import built, probe, same_namespace, wall
from checks.runtimes import Unsupported
from checks.trial import NoSuchOption, Trial
from checks.words import say


def _nodename() -> str:
    return os.uname().nodename


@probe("uts.hostname")
def hostname(trial: Trial) -> Finding:
    """The container has a host name of its own: the one asked for, and it is seen inside only."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "uts")
        name = container.visit(_nodename)
    if shared:
        # Then --hostname would rename the host, and is not tried.
        return wall(False, say("uts.shared", name=name), evidence)
    before, wanted = trial.bench.see(_nodename), nonce("name")
    try:
        with trial.started(options=["--hostname", wanted]) as container:
            name = container.visit(_nodename)
            after = trial.bench.see(_nodename)
    except Unsupported as error:
        return wall(True, evidence, say("uts.not_asked", reason=error))
    except NoSuchOption as error:
        return built(False, [str(error)], evidence)
    if after != before:
        return wall(False, say("uts.host_renamed", wanted=wanted, before=before, after=after))
    faults = [] if name == wanted else [say("uts.not_named", wanted=wanted, name=name)]
    return built(False, faults, evidence, say("uts.named", wanted=wanted, host=after))


@probe("uts.domainname")
def domainname(trial: Trial) -> Finding:
    """The container has a domain name of its own: what is set inside stays inside."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "uts")
        if shared:
            name = container.visit(kernel.getdomainname)
            return wall(False, say("uts.domain_shared", name=name), evidence)
        wanted = nonce("domain")

        def rename() -> str:
            kernel.setdomainname(wanted)
            return kernel.getdomainname()

        # The kernel's view of the namespace: inside, the right to rename it may have been given up.
        inside = container.visit(rename, root=False)
        host = trial.bench.see(kernel.getdomainname)
    leaks = host == wanted or inside != wanted
    return wall(not leaks, say("uts.domain_set", wanted=wanted, inside=inside, host=host), evidence)
