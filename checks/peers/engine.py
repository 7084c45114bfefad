"""What Docker and Podman, the container engines, have in common: options, and what they need."""

import os
from collections.abc import Sequence

from checks import kernel
from checks.bench import Bench
from checks.peers.oci import hide_unified, with_cgroup
from checks.runtimes import LIMITS, Asked, Request, Runtime, Unsupported, unsupported
from checks.words import say

SHARED = {"pid": "--pid", "ipc": "--ipc", "uts": "--uts", "net": "--network"}
"""The options by which a container has a namespace of the host's."""
SECURITY = "/sys/kernel/security"


def make_room(runtime: Runtime, bench: Bench) -> None:
    """Make the bench a place where an engine changes nothing of the machine's.

    Raises Unsupported on the machine itself: an engine makes a bridge there, and firewall rules.
    """
    if bench.machine:
        raise Unsupported(say("runtime.bench_only", runtime=runtime.name))
    hide_unified(bench)
    # An engine that finds AppArmor here loads its profile, which stays in the machine's kernel.
    if os.path.isdir(SECURITY) and os.listdir(bench.path(SECURITY)):
        bench.see(lambda: kernel.mount("hidden", SECURITY, "tmpfs", data="size=4k"))


def options(runtime: Runtime, asked: Asked, request: Request) -> list[str]:
    """Return the options for what is asked, spelled as both engines do. Raises Unsupported."""
    if "mnt" not in asked.namespaces:
        unsupported(runtime, say("runtime.without", namespace="mnt"))
    if "time" in asked.namespaces:
        unsupported(runtime, "--namespaces time")
    # What lives by itself is removed by who began it.
    words = ["--detach"] if "--detach" in asked.values else ["--rm", "--interactive"]
    for name, option in SHARED.items():
        words += [] if name in asked.namespaces else [option, "host"]
    cgroup = "cgroup" in with_cgroup(asked.namespaces)
    words += ["--cgroupns", "private" if cgroup else "host"]
    words += ["--network", "none"] if asked.values.get("--net") == "none" else []
    words += ["--tty"] if "--tty" in asked.values else []
    for option in ("--hostname", "--ip", *LIMITS, "--name", "--security-opt"):
        words += [option, asked.values[option]] if option in asked.values else []
    words += ["--workdir", request.workdir] if request.workdir else []
    for name, value in request.environment.items():
        words += ["--env", f"{name}={value}"]
    return words


def verb(runtime: Runtime, words: str, operands: Sequence[str]) -> list[str]:
    """Return what both engines call a command. Raises Unsupported.

    They find an image's name in the tar that they load.
    """
    called: list[str] = []
    match words, operands:
        case "image import", [file, _] if file.endswith(".tar"):
            called = ["load", "--input", file]
        case "image export", [name, file] if file.endswith(".tar"):
            called = ["save", "--output", file, name]
        case "exec" | "logs" | "stop" | "rm" | "inspect", _:
            called = [words, *operands]
        case "image rm" | "build" | "commit" | "diff" | "network create" | "network rm", _:
            called = [*words.split(), *operands]
    return called or unsupported(runtime, f"`{words} {' '.join(operands)}`")
