"""Runtimes under test: one that keeps the contract, and adapters for those that don't know it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NoReturn, Self

from checks.bench import Bench
from checks.canaries import nonce
from checks.words import say


class Unsupported(Exception):
    """This runtime has no such option: the question cannot be put to it."""


@dataclass(frozen=True)
class Request:
    """What a runtime is asked to run. `options` are more of its own, in the contract's spelling."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    root: str = ""
    options: Sequence[str] = ()


NAMESPACES = ("pid", "net", "mnt", "ipc", "uts")
"""The namespaces that are new from stage 2 on, without a word about it (CONTRACT)."""
VALUED = ("--namespaces", "--hostname", "--net", "--ip", "--boottime")
"""The options of stage 2, as the contract spells them; each has a value."""
BOOTTIME = "86400"
"""Seconds that are added to the boot-time clock where nothing else is asked for (CONTRACT)."""


def namespaces(*more: str) -> tuple[str, str]:
    """Return the option that asks for the usual namespaces and for `more`."""
    return "--namespaces", ",".join((*NAMESPACES, *more))


@dataclass(frozen=True)
class Asked:
    """The options of a request, as an adapter wants to know them."""

    namespaces: frozenset[str]
    values: Mapping[str, str]
    """What stands behind each option of VALUED that was given."""
    rest: Sequence[str]
    """Words of the runtime's own."""

    @classmethod
    def of(cls, runtime: Runtime, request: Request, *known: str) -> Self:
        """Sort a request's options; raise Unsupported where one is not `known` to the runtime."""
        values: dict[str, str] = {}
        rest = []
        words = iter(request.options)
        for word in words:
            if word in VALUED:
                values[word] = next(words)
            else:
                rest.append(word)
        for option in values:
            if option not in known:
                _unsupported(runtime, option)
        listed = values.get("--namespaces", ",".join(NAMESPACES)).split(",")
        network = values.get("--net", "")
        if network == "bridge":
            _unsupported(runtime, "--net bridge")
        return cls(frozenset(listed) - ({"net"} if network == "host" else set()), values, rest)


class Runtime:
    """A runtime that keeps the contract: its command line."""

    def __init__(self, command: str) -> None:
        """Take the runtime's command, as a shell would split it."""
        self.name = command

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return the command line that does what is asked. Raises Unsupported."""
        options = [word for k, v in request.environment.items() for word in ("--env", f"{k}={v}")]
        if request.workdir:
            options += ["--workdir", request.workdir]
        root = request.root or str(bench.root)
        return [
            *shlex.split(self.name),
            "run",
            *options,
            *request.options,
            root,
            *request.command,
        ]

    def environment(self, request: Request) -> Mapping[str, str]:
        """Return what is added to the runtime's own environment."""
        return {}


class Host(Runtime):
    """No runtime at all: the command runs on the host. What the others are compared with."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return the command, behind env(1), which says 126 and 127 as a shell does."""
        _refuse(self, request, "workdir", "options", "root")
        return ["env", *request.command]

    def environment(self, request: Request) -> Mapping[str, str]:
        """Return the command's environment: it is the runtime's."""
        return request.environment


class Chroot(Host):
    """chroot(8) of coreutils."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `chroot ROOT COMMAND`."""
        _refuse(self, request, "workdir")
        asked = Asked.of(self, request)
        return ["chroot", *asked.rest, request.root or str(bench.root), *request.command]


