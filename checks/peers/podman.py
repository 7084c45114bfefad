"""Podman: no daemon, but a store, a monitor a container, and a network of its own."""

import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

from checks.bench import Bench
from checks.peers import engine
from checks.runtimes import LIMITS, Asked, Request, Runtime, Unsupported
from checks.words import say

NETWORKING = (
    # netavark, and the plug-ins that came before it (CNI)
    "/usr/lib/podman/netavark",
    "/usr/libexec/podman/netavark",
    "/usr/lib/cni/bridge",
    "/usr/libexec/cni/bridge",
    "/opt/cni/bin/bridge",
)
CONTAINERS = """\
[containers]
log_driver = "none"
default_ulimits = [{ulimits}]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "{runtime}"
tmp_dir = "{home}/tmp"
[network]
network_config_dir = "{home}/networks"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{disk}/podman"
runroot = "{home}/run"
"""


class Podman(Runtime):
    """Podman, run as root, with ROOT itself as root (`--rootfs`)."""

    def __init__(self, command: str) -> None:
        """Take the peer's name; its home, on the bench that it is tried on, comes later."""
        super().__init__(command)
        self._home = ""

    def prepare(self, bench: Bench) -> None:
        """Give it a store and settings on the bench: the user's own are neither read nor written.

        Raises Unsupported on the machine itself, and where there is no OCI runtime.
        """
        home = os.path.join(bench.scratch, "podman")
        if self._home == home:
            return
        engine.make_room(self, bench)
        runtimes = [name for name in ("crun", "runc") if shutil.which(name)]
        if not runtimes:
            raise Unsupported(say("runtime.not_installed", program="crun"))
        os.mkdir(bench.path(home))
        self._runtime, self._home = runtimes[0], home
        settings = {
            "home": home,
            "disk": bench.disk,
            "runtime": self._runtime,
            "ulimits": _ulimits(),
        }
        for name, text in (("containers.conf", CONTAINERS), ("storage.conf", STORAGE)):
            file = Path(bench.path(home), name)
            file.write_text(text.format(**settings), encoding="utf-8")

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `podman run --rootfs ROOT COMMAND`, behind the settings of its own."""
        self.prepare(bench)
        known = (
            *("--namespaces", "--hostname", "--net", "--ip", *LIMITS, "--name", "--rm"),
            *("--security-opt", "--tty", "--detach"),
        )
        asked = Asked.of(self, request, *known)
        words = [*engine.options(self, asked, request), *_user(asked)]
        if "--network" not in words and not _has_network():
            words += ["--network", "none"]
        words += ["--log-driver=k8s-file"] if "--detach" in asked.values else []
        root = request.root or str(bench.root)
        return [
            *self._podman(),
            # Its own limit on processes asks for a controller that the bench's group may not have.
            *("run", *([] if "--pids-limit" in words else ["--pids-limit=-1"])),
            *("--cgroups=no-conmon", "--cgroup-parent=/", *words, *asked.rest),
            *(["--rootfs"] if root.startswith("/") else ["--pull=never"]),
            *(root, *request.command),
        ]

    def verb(self, words: str, operands: Sequence[str], bench: Bench) -> list[str]:
        """Return `podman load`, and so on."""
        self.prepare(bench)
        # Its `rm --force` asks first, for ten seconds.
        now = ["--time=0"] if words == "rm" else []
        return [*self._podman(), *engine.verb(self, words, [*now, *operands])]

    def _podman(self) -> list[str]:
        """Return the program's name, behind the settings of its own."""
        return [
            "env",
            f"CONTAINERS_CONF={self._home}/containers.conf",
            f"CONTAINERS_STORAGE_CONF={self._home}/storage.conf",
            "podman",
        ]


def _user(asked: Asked) -> Sequence[str]:
    if "user" not in asked.namespaces:
        return ()
    return "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"


def _ulimits() -> str:
    """Return our own limits, as it writes them: it would raise them, which may not be allowed."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    return ", ".join(
        f'"{name}={soft}:{hard}"'
        for name, (soft, hard) in ((n, resource.getrlimit(kind)) for n, kind in kinds.items())
    )


def _has_network() -> bool:
    """Say whether what makes its network is installed; without, it has only `none`."""
    return any(map(os.path.exists, NETWORKING)) and bool(
        shutil.which("iptables") or shutil.which("nft")
    )
