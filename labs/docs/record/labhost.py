"""The lab host: a throw-away machine that is the same everywhere, for demos to be recorded on.

Namespaces of its own (mounts, network, uts, ipc, pid), in which a machine has been set up as a
student's virtual machine is: a host name, one network card with a default route, a root file system
in /srv/rootfs, and few processes. The kernel takes it away with its pid 1.
"""

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks import kernel
from labs.paths import CHECKOUT
from labs.texts import say

ROOT = Path("/srv/rootfs")
NAME = "labhost"
ADDRESS, GATEWAY, PREFIX = "10.0.2.15", "10.0.2.2", 24
"""What QEMU's own network gives to a guest, and so does Vagrant's."""
TEMPORARY = "/srv/tmp"
"""Its folder for temporary files: /tmp stays the machine's, which may hold this very checkout."""
STORE = f"{TEMPORARY}/store"
"""Where images and containers are kept on it, in place of the machine's /var/lib/labrun/store."""
COVERED = ("/run", "/srv")
"""What of the machine's it hides."""
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "SHELL": "/bin/sh",
    "TERM": "xterm-256color",
    "TMPDIR": TEMPORARY,
    "USER": "root",
}
"""Always as many variables, since a trace tells their number."""


def run(command: Sequence[str], rootfs: Path, environment: Mapping[str, str]) -> int:
    """Run a command on a lab host with a copy of `rootfs`; return its exit status.

    It dies with this process. Raises OSError where this machine can't have one.
    """
    for path in (CHECKOUT, Path(sys.prefix)):
        if any(path.is_relative_to(place) for place in COVERED):
            raise OSError(errno.EBUSY, say("docs.covered"), str(path))
    # Only loaded, before the fork: afterwards the child would look for it on the lab host.
    import pyroute2  # noqa: F401  # only loaded here

    outer = os.fork()
    if outer == 0:
        status = 1
        try:
            kernel.die_with_parent()
            spaces = ("mnt", "net", "uts", "ipc", "pid")
            kernel.unshare(sum(kernel.NAMESPACES[name] for name in spaces))
            init = os.fork()
            if init == 0:
                kernel.die_with_parent()
                _furnish(rootfs)
                _be_init(command, environment)
            status = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
        except OSError as error:
            print(f"lab host: {error}", file=sys.stderr)
        finally:
            # Whatever went wrong, this process must never go on as a second recorder.
            os._exit(status & 0xFF)
    return os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1])


def _furnish(rootfs: Path) -> None:
    """Set the machine up: mounts, name, network, files."""
    # First of all: nothing that is mounted from here on may reach the machine.
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("proc", "/proc", "proc", flags | kernel.MS_NOEXEC)
    for folder in COVERED:
        kernel.mount("tmpfs", folder, "tmpfs", flags, "mode=755,size=256m")
    os.umask(0o022)
    os.mkdir(TEMPORARY, 0o777)
    shutil.copytree(rootfs, ROOT, symlinks=True)
    kernel.sethostname(NAME)
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        # A pair of which one end is the card, and the other the cable.
        ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "cable"})
        for name in ("lo", "eth0", "cable"):
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
        card = ip.link_lookup(ifname="eth0")[0]
        ip.addr("add", index=card, address=ADDRESS, prefixlen=PREFIX)
        ip.route("add", dst="default", gateway=GATEWAY)


def _be_init(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Become pid 1: a shell by the name of init, which runs the command and ends as it ends."""
    init = shutil.copy(os.path.realpath("/bin/sh"), "/run/init")
    script = os.memfd_create("script")
    os.write(script, f"{shlex.join(command)} </dev/null\nexit $?\n".encode())
    os.lseek(script, 0, os.SEEK_SET)
    os.dup2(script, 0)
    os.execve(init, ["init"], {**ENVIRONMENT, **environment})
