"""A Docker daemon of our own, for as long as a test needs it: nothing of it touches the machine.

It runs in a network and a mount namespace of its own, without firewall rules and bridges, and its
data, sockets and pid files are in a temporary folder. Its peers' tests use it too.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from checks.peers import dockerd as daemon

START_SECONDS = 60.0
# The daemon writes a key into /etc/docker, and containerd makes folders in /opt and /run: in its
# mount namespace they land in scratch. Its cgroups are made when a container runs, not before.
SCRIPT = """
set -eu
mkdir -p "$1/etc/upper" "$1/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc/upper,workdir=$1/etc/work" etc /etc
mount -t tmpfs run /run
mount -t tmpfs opt /opt
ip link set lo up
shift
exec "$@"
"""


@dataclass(frozen=True)
class Docker:
    """A running daemon: the environment in which `docker` finds it, and where its files are."""

    environment: dict[str, str]
    base: Path
    pid: int

    def __call__(self, *arguments: str) -> str:
        """Run `docker` with these arguments; return its output."""
        return subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout.strip()

    def load_rootfs(self, tree: Path, image: str = "busybox:latest") -> None:
        """Make an image of a directory, as no registry is needed for that."""
        with subprocess.Popen(
            ["tar", "-C", str(tree), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            subprocess.run(
                ["docker", "import", "-c", 'CMD ["sh"]', "-", image],
                env=self.environment,
                stdin=tar.stdout,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=120,
            )


def missing() -> str:
    """Return why there can be no daemon here, nothing if there can."""
    if os.geteuid() != 0:
        return "a Docker daemon needs root"
    lacking = daemon.missing()
    return f"not installed: {', '.join(lacking)}" if lacking else ""


@contextlib.contextmanager
def started(*options: str, driver: str = "overlay2", bridged: bool = False) -> Iterator[Docker]:
    """Start a daemon with further `options`; stop it and remove all of it in the end.

    Its containers have a network only where it is `bridged`, to a bridge in the daemon's own.
    Where it can't be had, the test is skipped with the reason, and fails with CI=true.
    """
    if reason := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"dockerd: {reason}")
        pytest.skip(f"dockerd: {reason}")
    if not bridged:
        options = ("--bridge=none", *options)
    # Short, because the path of a socket may have 107 bytes: see unix(7).
    base = Path(tempfile.mkdtemp(prefix="lrd-"))
    try:
        try:
            with _running(base, driver, options) as docker:
                yield docker
        except _NoStart as error:
            if driver == "vfs":
                pytest.fail(str(error))
            # An overlay on an overlay is refused, as in a container.
            with _running(base, "vfs", options) as docker:
                yield docker
    finally:
        shutil.rmtree(base)


class _NoStart(Exception):
    pass


@contextlib.contextmanager
def _running(base: Path, driver: str, options: tuple[str, ...]) -> Iterator[Docker]:
    daemon.write_settings(base)
    client = shutil.which("docker", path=daemon.client_path())
    environment = {
        **os.environ,
        "PATH": f"{os.path.dirname(client or '')}:{daemon.path()}",
        "DOCKER_HOST": f"unix://{base}/docker.sock",
        "DOCKER_CONFIG": str(base / "client"),
    }
    environment.pop("DOCKER_CONTEXT", None)
    with (base / "log").open("wb") as log:
        started = [*daemon.command(str(base), driver), *options]
        process = subprocess.Popen(
            ["unshare", "-n", "-m", "sh", "-c", SCRIPT, "dockerd", str(base), *started],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        if not daemon.answers(str(base), lambda: process.poll() is None, START_SECONDS):
            raise _NoStart(daemon.last_words(base / "log"))
        yield Docker(environment, base, process.pid)
    finally:
        _stop(process, base)


def _stop(process: subprocess.Popen[bytes], base: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # A daemon that was killed leaves its containerd: that one is ours too, by its pid file.
    for pidfile in (base / "exec").glob("containerd/*.pid"):
        pid = int(pidfile.read_text())
        with contextlib.suppress(OSError):
            if str(base) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
