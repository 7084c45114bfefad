"""Rows about the programs that others wrote, which the same checks judge. None is required."""

import os
import re

from labs.doctor.facts import Facts, as_root, install, output, program
from labs.doctor.row import Finding, State, words

PACKAGES = {
    "chroot": "coreutils",
    "unshare": "util-linux",
    "bwrap": "bubblewrap",
    "docker": "docker.io",
}
SYSTEMD = "/run/systemd/system"
"""There when systemd runs the machine. See sd_booted(3)."""


def peer(name: str, _: Facts) -> Finding:
    """Whether a peer is installed, and which version."""
    found = program(name)
    if not found:
        remedy = install(PACKAGES.get(name, name))
        return Finding(State.NO, words("peer_missing"), "PATH", remedy)
    status, line = output(found, "--version")
    if status != 0:
        remedy = install(PACKAGES.get(name, name))
        return Finding(State.LIMITED, words("peer_broken", said=line), found, remedy)
    number = re.search(r"\d+(\.\d+)+", line)
    return Finding(State.YES, number[0] if number else line, found)


def docker(facts: Facts) -> Finding:
    """Whether Docker is installed, and its daemon answers."""
    client = peer("docker", facts)
    if client.state is not State.YES:
        return client
    status, line = output(client.where, "version", "--format", "{{.Server.Version}}")
    if status == 0:
        fact = words("docker", client=client.fact, server=line)
        return Finding(State.YES, fact, f"{client.where} version")
    fact = words("docker_no_daemon", client=client.fact)
    remedy = as_root("systemctl start docker" if os.path.isdir(SYSTEMD) else "dockerd")
    return Finding(State.LIMITED, fact, f"{client.where} version", remedy)
