"""Capabilities: the pieces of root's power that are left."""

from checks.model import Finding
from checks.probes import probe, wall
from checks.trial import Trial
from checks.visitor import status_fields
from checks.words import say

USUAL = 0xA80425FB
"""The fourteen that Docker leaves (moby, daemon/pkg/oci/caps/defaults.go), as a sum of bits."""
SETS = ("CapBnd", "CapPrm", "CapEff")
HANDED_ON = ("CapInh", "CapAmb")
"""What a program gets from whoever executes it: nothing, in a container (CVE-2022-29162)."""


@probe("cap.bounding")
def bounding(trial: Trial) -> Finding:
    """No set of the command's capabilities has more than Docker's, and none is handed on."""
    with trial.started() as container:
        fields = status_fields(container.pid)
    pid = container.pid
    more = {name: int(fields[name], 16) & ~USUAL for name in SETS}
    more |= {name: int(fields[name], 16) for name in HANDED_ON}
    read = say("cap.read", pid=pid, sets=", ".join(f"{n} {fields[n]}" for n in (*SETS, *HANDED_ON)))
    beyond = {name: bits for name, bits in more.items() if bits}
    if beyond:
        name, bits = next(iter(beyond.items()))
        numbers = ", ".join(str(number) for number in range(64) if bits >> number & 1)
        return wall(False, say("cap.more", set=name, numbers=numbers), read)
    return wall(True, read)
