"""A root file system from one static busybox, laid out as `docker export` shows the article's."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from labs import paths
from labs.errors import CANNOT, Refused
from labs.rootfs import apt, elf, progress, staging
from labs.rootfs.interrupts import Interrupts
from labs.texts import say

RECIPE = 1
"""Counts the changes to what `lay_out` makes; a cached root file system of another is not used."""
PACKAGE = "busybox-static"
# Debian's and Fedora's name, then Alpine's.
NAMES = ("busybox", "busybox.static", "busybox-static")
# sudo's PATH need not be the caller's.
PLACES = ("/bin", "/usr/bin", "/sbin", "/usr/sbin", "/usr/local/bin")
# fmt: off
NEEDED = frozenset({
    "cat", "chroot", "dd", "echo", "env", "false", "hostname", "id", "ip", "kill", "ls", "mkdir",
    "mount", "mv", "ping", "ps", "pwd", "rm", "sh", "sleep", "sync", "touch", "true", "umount",
    "uname", "wget",
})
# fmt: on
DATE = 1538352000
"""The times of all files, in seconds since 1970: 1 October 2018, the article's day."""
DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "dev/pts": 0o755,
    "dev/shm": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}
# Empty are the files over which an engine mounts its own.
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/hostname": "",
    "etc/resolv.conf": "",
}


@dataclass(frozen=True)
class Busybox:
    """A static busybox that this machine can run, and the names of its applets."""

    path: Path
    applets: tuple[str, ...]

    def key(self) -> str:
        """Name what `lay_out` makes of it: the same content and recipe, the same name."""
        content = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return f"busybox-{RECIPE}-{content[:16]}"


def find(interrupts: Interrupts) -> Busybox:
    """Return a static busybox of this machine, or one from its distribution's package.

    The package is downloaded into the cache, never installed: that could remove another busybox.
    Raises Refused where there is none to be had.
    """
    folder = paths.cache() / "packages"
    unpacked = folder / PACKAGE
    for path in (*_on_this_machine(), *_in(unpacked)):
        if found := fit(path):
            return found
    if not apt.have():
        raise Refused(
            "busybox",
            say("rootfs.no_busybox"),
            say("rootfs.no_busybox.remedy", package=PACKAGE),
            status=CANNOT,
        )
    with staging.alone(folder, interrupts):
        for path in _in(unpacked):
            # Another labrun has downloaded it meanwhile.
            if found := fit(path):
                return found
        if unpacked.exists():
            staging.remove(unpacked)
        progress.line(say("rootfs.downloading", package=PACKAGE))
        staging.build(
            unpacked, lambda root, work: apt.unpack(PACKAGE, root, work, interrupts), interrupts
        )
    for path in _in(unpacked):
        if found := fit(path):
            return found
    raise Refused(
        PACKAGE,
        say("rootfs.unfit_package"),
        say("rootfs.no_busybox.remedy", package=PACKAGE),
        status=CANNOT,
    )


def fit(path: Path) -> Busybox | None:
    """Return the busybox at `path` if it is static, for this machine, and has the applets."""
    try:
        header, ours = elf.read(path), elf.ours()
        if header is None or header.loader is not None:
            return None
        if (header.bits, header.machine) != (ours.bits, ours.machine):
            return None
        listed = subprocess.run(
            [path, "--list"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    applets = {name for name in listed.stdout.split() if "/" not in name} - {".", "..", "busybox"}
    if listed.returncode != 0 or not applets >= NEEDED:
        return None
    return Busybox(path, tuple(sorted(applets)))


def lay_out(busybox: Busybox, root: Path) -> None:
    """Make the root file system in the empty directory `root`, always the same to the byte.

    Every applet is a link in /bin and nowhere else: along the article's PATH, which has no /bin,
    `ls` is not found.
    """
    for name, mode in DIRECTORIES.items():
        # mkdir(2) takes the umask away.
        (root / name).mkdir()
        (root / name).chmod(mode)
    for name, content in FILES.items():
        (root / name).write_text(content)
        (root / name).chmod(0o644)
    shutil.copyfile(busybox.path, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in busybox.applets:
        (root / "bin" / applet).symlink_to("busybox")
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            os.utime(os.path.join(folder, name), (DATE, DATE), follow_symlinks=False)
    os.utime(root, (DATE, DATE))


def intact(busybox: Busybox, root: Path) -> bool:
    """Tell whether `root` still has all that `lay_out` made; what was added since is no harm."""
    links = {f"bin/{applet}": "busybox" for applet in busybox.applets}
    try:
        return (
            all(os.readlink(root / name) == target for name, target in links.items())
            and (root / "bin/busybox").read_bytes() == busybox.path.read_bytes()
            and all((root / name).read_text() == content for name, content in FILES.items())
            and all(
                (root / name).lstat().st_mode == 0o40000 | mode
                for name, mode in DIRECTORIES.items()
            )
            and (root / "bin/busybox").lstat().st_mode == 0o100755
        )
    except (OSError, ValueError):
        return False


def _on_this_machine() -> list[Path]:
    folders = dict.fromkeys([*os.get_exec_path(), *PLACES])
    # A relative entry of PATH means another file in every directory.
    return [Path(folder, name) for folder in folders if folder.startswith("/") for name in NAMES]


def _in(unpacked: Path) -> list[Path]:
    return [unpacked / "bin/busybox", unpacked / "usr/bin/busybox"]
