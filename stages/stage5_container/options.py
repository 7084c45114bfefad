"""The options that stage 5 adds, and what they ask for: Docker's, wherever Docker has one."""

from __future__ import annotations

import os

from stages.light import import_module
from stages.linux import SIGTERM
from stages.stage3_cgroups.options import SHARED
from stages.stage4_overlayfs import options as stage4
from stages.stage4_overlayfs.containers import is_name
from stages.stage4_overlayfs.options import Stacked, is_path, store_folder, volume
from stages.stage5_container.confine import Rights
from stages.stage5_container.confine import why as why_not_confined
from stages.stage5_container.more.causes import why as why_no_network
from stages.stage5_container.more.signals import signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Options = Mapping[str, Sequence[str]]

OPTIONS = (
    *stage4.OPTIONS[:-SHARED],
    ("-d", "--detach", "", "run by itself, in the background; say its ID"),
    ("-i", "--interactive", "", "keep its stdin open, also in the background"),
    ("-t", "--tty", "", "a terminal of its own; ctrl-p ctrl-q leaves it running"),
    ("-p", "--publish", "[IP:]PORT:PORT", "the host's port leads to the container's; /udp"),
    ("-u", "--user", "USER[:GROUP]", "who runs the command: names of the image, or numbers"),
    ("", "--network", "NAME", "bridge, none, host, container:NAME, or one of `network ls`"),
    ("", "--dns", "ADDR", "a name server, for each once"),
    ("", "--add-host", "NAME:ADDR", "a line for its /etc/hosts"),
    ("", "--init", "", "a first process that reaps, and hands signals on"),
    ("", "--restart", "POLICY", "no, on-failure[:N], always, unless-stopped (no)"),
    ("", "--cap-add", "NAME", "a capability more than Docker's fourteen; ALL"),
    ("", "--cap-drop", "NAME", "a capability less; ALL"),
    ("", "--security-opt", "OPTION", "no-new-privileges; seccomp=unconfined or =FILE"),
    ("", "--ulimit", "NAME=SOFT[:HARD]", "a limit of setrlimit(2)"),
    ("", "--entrypoint", "COMMAND", "instead of the image's"),
    ("-l", "--label", "K=V", "a word that `ps --filter label=K=V` finds it by"),
    ("", "--stop-signal", "SIGNAL", "what `stop` sends (the image's, or SIGTERM)"),
    ("", "--stop-timeout", "SECONDS", "how long `stop` waits before it kills (10)"),
    ("", "--log-opt", "K=V", "max-size (10m) and max-file (3) of its logs"),
    ("", "--env-file", "FILE", "a line K=V for each variable"),
    ("", "--cidfile", "FILE", "write its ID there"),
    *stage4.OPTIONS[-SHARED:],
)

PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a command is looked for, as Docker has it (moby, oci/defaults: DefaultPathEnv)."""
GRACE = 10
"""Seconds between `stop` and the kill: Docker's."""
POLICIES = ("no", "on-failure", "always", "unless-stopped")
KINDS = {"": "", "none": "none", "host": "host", "bridge": "bridge", "default": "bridge"}
"""What of a network's name the earlier stages know."""


