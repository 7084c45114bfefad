"""Runtimes under test: one that keeps the contract, and adapters for those that don't know it."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
        return ["chroot", *request.options, request.root or str(bench.root), *request.command]


class Unshare(Host):
    """unshare(1) of util-linux, with all that stage 2 has."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `unshare … --root=ROOT COMMAND`."""
        words = ["--pid", "--fork", "--kill-child", "--mount", "--net", "--ipc", "--uts"]
        words += ["--mount-proc", f"--root={request.root or bench.root}"]
        words += [f"--wd={request.workdir}"] if request.workdir else []
        return ["unshare", *words, *request.options, "--", *request.command]


class Bwrap(Runtime):
    """bwrap(1), bubblewrap, with all that stage 2 has."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `bwrap … --bind ROOT / … COMMAND`."""
        words = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        words += ["--bind", request.root or str(bench.root), "/", "--proc", "/proc"]
        words += ["--dev", "/dev", "--chdir", request.workdir or "/"]
        for name, value in request.environment.items():
            words += ["--setenv", name, value]
        return ["bwrap", *words, *request.options, "--", *request.command]


class Runc(Runtime):
    """Runc, from the configuration that `runc spec` writes."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Write a bundle to the bench, and return `runc run` for it."""
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
        file.write_text(json.dumps(config), encoding="utf-8")
        return ["runc", *request.options, "run", "--bundle", bundle, name]


PEERS: Mapping[str, type[Runtime]] = {
    "host": Host,
    "chroot": Chroot,
    "unshare": Unshare,
    "bwrap": Bwrap,
    "runc": Runc,
}


SPELLED = {"workdir": "--workdir", "options": "OPTIONS", "root": "ROOT"}
"""What a request has, as the contract's command line spells it."""


def _refuse(runtime: Runtime, request: Request, *names: str) -> None:
    for name in names:
        if getattr(request, name):
            raise Unsupported(say("runtime.refuses", runtime=runtime.name, what=SPELLED[name]))


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
