"""The distribution's packages: say what is missing, fetch it, and let none of it start a daemon."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labs.errors import CANNOT, FAILED, Refused

POLICY = Path("/usr/sbin/policy-rc.d")
"""Asked by Debian's packages before they start a service; 101 forbids it (invoke-rc.d(8))."""

DAEMONS = ("dockerd", "containerd", "docker-registry", "redis-server", "nginx")
UNITS = (
    "docker.service",
    "docker.socket",
    "containerd.service",
    "docker-registry.service",
    "redis-server.service",
    "nginx.service",
)


@dataclass(frozen=True)
class Package:
    """A package of the distribution, the program (or path) for which it is wanted, and why."""

    name: str
    program: str
    why: str
    newer: bool = False
    """Whether only newer releases have it; in older ones its program is in another package."""

    def missing(self) -> bool:
        """Tell whether its program or path is not to be found, /usr/sbin included."""
        if self.program.startswith("/"):
            return not os.path.exists(self.program)
        path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
        if shutil.which(self.program, path=path):
            return False
        return not self.newer or available(self.name)


PEERS = [
    Package("runc", "runc", "the peer @runc"),
    Package("crun", "crun", "the peer @crun"),
    Package("bubblewrap", "bwrap", "the peer @bwrap"),
    Package("docker.io", "dockerd", "the peer @docker, and the article's docker export"),
    # Since Debian 13 the client is a package of its own, which docker.io only recommends.
    Package("docker-cli", "docker", "the client of @docker", newer=True),
    Package("podman", "podman", "the peer @podman"),
    # What makes Podman's network; iptables, which it runs, comes with docker.io.
    Package("netavark", "/usr/lib/podman/netavark", "the network of @podman"),
    Package("docker-registry", "docker-registry", "a registry to fetch images from and send to"),
    Package("skopeo", "skopeo", "another program that does that, to compare"),
    Package("umoci", "umoci", "another that reads OCI layouts"),
    Package("redis-server", "redis-server", "a service that stage 5 runs"),
    Package("redis-tools", "redis-benchmark", "its client, which puts it under load"),
    Package("nginx-light", "nginx", "a web server that stage 5 runs"),
    Package("wrk", "wrk", "its client"),
]
"""The runtimes that the checks are calibrated on, what images are exchanged with, and services."""

CORE = [
    Package("nftables", "nft", "the networks of stage 5"),
    Package("linux-libc-dev", "/usr/include/linux/capability.h", "the kernel's own numbers"),
    Package("fuse3", "fusermount3", "AUFS's rules in user space, by libfuse"),
    Package("openssl", "openssl", "the certificate of a registry that the tests run"),
]
"""What the core tests take beside Python; without it they say so, and are skipped."""

BROWSER = [
    Package("chromium", "chromium", "the site's pages, in a real browser"),
    Package("fonts-noto-cjk", "/usr/share/fonts/opentype/noto", "its Chinese pages"),
]
"""What looks at the site."""


def running(names: tuple[str, ...] = DAEMONS) -> set[int]:
    """Return the process ids whose program has one of the names (proc_pid_comm(5))."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().rstrip("\n") in names:
                found.add(int(comm.parent.name))
        except OSError:  # it ended while we looked
            continue
    return found


@contextmanager
def no_service_starts(policy: Path = POLICY) -> Iterator[None]:
    """Forbid packages that are installed meanwhile to start their services."""
    try:
        fd = os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        # Somebody's own policy: it decides, and the check after the installation still looks.
        yield
        return
    try:
        os.write(fd, b"#!/bin/sh\n# Put here by `labrun test --all` while it installs.\nexit 101\n")
        os.fchmod(fd, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        os.close(fd)
        yield
    finally:
        policy.unlink(missing_ok=True)


def apt(*words: str) -> subprocess.CompletedProcess[str]:
    """Run apt-get without questions, as root."""
    return subprocess.run(
        ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def install(names: list[str]) -> None:
    """Install packages; none of their services runs afterwards, and none starts at boot.

    Raises Refused where there is no apt, no root, or where apt fails.
    """
    if not names:
        return
    what = f"installing {' '.join(names)}"
    if not shutil.which("apt-get"):
        raise Refused(
            what, "there is no apt-get here", "install their like with your own", status=CANNOT
        )
    if os.geteuid() != 0:
        raise Refused(what, "this needs root", "sudo ./labrun test --all", status=CANNOT)
    before = running()
    enabled = {unit for unit in UNITS if is_enabled(unit)}
    with no_service_starts():
        words = ("install", "--no-install-recommends", *names)
        done = apt(*words)
        if done.returncode != 0 and apt("update").returncode == 0:
            done = apt(*words)
    # systemd would start at the next boot what the package enabled.
    if new := [unit for unit in UNITS if unit not in enabled and is_enabled(unit)]:
        subprocess.run(
            ["systemctl", "disable", "--now", *new],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    if done.returncode != 0:
        reason = next(
            (line for line in reversed(done.stdout.splitlines()) if line.startswith("E: ")),
            f"apt-get ended with {done.returncode}",
        )
        raise Refused(
            what, reason.removeprefix("E: "), f"apt-get install {' '.join(names)}", status=CANNOT
        )
    if started := running() - before:
        pids = " ".join(map(str, sorted(started)))
        raise Refused(
            what, f"a daemon was started by it (pid {pids})", f"kill {pids}", status=FAILED
        )


def is_enabled(unit: str) -> bool:
    """Tell whether systemd starts the unit at boot; without systemd nothing does."""
    if not shutil.which("systemctl"):
        return False
    return (
        subprocess.run(
            ["systemctl", "is-enabled", "--quiet", unit],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        == 0
    )


def available(name: str) -> bool:
    """Tell whether the distribution has a package of that name."""
    if not shutil.which("apt-cache"):
        return False
    shown = subprocess.run(["apt-cache", "show", name], capture_output=True, check=False)
    return shown.returncode == 0 and bool(shown.stdout)