class Unshare(Host):
    """unshare(1) of util-linux: all namespaces, but no network in them, and no name."""

    FLAGS: ClassVar = {
        "pid": ["--pid"],
        "net": ["--net"],
        "mnt": ["--mount"],
        "ipc": ["--ipc"],
        "uts": ["--uts"],
        # A range of ids, as the contract has it, takes newuidmap(1) and entries in /etc/subuid.
        "user": ["--map-root-user"],
        "cgroup": ["--cgroup"],
        "time": ["--time"],
    }

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `unshare … --root=ROOT COMMAND`."""
        asked = Asked.of(self, request, "--namespaces", "--boottime", "--net")
        if asked.values.get("--net") == "none":
            # It leaves `lo` down.
            _unsupported(self, "--net none")
        words = [
            word for name, flag in self.FLAGS.items() if name in asked.namespaces for word in flag
        ]
        # Into a new pid or time namespace only a child is born.
        words += ["--fork", "--kill-child"] if asked.namespaces & {"pid", "time"} else []
        words += ["--mount-proc"] if asked.namespaces >= {"pid", "mnt"} else []
        if "time" in asked.namespaces:
            words += ["--boottime", asked.values.get("--boottime", BOOTTIME)]
        words += [f"--root={request.root or bench.root}"]
        words += [f"--wd={request.workdir}"] if request.workdir else []
        return ["unshare", *words, *asked.rest, "--", *request.command]


class Bwrap(Runtime):
    """bwrap(1), bubblewrap: its mount namespace is always new, its network is `lo` alone."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `bwrap … --bind ROOT / … COMMAND`."""
        asked = Asked.of(self, request, "--namespaces", "--hostname", "--net", "--boottime")
        if "mnt" not in asked.namespaces:
            _unsupported(self, say("runtime.without", namespace="mnt"))
        if "time" in asked.namespaces:
            _unsupported(self, "--namespaces time")
        words = [f"--unshare-{name}" for name in sorted(asked.namespaces - {"mnt"})]
        if "--hostname" in asked.values:
            words += ["--hostname", asked.values["--hostname"]]
        words += ["--bind", request.root or str(bench.root), "/", "--proc", "/proc"]
        words += ["--dev", "/dev", "--chdir", request.workdir or "/"]
        for name, value in request.environment.items():
            words += ["--setenv", name, value]
        return ["bwrap", *words, *asked.rest, "--", *request.command]


class Runc(Runtime):
    """Runc, from the configuration that `runc spec` writes; its network is `lo` alone."""

    TYPES: ClassVar = {"net": "network", "mnt": "mount"}
    """What the OCI runtime specification calls a namespace, where it isn't as in /proc."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Write a bundle to the bench, and return `runc run` for it."""
        asked = Asked.of(self, request, "--namespaces", "--hostname", "--net", "--boottime")
        types = [self.TYPES.get(name, name) for name in sorted(asked.namespaces)]
        for type_ in sorted(set(types) - self._types()):
            _unsupported(self, f"--namespaces {type_}")
        name = nonce("runc")
        bundle = os.path.join(bench.scratch, name)
        os.mkdir(bench.path(bundle))
        subprocess.run(
            ["runc", "spec", "--bundle", bench.path(bundle)], check=True, capture_output=True
        )
        file = Path(bench.path(bundle), "config.json")
        config = json.loads(file.read_bytes())
        config["root"] = {"path": request.root or str(bench.root), "readonly": False}
        process = config["process"]
        process |= {"terminal": False, "args": list(request.command)}
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
        if "--hostname" in asked.values:
            config["hostname"] = asked.values["--hostname"]
        file.write_text(json.dumps(config), encoding="utf-8")
        return ["runc", *asked.rest, "run", "--bundle", bundle, name]

    def _types(self) -> set[str]:
        """Return the namespaces that this version knows, as runc-features(8) lists them."""
        told = subprocess.run(["runc", "features"], check=True, capture_output=True).stdout
        return {*json.loads(told)["linux"]["namespaces"]}


PEERS: Mapping[str, type[Runtime]] = {
    "host": Host,
    "chroot": Chroot,
    "unshare": Unshare,
    "bwrap": Bwrap,
    "runc": Runc,
}


SPELLED = {"workdir": "--workdir", "options": "OPTIONS", "root": "ROOT"}
"""What a request has, as the contract's command line spells it."""


def _unsupported(runtime: Runtime, what: str) -> NoReturn:
    raise Unsupported(say("runtime.refuses", runtime=runtime.name, what=what))


def _refuse(runtime: Runtime, request: Request, *names: str) -> None:
    for name in names:
        if getattr(request, name):
            _unsupported(runtime, SPELLED[name])


def runtime(command: str) -> Runtime:
    """Return the runtime for `--runtime`: `@PEER`, or a command line.

    Raises ValueError for a peer that nobody knows, Unsupported for one that is not installed.
    """
    if not command.startswith("@"):
        return Runtime(command)
    name = command[1:]
    if name not in PEERS:
        peers = ", ".join(f"@{peer}" for peer in PEERS)
        raise ValueError(say("runtime.no_peer", peer=command, peers=peers))
    if name != "host" and not shutil.which(name):
        raise Unsupported(say("runtime.not_installed", program=name))
    return PEERS[name](command)
