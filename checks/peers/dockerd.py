"""A Docker daemon of one's own: the command line that starts it, and when it is ready.

Nothing of the machine's daemon is touched: not its data, its settings, its socket or its
containerd, for which dockerd looks in /run. So whoever starts one gives it another /run first, and
a network namespace, where it makes its bridge.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("dockerd", "containerd", "docker", "runc")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin"


def path() -> str:
    """Return a PATH along which the daemon and what it starts are found, also for sudo's user."""
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def missing() -> list[str]:
    """Return which programs there must be and aren't."""
    return [name for name in PROGRAMS if not shutil.which(name, path=path())]


def command(base: str, driver: str = "overlay2") -> list[str]:
    """Return how to start the daemon with all of its files in the directory `base`.

    Without firewall rules: for them it would load modules into the machine's kernel. A kernel that
    takes no modules has what it needs for them, or never will.
    """
    rules = "false" if takes_modules() else "true"
    return [
        "dockerd",
        # The machine's own settings (/etc/docker/daemon.json) are not for this one.
        f"--config-file={base}/daemon.json",
        f"--data-root={base}/data",
        f"--exec-root={base}/exec",
        f"--pidfile={base}/dockerd.pid",
        f"--host=unix://{base}/docker.sock",
        f"--storage-driver={driver}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--ip6tables=false",
        f"--iptables={rules}",
        f"--ip-masq={rules}",
    ]


def takes_modules() -> bool:
    """Return whether the machine's kernel can be given modules. See proc_modules(5)."""
    return os.path.exists("/proc/modules")


def write_settings(base: Path) -> None:
    """Make the file of settings that the command line names: none."""
    (base / "daemon.json").write_text("{}\n", encoding="ascii")


def client_path() -> str:
    """Return a PATH along which the client is found that was packaged with the daemon.

    Another may refuse the daemon for its age.
    """
    daemon = shutil.which("dockerd", path=path()) or ""
    return f"{os.path.dirname(daemon)}:/usr/bin:{path()}"


def client(base: str) -> list[str]:
    """Return the client's first words: the user's own settings are not for this one."""
    found = shutil.which("docker", path=client_path())
    return [found or "docker", f"--config={base}/client", f"--host=unix://{base}/docker.sock"]


def answers(base: str, alive: Callable[[], bool], patience: float) -> bool:
    """Wait until the daemon answers: False where it ends, or patience (seconds) does, before.

    `base` is the daemon's directory as the caller reaches it.
    """
    until = time.monotonic() + patience
    while alive() and time.monotonic() < until:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(1)
            try:
                # It listens before it is ready, and then lets us wait for the answer.
                asked.connect(f"{base}/docker.sock")
                asked.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b" 200 " in asked.recv(64):
                    return True
            except OSError:
                pass
        time.sleep(0.05)  # a socket that isn't there yet tells nobody when it is
    return False


def last_words(log: Path) -> str:
    """Return the end of what the daemon wrote: why it isn't there."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
