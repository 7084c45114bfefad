"""Peers that are called with ROOT and a command, and keep nothing."""

from collections.abc import Mapping
from typing import ClassVar

from checks.bench import Bench
from checks.runtimes import BOOTTIME, Asked, Request, Runtime, refuse, unsupported
from checks.words import say


class Host(Runtime):
    """No runtime at all: the command runs on the host. What the others are compared with."""

    has_images = False

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return the command, behind env(1), which says 126 and 127 as a shell does."""
        refuse(self, request, "workdir", "options", "root")
        return ["env", *request.command]

    def environment(self, request: Request) -> Mapping[str, str]:
        """Return the command's environment: it is the runtime's."""
        return request.environment


class Chroot(Host):
    """chroot(8) of coreutils."""

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `chroot ROOT COMMAND`."""
        refuse(self, request, "workdir")
        asked = Asked.of(self, request)
        return ["chroot", *asked.rest, request.root or str(bench.root), *request.command]


class Unshare(Host):
    """unshare(1) of util-linux: all namespaces, but no network in them, and no name."""

    # In a network of its own it leaves `lo` down: that is no `--net none`.
    networks = ("host",)
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

    networks = ("none", "host")
    has_images = False

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `bwrap … --bind ROOT / … COMMAND`."""
        asked = Asked.of(self, request, "--namespaces", "--hostname", "--net", "--boottime")
        if "mnt" not in asked.namespaces:
            unsupported(self, say("runtime.without", namespace="mnt"))
        if "time" in asked.namespaces:
            unsupported(self, "--namespaces time")
        words = [f"--unshare-{name}" for name in sorted(asked.namespaces - {"mnt"})]
        if "--hostname" in asked.values:
            words += ["--hostname", asked.values["--hostname"]]
        words += ["--bind", request.root or str(bench.root), "/", "--proc", "/proc"]
        words += ["--dev", "/dev", "--chdir", request.workdir or "/"]
        for name, value in request.environment.items():
            words += ["--setenv", name, value]
        return ["bwrap", *words, *asked.rest, "--", *request.command]
