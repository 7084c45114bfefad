"""The student's machine as a disk: made of the distribution's packages, once for the same inputs.

    IMAGES/HASH/disk.qcow2          Debian, provisioned, with both kernels' modules
    IMAGES/HASH/{current,oldest}/   vmlinuz and initrd of each kernel
    IMAGES/HASH/host.pub            the machine's own ssh key

Made as root, beside its place, and renamed: it is there whole, or not at all.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labs import packages
from labs.demo.stop import Stop
from labs.errors import CANNOT, FAILED, Refused
from labs.paths import CHECKOUT, copy_checkout
from labs.rootfs import progress, staging
from labs.texts import say

SUITE = "trixie"
"""Debian 13."""
OLDEST = "bookworm"
"""Debian 12: its kernel, 6.1, is the oldest that labrun is tested on."""
KERNELS = ("current", "oldest")
PACKAGES = (
    *("systemd-sysv", "udev", "kmod", "dbus", "dbus-user-session", "libpam-systemd"),
    *("openssh-server", "sudo", "python3", "python3-venv", "rsync", "ca-certificates"),
    *("initramfs-tools", "iproute2", "procps", "dmsetup"),
)
"""A machine that one can log in to; what labrun needs on it is provision.sh's."""
SIZE = "8G"
DEBOOTSTRAP = ("unshare", "--mount", "mmdebstrap")
"""It mounts /proc, /sys and devices in the tree: nobody else sees those, nor has them left over."""


@dataclass(frozen=True)
class Arch:
    """What differs from one processor to the next."""

    debian: str
    qemu: str
    package: str
    """The package that has `qemu`."""
    machine: str
    console: str


ARCHES = {
    "x86_64": Arch("amd64", "qemu-system-x86_64", "qemu-system-x86", "q35", "ttyS0"),
    "aarch64": Arch("arm64", "qemu-system-aarch64", "qemu-system-arm", "virt", "ttyAMA0"),
}


def arch() -> Arch:
    """Return this machine's; raise Refused where we have no recipe for it."""
    name = platform.machine()
    if name not in ARCHES:
        raise Refused("vm", say("vm.no_arch", name=name), status=CANNOT)
    return ARCHES[name]


def wanted() -> list[packages.Package]:
    """Return what the making and the running need, from the distribution."""
    ours = ARCHES.get(platform.machine(), ARCHES["x86_64"])
    return [
        packages.Package(ours.package, ours.qemu, "the virtual machine"),
        packages.Package("qemu-utils", "qemu-img", "its disk"),
        packages.Package("mmdebstrap", "mmdebstrap", "what is on it"),
        packages.Package("debian-archive-keyring", f"{KEYRINGS}/{KEYRING}", "that it is genuine"),
        packages.Package("e2fsprogs", "mke2fs", "its file system"),
        packages.Package("rsync", "rsync", "the checkout, copied in"),
        packages.Package("openssh-client", "ssh", "the way in"),
    ]


KEYRINGS, KEYRING = "/usr/share/keyrings", "debian-archive-keyring.gpg"


def folder() -> Path:
    """Return where images are kept: root makes them, and everybody may start one."""
    return Path(os.environ.get("LABRUN_CACHE") or "/var/cache/labrun") / "vm" / "images"


def current() -> Path:
    """Return the place of the image that this checkout asks for, made already or not."""
    inputs = [
        *(CHECKOUT / "labs/vm" / name for name in ("image.py", "customize.sh", "provision.sh")),
        *(CHECKOUT / f"requirements{group}.lock" for group in ("", "-dev")),
    ]
    made_from = hashlib.sha256(arch().debian.encode())
    for path in inputs:
        made_from.update(path.read_bytes())
    return folder() / made_from.hexdigest()[:16]


def make() -> Path:
    """Return the image, and make it first where it isn't there. As root; raises Refused."""
    place = current()
    if place.exists():
        return place
    with Stop() as interrupts, staging.alone(place.parent, interrupts):
        # Another labrun may have made it while we waited.
        if not place.exists():
            progress.line(say("vm.making"))
            staging.build(place, _fill, interrupts)
            # What started from an older one has a copy.
            for older in place.parent.iterdir():
                if older != place and not older.name.startswith("."):
                    shutil.rmtree(older)
    return place


def _fill(root: Path, work: Path) -> None:
    """Make everything of an image in the folder `root`."""
    ours, tree, kernel = arch(), work / "tree", work / "kernel"
    image = f"linux-image-cloud-{ours.debian}"
    copy_checkout(work / "checkout")
    # mmdebstrap unpacks as other users than root, who have to get here.
    for folder_ in (work.parent, work):
        folder_.chmod(0o755)
    common = ["--components=main", f"--architectures={ours.debian}", f"--keyring={KEYRINGS}"]
    progress.line(say("vm.making_kernel"))
    _call([*DEBOOTSTRAP, "--variant=extract", f"--include={image}", *common, OLDEST, kernel])
    progress.line(say("vm.making_tree"))
    script = shlex.quote(str(CHECKOUT / "labs/vm/customize.sh"))
    customize = f'{script} "$1" {shlex.join([str(work / "checkout"), str(kernel)])}'
    include = ",".join([image, *PACKAGES])
    _call(
        [
            *(*DEBOOTSTRAP, "--variant=minbase", f"--include={include}", *common),
            *(f"--customize-hook={customize}", SUITE, tree),
        ]
    )
    progress.line(say("vm.making_disk"))
    oldest = next((kernel / "lib/modules").iterdir()).name
    newest = next(p.name for p in (tree / "usr/lib/modules").iterdir() if p.name != oldest)
    for name, release in zip(KERNELS, (newest, oldest), strict=True):
        (root / name).mkdir()
        shutil.copyfile(tree / f"boot/vmlinuz-{release}", root / name / "vmlinuz")
        shutil.copyfile(tree / f"boot/initrd.img-{release}", root / name / "initrd")
    shutil.copyfile(tree / "etc/ssh/ssh_host_ed25519_key.pub", root / "host.pub")
    raw = work / "disk.raw"
    _call(["mke2fs", "-q", "-t", "ext4", "-L", "labrun", "-d", tree, raw, SIZE])
    _call(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, root / "disk.qcow2"])


def _call(command: Sequence[str | Path]) -> None:
    """Run a part of the making; show where it is, and the end of what it said where it fails."""
    said: list[str] = []
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                said.append(line)
                if line.startswith("labrun: "):
                    progress.line(f"  {line.removeprefix('labrun: ').rstrip()}")
        except KeyboardInterrupt:
            process.terminate()
            raise
    if process.returncode != 0:
        print("".join(f"  {line}" for line in said[-12:]), end="", file=sys.stderr)
        why = say("vm.ended", program=words[0], status=process.returncode)
        raise Refused("vm", why, say("vm.again"), status=FAILED)
