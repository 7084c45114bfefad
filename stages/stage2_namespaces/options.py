"""The options that stage 2 adds, and what they ask for."""

from __future__ import annotations

import os

from stages import command_line
from stages.netlink import ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time")
"""The namespaces that Linux has: see namespaces(7)."""
DAY = 86400

OPTIONS = (
    *command_line.OPTIONS[:2],
    ("", "--hostname", "NAME", "the host name, inside only"),
    ("", "--namespaces", "LIST", "which are new (pid,net,mnt,ipc,uts), of these and user,cgroup,"),
    ("", "", "", "time; root's users 0-65535 become 100000-165535, a user's 0 that user"),
    ("", "--net", "KIND", "bridge: eth0 with an address and a default route (root's default);"),
    ("", "", "", "none: lo alone (an ordinary user's); host: the network outside"),
    ("", "--ip", "ADDR", "this address on the bridge, not the next that is free"),
    ("", "--boottime", "SECONDS", f"what a new time adds to the boot-time clock ({DAY})"),
    *command_line.OPTIONS[2:],
)


class Isolated(command_line.Container):
    """A container and what of the host's it is not to see."""

    def __init__(self, operands: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
        """Take the operands and options of `run`; raise Usage or ValueError where they are off."""
        super().__init__(operands, options)
        self.rootless = os.geteuid() != 0
        words = options.get("--namespaces", ["pid,net,mnt,ipc,uts"])[-1].split(",")
        if unknown := [word for word in words if word and word not in KINDS]:
            raise ValueError(f"--namespaces {unknown[0]}: it is none of {', '.join(KINDS)}")
        self.namespaces = {word for word in words if word}
        self.hostname = options.get("--hostname", [""])[-1]
        self.boottime = seconds(options.get("--boottime", [str(DAY)])[-1])
        self.ip = options.get("--ip", [""])[-1]
        self.net = options.get("--net", ["none" if self.rootless else "bridge"])[-1]
        if self.net not in ("bridge", "none", "host"):
            raise ValueError(f"--net {self.net}: it is none of bridge, none, host")
        if self.net == "host":
            self.namespaces.discard("net")
        elif "--net" in options:
            # Whoever asks for a network other than the host's asks for a namespace to have it in.
            self.namespaces.add("net")
        self.require(options)

    def require(self, options: Mapping[str, Sequence[str]]) -> None:
        """Raise ValueError for an option that the namespaces asked for can't fulfil."""
        needs = {"--hostname": "uts", "--boottime": "time", "--ip": "net"}
        for option, kind in needs.items():
            if option in options and kind not in self.namespaces:
                raise ValueError(f"{option} needs a {kind} namespace: add {kind} to --namespaces")
        if self.ip and self.net != "bridge":
            raise ValueError(f"--ip {self.ip}: an address needs --net bridge")
        if self.ip:
            ipv4(self.ip)
        if "--net" in options and self.net == "bridge" and self.rootless:
            raise ValueError("--net bridge: it takes root to change a network: say --net none")


def seconds(text: str) -> int:
    """Return a whole number of seconds, or raise ValueError."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--boottime {text}: say a whole number of seconds") from None
