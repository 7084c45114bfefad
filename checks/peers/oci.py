"""Peers that take a bundle: a folder with a configuration, and a root file system.

See the OCI runtime specification, bundle.md and config.md.
"""

import json
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from checks import kernel
from checks.bench import Bench
from checks.canaries import nonce
from checks.runtimes import BOOTTIME, LIMITS, Asked, Request, Runtime, unsupported

TYPES = {"net": "network", "mnt": "mount"}
"""What the specification calls a namespace, where it isn't as in /proc."""
UNIFIED = "/sys/fs/cgroup/unified"
"""Where systemd mounts cgroup v2 beside v1: the hybrid layout."""


def hide_unified(bench: Bench) -> None:
    """Hide the second hierarchy of a hybrid machine.

    There runc makes its groups at the top, outside of the bench's (libcontainer, cgroups/fs), and
    crun refuses to run beside a controller (get_cgroup_mode).
    """
    if os.path.exists(bench.path(f"{UNIFIED}/cgroup.controllers")):
        # In LEGACY layout, too, crun writes its pids below this path: to a file, here.
        bench.see(lambda: kernel.mount("hidden", UNIFIED, "tmpfs", data="size=1m"))


def with_cgroup(namespaces: Collection[str]) -> Collection[str]:
    """Return the namespaces, with that of cgroups wherever there is cgroup v2 alone.

    Without one a container's /sys/fs/cgroup is mounted in its caller's cgroup namespace. In the
    machine's own its options become those of the whole hierarchy (kernel, cgroup_reconfigure):
    `nsdelegate` and `memory_recursiveprot` would be gone from the machine.
    """
    alone = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {*namespaces, "cgroup"} if alone else namespaces


PERIOD = 100_000
"""Microseconds in which a quota of CPU time may be used: the kernel's own choice, and Docker's."""


def resources(values: Mapping[str, str], bench: Bench) -> dict[str, Any]:
    """Return what the options that limit are in a configuration: see config-linux.md, cgroups."""
    asked: dict[str, dict[str, Any]] = {}

    def put(table: str, key: str, value: object) -> None:
        asked.setdefault(table, {})[key] = value

    for option, value in values.items():
        match option:
            case "--memory":
                put("memory", "limit", size(value))
            case "--memory-swap":
                put("memory", "swap", size(value))
            case "--cpus":
                put("cpu", "quota", int(float(value) * PERIOD))
                put("cpu", "period", PERIOD)
            case "--cpuset-cpus":
                put("cpu", "cpus", value)
            case "--cpu-shares":
                put("cpu", "shares", int(value))
            case "--pids-limit":
                put("pids", "limit", int(value))
            case "--device-read-bps":
                put("blockIO", "throttleReadBpsDevice", [_throttled(value, bench)])
            case "--device-write-bps":
                put("blockIO", "throttleWriteBpsDevice", [_throttled(value, bench)])
    return asked


def size(text: str) -> int:
    """Return the bytes of a size as Docker writes it, such as `32m`."""
    units = "bkmg"
    digits = text.lower().rstrip(units)
    unit = text.lower()[len(digits) :][:1] or "b"
    return int(digits) << 10 * units.index(unit)


def _throttled(value: str, bench: Bench) -> dict[str, int]:
    device, _, rate = value.rpartition(":")
    number = os.stat(bench.path(device)).st_rdev
    return {"major": os.major(number), "minor": os.minor(number), "rate": size(rate)}


