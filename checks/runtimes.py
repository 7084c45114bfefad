"""Runtimes under test: what they are asked, and how one that keeps the contract is asked it.

Those that don't know the contract are asked through adapters: peers/.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Self

from checks.bench import Bench
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
LIMITS = (
    "--memory",
    "--memory-swap",
    "--cpus",
    "--cpuset-cpus",
    "--cpu-shares",
    "--pids-limit",
    "--device-read-bps",
    "--device-write-bps",
)
"""The options of stage 3 that Docker has, too, and spells alike."""
VALUED = (
    *("--namespaces", "--hostname", "--net", "--ip", "--boottime", *LIMITS, "--net-rate"),
    *("--name", "--security-opt"),
)
"""The options from stage 2 on, as the contract spells them; each has a value."""
SWITCHES = ("--rm", "--tty", "--detach")
"""Those that have none."""
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
    """What stands behind each option of VALUED that was given; "" for one of SWITCHES."""
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
            elif word in SWITCHES:
                values[word] = ""
            else:
                rest.append(word)
        for option in values:
            if option not in known:
                unsupported(runtime, option)
        listed = values.get("--namespaces", ",".join(NAMESPACES)).split(",")
        network = values.get("--net", "")
        if network and network not in runtime.networks:
            unsupported(runtime, f"--net {network}")
        return cls(frozenset(listed) - ({"net"} if network == "host" else set()), values, rest)


class Runtime:
    """A runtime that keeps the contract: its command line."""

    networks: Sequence[str] = ("bridge", "none", "host")
    """The values of --net that it can be asked for."""
    copies_root: bool = False
    """Whether what it runs has a copy of ROOT, as an image is, in place of ROOT itself."""
    has_daemon: bool = False
    """Whether `prepare` starts a daemon, which takes longer than most probes."""
    has_images: bool = True
    """Whether it can be asked for images; if not, it has none."""

    def __init__(self, command: str) -> None:
        """Take the runtime's command, as a shell would split it."""
        self.name = command

    def prepare(self, bench: Bench) -> None:
        """Have on the bench what the runtime needs beside its command: a daemon, for some.

        It may be called again and again. Raises Unsupported.
        """

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

    def verb(self, words: str, operands: Sequence[str], bench: Bench) -> list[str]:
        """Return the command line of another command than `run`, such as `image import`.

        The words and what follows are the contract's. Raises Unsupported.
        """
        if not self.has_images:
            unsupported(self, f"`{words}`")
        return [*shlex.split(self.name), *words.split(), *operands]

    def environment(self, request: Request) -> Mapping[str, str]:
        """Return what is added to the runtime's own environment."""
        return {}


SPELLED = {"workdir": "--workdir", "options": "OPTIONS", "root": "ROOT"}
"""What a request has, as the contract's command line spells it."""


def unsupported(runtime: Runtime, what: str) -> NoReturn:
    """Raise Unsupported: the runtime takes no such thing."""
    raise Unsupported(say("runtime.refuses", runtime=runtime.name, what=what))


def refuse(runtime: Runtime, request: Request, *names: str) -> None:
    """Raise Unsupported where a request has one of these, which the runtime can't be asked for."""
    for name in names:
        if getattr(request, name):
            unsupported(runtime, SPELLED[name])
