"""How a container is started: what ENV, CMD and the like change in an image's configuration."""

from __future__ import annotations

import json
import posixpath
import re
import signal

from stages.stage4_overlayfs.more.dockerfile import Refused, parse_one
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.words import BLANK, expand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from stages.stage4_overlayfs.more.dockerfile import Instruction

SETTINGS = (
    "ENV", "LABEL", "WORKDIR", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "CMD", "ENTRYPOINT",
)  # fmt: skip
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for in an image that doesn't say: Docker's default for Linux."""


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that an image sets."""
    pairs = (row.partition("=") for row in config.get("Env") or [])
    return {name: value for name, _, value in pairs}


def shell_of(config: Mapping[str, Any]) -> list[str]:
    """Return what a line that is no list is given to, as its last argument."""
    return list(config.get("Shell") or ["/bin/sh", "-c"])


def command_of(one: Instruction, config: Mapping[str, Any]) -> list[str]:
    """Return the arguments of RUN, CMD or ENTRYPOINT; the shell substitutes, not we."""
    return one.words if one.exec or one.words == [""] else [*shell_of(config), *one.words]


class Settings:
    """An image's `config`, which is changed in place."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Take it."""
        self.config = config
        self.has_command = False

    def apply(self, one: Instruction, values: Mapping[str, str]) -> str:
        """Do what an instruction says; return it with its variables replaced, for the history.

        Raises ValueError with words.
        """

        def put(text: str) -> str:
            found = expand(text, values, one.escape)
            if "\0" in found:
                raise ValueError("a NUL in it")
            return found

        if one.name in ("ENV", "LABEL"):
            # All of a line see what was before it: ENV a=1 b=$a is not 1.
            pairs = [(put(key), put(value or "")) for key, value in one.pairs]
            return self.pairs(one.name, pairs)
        if one.name in ("CMD", "ENTRYPOINT"):
            return self.command(one)
        if one.name == "EXPOSE":
            # A variable may hold several.
            return self.expose([part for word in one.words for part in BLANK.split(put(word))])
        if one.name == "VOLUME":
            return self.volumes([put(word) for word in one.words])
        text = put(one.words[0])
        if not text:
            raise ValueError(f"{one.name} of nothing: its variable has no value")
        if one.name == "WORKDIR":
            text = posixpath.normpath(posixpath.join(self.workdir, text))
            # Two slashes are what POSIX leaves two.
            text = "/" + text.lstrip("/")
            self.config["WorkingDir"] = text
        elif one.name == "STOPSIGNAL":
            if not is_signal(text):
                raise ValueError(f"{shown(text)}: not a signal: say SIGTERM, or its number")
            self.config["StopSignal"] = text
        else:
            self.config["User"] = text
        return f"{one.name} {text}"

    @property
    def workdir(self) -> str:
        """Return the directory that a container begins in."""
        return self.config.get("WorkingDir") or "/"

    def pairs(self, name: str, pairs: Sequence[tuple[str, str]]) -> str:
        """Set variables, or labels."""
        if any(not key for key, _ in pairs):
            raise ValueError(f"{name} without a name: its variable has no value")
        if name == "LABEL":
            self.config["Labels"] = {**(self.config.get("Labels") or {}), **dict(pairs)}
        else:
            env = {**environment(self.config), **dict(pairs)}
            self.config["Env"] = [f"{key}={value}" for key, value in env.items()]
        return f"{name} " + " ".join(f"{key}={value}" for key, value in pairs)

    def command(self, one: Instruction) -> str:
        """Set what is run."""
        command = [] if one.words in ([], [""]) else command_of(one, self.config)
        key = "Cmd" if one.name == "CMD" else "Entrypoint"
        if one.name == "CMD":
            self.has_command = True
        elif not self.has_command:
            # What was the base's command would be arguments of another program.
            self.config.pop("Cmd", None)
        self.config.pop(key, None)
        if command:
            self.config[key] = command
        return f"{one.name} {json.dumps(command, ensure_ascii=False)}"

    def expose(self, words: Sequence[str]) -> str:
        """Note ports: 80, 80/udp, 8000-8010."""
        ports: dict[str, dict[str, str]] = dict(self.config.get("ExposedPorts") or {})
        for word in filter(None, words):
            found = re.fullmatch(
                r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", word.lower()
            )
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
            if not found or not 1 <= first <= last <= 65535:
                raise ValueError(f"{shown(word)}: not a port: say 80, 80/udp or 8000-8010/tcp")
            for port in range(first, last + 1):
                ports[f"{port}/{found[3] or 'tcp'}"] = {}
        if not ports:
            raise ValueError("EXPOSE of nothing: its variable has no value")
        self.config["ExposedPorts"] = ports
        return f"EXPOSE {' '.join(filter(None, words))}"

    def volumes(self, paths: Sequence[str]) -> str:
        """Note where a container gets a volume of its own, unless it is told of another."""
        if not all(path.startswith("/") and posixpath.normpath(path).strip("/") for path in paths):
            raise ValueError("VOLUME: say absolute paths, and not / itself")
        self.config["Volumes"] = {**(self.config.get("Volumes") or {}), **{p: {} for p in paths}}
        return f"VOLUME {json.dumps([*paths], ensure_ascii=False)}"


def is_signal(text: str) -> bool:
    """Return whether a text is a signal's number or name, such as 9, KILL or SIGRTMIN+3."""
    if text.isdecimal():
        return 0 < int(text) < signal.NSIG
    name, _, more = text.upper().removeprefix("SIG").partition("+")
    return f"SIG{name}" in signal.Signals.__members__ and (not more or more.isdecimal())


def change(config: dict[str, Any], texts: Sequence[str]) -> list[str]:
    """Apply instructions such as `CMD ["/bin/sh"]` to a configuration; return what they were."""
    settings, done = Settings(config), []
    for text in texts:
        try:
            one = parse_one(text)
            if one.name not in SETTINGS:
                raise ValueError(f"not a setting: say one of {', '.join(SETTINGS)}")
            done.append(settings.apply(one, environment(config)))
        except Refused as error:
            raise ValueError(f"{shown(text)}: {str(error).partition(': ')[2]}") from None
        except ValueError as error:
            raise ValueError(f"{shown(text)}: {error}") from None
    return done