class Oci(Runtime):
    """What the runtimes of this kind have in common; their network is `lo` alone."""

    networks = ("none", "host")
    has_images = False
    program: ClassVar[str]
    listed: ClassVar[frozenset[str]] = frozenset()
    """The namespaces of a version that is too old to list them itself."""

    def prepare(self, bench: Bench) -> None:
        """Have one layout of cgroups on the bench."""
        hide_unified(bench)

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Write a bundle to the bench, and return `PROGRAM run` for it."""
        asked = Asked.of(
            self,
            request,
            *("--namespaces", "--hostname", "--net", "--boottime", *LIMITS),
            *("--security-opt", "--tty", "--name", "--detach"),
        )
        self.prepare(bench)
        name = asked.values.get("--name") or nonce(self.program)
        bundle = os.path.join(bench.scratch, name)
        os.mkdir(bench.path(bundle))
        subprocess.run(
            [self.program, "spec"], cwd=bench.path(bundle), check=True, capture_output=True
        )
        file = Path(bench.path(bundle), "config.json")
        config = json.loads(file.read_bytes())
        self._configure(config, asked, request, bench)
        options = self.place(config["linux"], bench, name)
        file.write_text(json.dumps(config), encoding="utf-8")
        detach = ["--detach"] if "--detach" in asked.values else []
        return [self.program, *options, *asked.rest, "run", *detach, "--bundle", bundle, name]

    def verb(self, words: str, operands: Sequence[str], bench: Bench) -> list[str]:
        """Return `PROGRAM exec` or `PROGRAM delete`: what else is asked takes an engine."""
        if words not in ("exec", "rm"):
            unsupported(self, f"`{words}`")
        # Streams are always its caller's own.
        operands = [word for word in operands if word != "--interactive"]
        return [self.program, {"exec": "exec", "rm": "delete"}[words], *operands]

    def place(self, linux: dict[str, Any], bench: Bench, name: str) -> list[str]:
        """Say in the configuration, or by options, in which cgroup the container is.

        Nothing said is a group below the bench's own.
        """
        return []

    def _configure(
        self, config: dict[str, Any], asked: Asked, request: Request, bench: Bench
    ) -> None:
        """Write what is asked for into the configuration that the runtime proposes."""
        types = [TYPES.get(name, name) for name in sorted(with_cgroup(asked.namespaces))]
        for type_ in sorted(set(types) - self._types()):
            unsupported(self, f"--namespaces {type_}")
        config["root"] = {"path": request.root or str(bench.root), "readonly": False}
        process = config["process"]
        process |= {"terminal": "--tty" in asked.values, "args": list(request.command)}
        if option := asked.values.get("--security-opt"):
            if option != "no-new-privileges":
                unsupported(self, f"--security-opt {option}")
            process["noNewPrivileges"] = True
        process["cwd"] = request.workdir or "/"
        process["env"] += [f"{name}={value}" for name, value in request.environment.items()]
        linux = config["linux"]
        linux["namespaces"] = [{"type": type_} for type_ in types]
        if "user" in types:
            ids = {"containerID": 0, "hostID": 100000, "size": 65536}
            linux |= {"uidMappings": [ids], "gidMappings": [ids]}
        if "time" in types:
            seconds = int(asked.values.get("--boottime", BOOTTIME))
            linux["timeOffsets"] = {"boottime": {"secs": seconds}}
        linux["resources"] |= resources(asked.values, bench)
        if "--hostname" in asked.values:
            config["hostname"] = asked.values["--hostname"]
        elif "uts" not in types:
            # A name that the runtime proposes would be the host's, too: it refuses that.
            config.pop("hostname", None)

    def _types(self) -> frozenset[str]:
        """Return the namespaces that this version knows, as runc-features(8) lists them."""
        told = subprocess.run([self.program, "features"], check=False, capture_output=True)
        if told.returncode and self.listed:
            return self.listed
        told.check_returncode()
        return frozenset(json.loads(told.stdout)["linux"]["namespaces"])


class Runc(Oci):
    """Runc, from the configuration that `runc spec` writes."""

    program = "runc"


class Crun(Oci):
    """Crun, from the configuration that `crun spec` writes."""

    program = "crun"
    # Debian 12's 1.8.1 has no `crun features`. It takes a time namespace, but then fails where
    # there is a pid namespace, too: it becomes the command's parent in there, and ends.
    listed = frozenset({"cgroup", "ipc", "mount", "network", "pid", "user", "uts"})

    def place(self, linux: dict[str, Any], bench: Bench, name: str) -> list[str]:
        """Put the container below the bench's group, or, on the machine itself, perhaps into it.

        To crun a path begins at the top of *each* hierarchy; where the bench's groups differ, as
        they may on a machine with cgroup v1, no path leads below all of them.
        """
        if not (path := bench.beneath(name)):
            return ["--cgroup-manager=disabled"]
        linux["cgroupsPath"] = path
        return ["--cgroup-manager=cgroupfs"]