class Contained(Stacked):
    """A container with a life of its own.

    `id` and `folder` are of its place in the store, as soon as it has one. `identity` is who runs
    the command (uid, gid, groups), once the root is there in which `user` has a meaning.
    """

    user: str  # type: ignore[assignment]  # as given: what it means is seen in the image

    def __init__(self, operands: Sequence[str], options: Options) -> None:
        """Take the operands and options of `run`; raise Usage or ValueError where they are off."""
        self.anonymous: list[str] = []  # volumes that nobody has named: they go with it
        self.network = last(options, "--network") or last(options, "--net")
        known = {**options, **earlier(self.network)}
        if "--volume" in options:
            options = {**options, "--volume": [self.named(text) for text in options["--volume"]]}
            known["--volume"] = [in_store(text) for text in options["--volume"]]
        super().__init__(operands, known)
        self.network = self.network or self.net
        self.id = self.folder = ""
        self.keep = False  # with `create` even --rm keeps it until it has run
        self.entrypoint = options.get("--entrypoint")
        # What the command gets is what is said here, and what the image says; nothing of ours.
        self.said = variables(options)
        self.environment = {}
        self.detach, self.tty = "--detach" in options, "--tty" in options
        self.interactive, self.init = "--interactive" in options, "--init" in options
        self.publish = list(options.get("--publish", ()))
        if self.publish:
            # Before anything is made; and whoever publishes nothing needn't load it.
            import_module("stages.stage5_container.more.publish").ports(self.publish)
        self.dns = list(options.get("--dns", ()))
        self.hosts = list(options.get("--add-host", ()))
        self.user, self.identity = last(options, "--user"), (0, 0, list[int]())
        self.cap_add = list(options.get("--cap-add", ()))
        self.cap_drop = list(options.get("--cap-drop", ()))
        self.security = list(options.get("--security-opt", ()))
        self.ulimits = list(options.get("--ulimit", ()))
        self.rights = Rights(self)
        self.restart, self.tries = policy(last(options, "--restart") or "no")
        if self.remove and self.restart != "no":
            raise ValueError("--restart: with --rm there is nothing to start again: leave one out")
        self.labels = dict(text.partition("=")[::2] for text in options.get("--label", ()))
        self.stop_signal = last(options, "--stop-signal")
        if self.stop_signal:
            signal_number(self.stop_signal)
        self.grace = whole("--stop-timeout", last(options, "--stop-timeout") or str(GRACE))
        self.log = dict(text.partition("=")[::2] for text in options.get("--log-opt", ()))
        self.cidfile = last(options, "--cidfile")
        self.saved = self.to_save(operands, options)

    def to_save(self, operands: Sequence[str], options: Options) -> dict[str, Any]:
        """Return what another process needs to make the same container again, from elsewhere."""
        kept = {name: list(values) for name, values in options.items()}
        for name in ("--env-file", "--cidfile", "--trace", "--debug"):
            kept.pop(name, None)
        if self.said:
            kept["--env"] = [os.fsdecode(b"=".join(pair)) for pair in self.said.items()]
        else:
            kept.pop("--env", None)
        if "--volume" in kept:
            kept["--volume"] = [absolute(text) for text in kept["--volume"]]
        root = operands[0]
        first = os.path.abspath(root) if is_path(root) else root
        # The list itself: what the image adds belongs to it, too.
        return {
            "operands": [first, *operands[1:]], "options": kept, "anonymous": self.anonymous
        }  # fmt: skip

    def follow(self, config: Mapping[str, Any]) -> None:
        """Take from an image what the command line doesn't say, as Docker does."""
        entrypoint = config.get("Entrypoint") or []
        if self.entrypoint is not None:
            # Whoever says another program doesn't mean the image's arguments for it.
            entrypoint, config = [word for word in self.entrypoint[-1:] if word], {}
        words = [*entrypoint, *(self.command or config.get("Cmd") or [])]
        if not words:
            raise ValueError(f"{self.image or self.root}: the image has no command: say one")
        self.command = words

    def settle(self, config: Mapping[str, Any]) -> None:
        """Take the rest from the image: user, directory, signal, and the variables."""
        self.user = self.user or config.get("User") or ""
        self.workdir = self.workdir or config.get("WorkingDir") or ""
        self.stop_signal = self.stop_signal or config.get("StopSignal") or ""
        self.hostname = self.hostname or (self.id if "uts" in self.namespaces else "")
        self.environment = {b"PATH": PATH}
        if self.hostname:
            self.environment[b"HOSTNAME"] = os.fsencode(self.hostname)
        if self.tty:
            self.environment[b"TERM"] = b"xterm"
        for text in config.get("Env") or ():
            name, _, value = os.fsencode(text).partition(b"=")
            self.environment[name] = value
        self.environment.update(self.said)

    def add_volumes(self, config: Mapping[str, Any]) -> None:
        """Have a new volume wherever the image wants one (VOLUME), and nothing else is mounted."""
        taken = {one.target for one in self.volumes} | {""}
        for target in config.get("Volumes") or ():
            if "mnt" in self.namespaces and target.strip("/") not in taken:
                text = self.named(target)
                self.volumes.append(volume(in_store(text)))
                self.saved["options"].setdefault("--volume", []).append(text)
        self.volumes.sort(key=lambda one: one.target.count("/"))

    def named(self, text: str) -> str:
        """Return NAME:DST for DST alone: a new volume, which nobody has named."""
        if not text.startswith("/") or ":" in text:
            return text
        self.anonymous.append(os.urandom(32).hex())
        return f"{self.anonymous[-1]}:{text}"

    def why(self, error: OSError) -> str:
        """Return the cause of a failed call of this stage's, and the remedy."""
        return why_not_confined(error) or why_no_network(error) or super().why(error)

    def signal_to_stop(self) -> int:
        """Return what `stop` is to send."""
        return signal_number(self.stop_signal) if self.stop_signal else SIGTERM


def earlier(network: str) -> dict[str, list[str]]:
    """Return what stage 2 is to be told: a namespace for any bridge, or none of its own."""
    kind = KINDS.get(network, "host" if network.startswith("container:") else "bridge")
    return {"--net": [kind]} if kind else {}


def last(options: Options, name: str) -> str:
    """Return an option's last value, "" where it isn't said."""
    return options.get(name, [""])[-1]


def whole(option: str, text: str) -> int:
    """Return a whole number, or raise ValueError."""
    if not text.lstrip("-").isdecimal():
        raise ValueError(f"{option} {text}: say a whole number")
    return int(text)


def policy(text: str) -> tuple[str, int]:
    """Return a restart policy, and how often at most, 0 for any number; or ValueError."""
    name, colon, count = text.partition(":")
    if name not in POLICIES or (colon and (name != "on-failure" or not count.isdecimal())):
        raise ValueError(f"--restart {text}: say no, on-failure, on-failure:N, always or "
                         "unless-stopped")  # fmt: skip
    return name, int(count or 0)


def variables(options: Options) -> dict[bytes, bytes]:
    """Return the variables that are said; `K` alone is the caller's, if the caller has one."""
    lines = []
    for file in options.get("--env-file", ()):
        with open(file, encoding="utf-8", errors="surrogateescape") as opened:
            rows = [row.rstrip("\r\n") for row in opened]
        lines += [row for row in rows if row.strip() and not row.startswith("#")]
    found = {}
    for text in (*lines, *options.get("--env", ())):
        name, equals, value = os.fsencode(text).partition(b"=")
        if not name:
            raise ValueError(f"--env {text}: no name before the =: say K=V")
        if equals:
            found[name] = value
        elif name in os.environb:
            found[name] = os.environb[name]
    return found


def absolute(text: str) -> str:
    """Return SRC:DST[:ro] with a SRC that means the same from everywhere."""
    source, colon, rest = text.partition(":")
    return f"{os.path.abspath(source)}{colon}{rest}" if is_path(source) else text


def in_store(text: str) -> str:
    """Return NAME:DST[:ro] as SRC:DST[:ro]: a volume that has a name is a directory of ours."""
    source, colon, rest = text.partition(":")
    if not colon or is_path(source) or not is_name(source):
        return text
    return f"{store_folder()}/volumes/{source}/_data:{rest}"
