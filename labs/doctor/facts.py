"""What several rows ask about, read or tried once in the life of a report."""

import contextlib
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from checks import kernel
from labs import machine
from labs.doctor import attempt
from labs.doctor.attempt import Outcome, unshare

CAPABILITIES = {
    "chown": 0,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_admin": 12,
    "sys_chroot": 18,
    "sys_ptrace": 19,
    "sys_admin": 21,
    "mknod": 27,
}
"""Their bits in CapEff. See capabilities(7) and linux/capability.h."""

FIRST_NAMESPACES = {
    "ipc": 0xEFFFFFFF,
    "uts": 0xEFFFFFFE,
    "user": 0xEFFFFFFD,
    "pid": 0xEFFFFFFC,
    "cgroup": 0xEFFFFFFB,
}

SECONDS = 10
"""A program that only says its version may wait for a daemon that is starting."""

SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")

TBF = {"handle": "1:", "latency": "50ms"}
"""The rest of what a token bucket filter must be told. See tc-tbf(8)."""

INSTALLERS = {
    "apt-get": "apt-get install",
    "dnf": "dnf install",
    "zypper": "zypper install",
    "pacman": "pacman -S",
    "apk": "apk add",
}


def read(path: str | Path) -> str:
    """Return a small file's text without its end of line, or "" where it can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def program(name: str) -> str | None:
    """Return the path of a program; an ordinary user's PATH often lacks the system's folders."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    return shutil.which(name, path=path)


def as_root(command: str) -> str:
    """Return a command as the reader must type it: with `sudo`, unless they are root."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def install(package: str) -> str:
    """Return the command that installs a package here."""
    for tool, command in INSTALLERS.items():
        if program(tool):
            return as_root(f"{command} {package}")
    return as_root(f"apt-get install {package}")


def _leaving_nothing() -> None:
    """Have what is run now leave nothing on the machine where the doctor is killed.

    It ends with the doctor; and crun, which binds its own program below /tmp while it starts, has
    no time to undo that then. See mount_namespaces(7).
    """
    kernel.die_with_parent()
    with contextlib.suppress(OSError):
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def output(*command: str) -> tuple[int, str]:
    """Return a program's exit status and its first line; -1 where it didn't end in time."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
            preexec_fn=_leaving_nothing,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, next(iter(done.stdout.strip().splitlines()), "")


class Facts:
    """The machine, as seen by this process. Make one before any thread exists: it forks."""

    @cached_property
    def root(self) -> bool:
        """Return whether this is root, of the machine or of a user namespace."""
        return os.geteuid() == 0

    @cached_property
    def first_root(self) -> bool:
        """Return whether this is root of the machine: of its first user namespace."""
        return self.root and "user" not in self.inner_namespaces

    @cached_property
    def status(self) -> dict[str, str]:
        """Return /proc/self/status by its names. See proc_pid_status(5)."""
        lines = read("/proc/self/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @cached_property
    def mounts(self) -> list[machine.Mount]:
        """Return this process's mounts."""
        return machine.mounts()

    @cached_property
    def cgroups(self) -> list[machine.Mount]:
        """Return the cgroup trees that can be reached."""
        return machine.cgroups(self.mounts)

    @cached_property
    def filesystems(self) -> frozenset[str]:
        """Return the file systems that the kernel has now. See proc_filesystems(5)."""
        lines = read("/proc/filesystems").splitlines()
        return frozenset(line.split("\t")[-1] for line in lines)

    @cached_property
    def filtered(self) -> bool:
        """Return whether a seccomp filter is on this process, so on all that it starts."""
        return self.status.get("Seccomp") == "2"

    @cached_property
    def in_chroot(self) -> bool:
        """Return whether / is not a mount point, which is so only behind a chroot.

        The kernel lists only mounts below a process's root, each by its path from there.
        """
        return not any(mount.point == "/" for mount in self.mounts)

    @cached_property
    def inner_namespaces(self) -> list[str]:
        """Return those of our namespaces that are not the machine's first ones.

        The kernel gives its first namespaces fixed inode numbers. See linux/proc_ns.h.
        """
        return [
            name
            for name, first in FIRST_NAMESPACES.items()
            if os.path.exists(f"/proc/self/ns/{name}")
            and os.stat(f"/proc/self/ns/{name}").st_ino != first
        ]

    @cached_property
    def container_kind(self) -> str:
        """Return which kind of container made our namespaces, or "" where nothing tells."""
        for file, kind in (("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")):
            if os.path.exists(file):
                return kind
        # systemd(1) asks container managers to set this for pid 1; only root may read it there.
        for entry in read("/proc/1/environ").split("\0"):
            if entry.startswith("container="):
                return entry.partition("=")[2]
        return read("/run/systemd/container")

    def capable(self, name: str) -> bool:
        """Return whether this process has a capability, by its name without CAP_."""
        return bool(int(self.status.get("CapEff", "0"), 16) >> CAPABILITIES[name] & 1)

    @cached_property
    def rootless(self) -> Outcome:
        """Try what a rootless container needs, as this user or, when root, as nobody."""

        def trial() -> str:
            attempt.become_ordinary()
            attempt.enter_user_namespace("mnt", "pid", "net", "ipc", "uts")
            # Ubuntu's AppArmor lets the namespace be made, and then takes its capabilities away.
            attempt.private_tmpfs()
            return ""

        return attempt.attempt(trial)

    @cached_property
    def links(self) -> dict[str, str]:
        """Make a veth pair, a bridge and a tbf queue in an empty network; what failed, by kind."""
        made = attempt.attempt(_links)
        kinds = ("veth", "bridge", "tbf")
        if not made.ok:
            return dict.fromkeys(kinds, made.said)
        return dict(zip(kinds, made.said.split("\n"), strict=True))


def _links() -> str:
    """Return a line for each of veth, bridge and tbf: empty, or the kernel's error."""
    unshare("net")
    from pyroute2 import IPRoute

    loopback = 1  # the first link of every network: a queue can be tried on it without a veth
    said = []
    with IPRoute() as ip:
        for add, settings in (
            (ip.link, {"ifname": "try0", "kind": "veth", "peer": "try1"}),
            (ip.link, {"ifname": "trybr", "kind": "bridge"}),
            (ip.tc, {"kind": "tbf", "index": loopback, "rate": "1mbit", "burst": 16384, **TBF}),
        ):
            try:
                add("add", **settings)
                said.append("")
            except Exception as error:
                said.append(" ".join(str(error).split()))
    return "\n".join(said)
