"""Device mapper: layers as snapshots of block devices, below any file system instead of above one.

A thin pool hands out blocks from one big file. A snapshot is a device that shares all blocks of
another until one of them is written; so a layer is a snapshot of the layer below with more in it,
and a container's is a snapshot of the topmost one. What is copied when something is written is a
block of 64 KiB, not a file. See the kernel's device-mapper/thin-provisioning.rst.
"""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import ExitStack
from hashlib import sha256

from stages import linux
from stages.stage4_overlayfs.more.branches import NoMarks, Union
from stages.stage4_overlayfs.more.changes import Comparison
from stages.stage4_overlayfs.more.places import Places, apply, chain, is_mounted, take_away
from stages.stage4_overlayfs.whiteouts import ApplyForm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stages.stage4_overlayfs.storage import Layer

SECTOR = 512
"""Bytes; the device mapper counts in these."""
BLOCK = 128
"""Sectors of what is shared or copied at once: 64 KiB, the least that a pool can have."""
VIRTUAL = 10 << 30
"""Bytes of each device, as Docker's: what it takes of the pool is only what was written."""
DATA, METADATA = 100 << 30, 1 << 30
"""Bytes of the pool's two files, with holes: what they take of the disk is only what is used."""
LOW = 4096
"""Blocks left at which the kernel tells; nobody listens here, so the number means little."""


def run(line: list[str]) -> str:
    """Run a program; return what it prints, or raise OSError with what it complains about."""
    ended = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise OSError(errno.EIO, lines[-1] if lines else f"it ended with {ended.returncode}")
    return ended.stdout.strip()


def command(*line: str) -> str:
    """Run a program, seen by --trace as a call is."""
    return str(linux.request(" ".join(line), run, list(line)))


def dmsetup(*words: str) -> str:
    """Ask the device mapper; it makes the nodes in /dev/mapper itself, with or without udev."""
    return command("dmsetup", "--noudevrules", "--noudevsync", *words)


def devices() -> list[str]:
    """Return the names of the device mapper's devices."""
    try:
        return os.listdir("/dev/mapper")
    except FileNotFoundError:
        return []


class Pool:
    """The thin pool of one store: two files, a loop device for each, and a number a snapshot.

    It is there while a device of it is in use. Whoever changes it holds its lock.
    """

    def __init__(self, root: str) -> None:
        """Take the store's folder."""
        self.folder = f"{root}/devicemapper"
        # Device names are the machine's; two stores must not meet.
        self.prefix = f"labrun-{sha256(os.fsencode(root)).hexdigest()[:8]}"
        self.name = f"{self.prefix}-pool"
        self.lock = -1

    def __enter__(self) -> Pool:
        """Lock it, and have it there."""
        os.makedirs(self.folder, 0o710, exist_ok=True)
        flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC
        self.lock = linux.open_file(self.folder, flags)
        try:
            linux.flock(self.lock, linux.LOCK_EX)
            if self.name not in devices():
                self.start()
        except BaseException:
            os.close(self.lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it down where no device of it is left; unlock it."""
        try:
            users = [name for name in devices() if name.startswith(self.prefix)]
            if users == [self.name]:
                self.stop()
        finally:
            os.close(self.lock)

    def start(self) -> None:
        """Make the pool's device of its files; all is unmade where a step fails."""
        if "thin-pool" not in dmsetup("targets"):
            # The target is a module of its own; dmsetup loads none but device mapper itself.
            command("modprobe", "dm-thin-pool")
        with ExitStack() as undo:
            # Files with holes. A new pool's metadata has to begin with zeros, and does.
            for name, size in (("data", DATA), ("metadata", METADATA)):
                path = f"{self.folder}/{name}"
                with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                    file.truncate(size)
            data = self.loop("data", undo)
            metadata = self.loop("metadata", undo)
            # Blocks are not filled with zeros first: mkfs and the file system write what they read.
            table = f"0 {DATA // SECTOR} thin-pool {metadata} {data} {BLOCK} {LOW}"
            dmsetup("create", self.name, "--table", f"{table} 1 skip_block_zeroing")
            undo.callback(dmsetup, "remove", "--retry", self.name)
            self.delete_pending()
            undo.pop_all()

    def loop(self, name: str, undo: ExitStack) -> str:
        """Return a loop device for one of the files; `undo` frees it."""
        path = f"{self.folder}/{name}"
        device = command("losetup", "--find", "--show", "--nooverlap", path)
        undo.callback(command, "losetup", "--detach", device)
        return device

    def stop(self) -> None:
        """Take the pool's device and the loop devices away; the files stay."""
        dmsetup("remove", "--retry", self.name)
        for name in ("data", "metadata"):
            path = f"{self.folder}/{name}"
            for line in command("losetup", "--noheadings", "--output", "NAME", "-j", path).split():
                command("losetup", "--detach", line)

    def message(self, words: str) -> None:
        """Tell the pool to do something."""
        dmsetup("message", f"/dev/mapper/{self.name}", "0", words)

    def new_number(self) -> int:
        """Return a number that no device of the pool has, and never had."""
        path = f"{self.folder}/last"
        try:
            with open(path, encoding="ascii") as file:
                number = int(file.read()) + 1
        except FileNotFoundError:
            number = 1
        # On the disk before it is used: a number used twice would be two layers in one device.
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(str(number))
            file.flush()
            os.fsync(file.fileno())
        linux.rename(f"{path}.new", path)
        linux.fsync(self.folder)
        return number

    def create(self, below: int) -> int:
        """Make a device: a snapshot of another, or an empty one. `keep` it, else it goes again."""
        number = self.new_number()
        self.suspect(number)
        self.message(f"create_snap {number} {below}" if below else f"create_thin {number}")
        return number

    def suspect(self, number: int) -> None:
        """Note that a device is on its way in or out: who finds the note later is to delete it."""
        os.makedirs(f"{self.folder}/pending", 0o710, exist_ok=True)
        with open(f"{self.folder}/pending/{number}", "w", encoding="ascii"):
            linux.fsync(f"{self.folder}/pending")

    def keep(self, number: int) -> None:
        """Take the note away: all is as it should be."""
        os.unlink(f"{self.folder}/pending/{number}")

    def delete(self, number: int) -> None:
        """Give a device's blocks back, but for those that others share; no error where it is gone.

        Raises OSError where it is in use.
        """
        self.suspect(number)
        try:
            self.message(f"delete {number}")
        except OSError:
            # Where the number is free, a killed process came as far as that: then it can be had.
            self.message(f"create_thin {number}")
            self.message(f"delete {number}")
        self.keep(number)

    def delete_pending(self) -> None:
        """Delete what killed processes were at; with a new pool nobody is at it any more."""
        os.makedirs(f"{self.folder}/pending", 0o710, exist_ok=True)
        for number in os.listdir(f"{self.folder}/pending"):
            self.delete(int(number))

    def activate(self, number: int, name: str, *options: str) -> str:
        """Return the path of a device of this machine's for one of the pool's."""
        table = f"0 {VIRTUAL // SECTOR} thin /dev/mapper/{self.name} {number}"
        dmsetup("create", f"{self.prefix}-{name}", "--table", table, *options)
        return f"/dev/mapper/{self.prefix}-{name}"

    def deactivate(self, name: str) -> None:
        """Take it away, if it is there: only the machine's, the pool's stays."""
        if f"{self.prefix}-{name}" in devices():
            # Somebody, such as udev, may be looking at it at this moment.
            dmsetup("remove", "--retry", f"{self.prefix}-{name}")


BASE = "base"
"""The device that all layers begin with: an empty file system."""


class DeviceMapper:
    """The driver."""

    def __init__(self, root: str) -> None:
        """Take the store's folder."""
        self.places = Places(root, "devicemapper")
        self.pool = Pool(self.places.root)

    def prepare(self, layers: Sequence[Layer]) -> None:
        """Make a device for each layer with all that is below it, where there is none yet."""
        if layers and layers[0][0].startswith("/"):
            raise ValueError(
                f"devicemapper has no layers on a directory: {layers[0][0]}: import it"
            )
        self.layer(BASE, "", None)
        below = BASE
        for name, layer in zip(chain(layers), layers, strict=True):
            self.layer(name, below, layer)
            below = name

    def layer(self, name: str, below: str, layer: Layer | None) -> None:
        """Make the device of one layer: a snapshot of the one below, with the layer applied."""
        at = self.places.layers

        def fill(draft: str, device: str) -> None:
            tree = f"{draft}/tree"
            os.mkdir(tree)
            if not below:
                command("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,root_owner=0:0", device)
            linux.mount(device, tree, "ext4", linux.MS_NOSUID | linux.MS_NODEV)
            try:
                if layer:
                    apply(layer[1], tree, ApplyForm())
                else:
                    os.rmdir(f"{tree}/lost+found")
                    os.utime(tree, (0, 0))
                linux.syncfs(tree)
            finally:
                take_away(tree)

        number = read_number(f"{at}/{below}") if below and not os.path.isdir(f"{at}/{name}") else 0
        self.places.appear(f"{at}/{name}", lambda draft: self.make(draft, number, fill), True)

    def make(self, draft: str, below: int, fill: Callable[[str, str], None]) -> None:
        """Make a snapshot and have it filled; what was made is unmade where a step fails."""
        with ExitStack() as undo:
            # The pool is locked only for its own changes: a layer may take minutes to unpack.
            with self.pool:
                number = self.pool.create(below)
                undo.callback(self.locked, self.pool.delete, number)
                device = self.pool.activate(number, f"draft-{number}")
                undo.callback(self.locked, self.pool.deactivate, f"draft-{number}")
            fill(draft, device)
            self.locked(self.pool.deactivate, f"draft-{number}")
            with open(f"{draft}/device", "w", encoding="ascii") as file:
                file.write(str(number))
            # The next to fail would be the rename: then the device is lost, the layer is not.
            self.pool.keep(number)
            undo.pop_all()

    def locked(self, act: Callable[..., None], *arguments: object) -> None:
        """Do something to the pool, with its lock."""
        with self.pool:
            act(*arguments)

    def mount(self, container: str, layers: Sequence[Layer]) -> str:
        """Mount the container's snapshot of the topmost layer, made where there is none."""
        own = self.places.own(container)
        names = [BASE, *chain(layers)][-1:]

        def fill(draft: str) -> None:
            below = read_number(f"{self.places.layers}/{names[0]}")
            self.make(draft, below, lambda draft, device: os.mkdir(f"{draft}/tree"))
            self.places.note(draft, names)
            self.places.stamp(draft)

        self.places.appear(own, fill)
        with ExitStack() as undo:
            with self.pool:
                device = self.pool.activate(read_number(own), container)
                undo.callback(self.locked, self.pool.deactivate, container)
            linux.mount(device, f"{own}/tree", "ext4", 0)
            undo.pop_all()
        return f"{own}/tree"

    def unmount(self, container: str) -> None:
        """Take mount and device away; the pool has the snapshot still."""
        take_away(self.places.own(container, "tree"))
        # Not even to look is a pool needed where there is none.
        if f"{self.pool.prefix}-{container}" in devices():
            self.locked(self.pool.deactivate, container)

    def diff(self, container: str) -> list[tuple[str, str]]:
        """Return what the container changed: every file of both trees has to be looked at."""
        with ExitStack() as stack:
            return self.compared(container, stack).listed()

    def commit(self, container: str) -> Iterator[bytes]:
        """Yield that as a layer's tar."""
        with ExitStack() as stack:
            yield from self.compared(container, stack).packed()

    def compared(self, container: str, stack: ExitStack) -> Comparison:
        """Compare the snapshot with the layer's own, both mounted as long as `stack` is open."""
        own = self.places.own(container)
        tree, below = f"{own}/tree", self.places.noted(container)[0]
        if not is_mounted(tree):
            self.show(read_number(own), f"{container}-now", tree, stack)
        image = self.places.draft()
        stack.callback(os.rmdir, image)
        self.show(read_number(f"{self.places.layers}/{below}"), f"{container}-was", image, stack)
        since = self.places.stamped(container)
        return Comparison(Union([image], NoMarks()), Union([tree], NoMarks()), since)

    def show(self, number: int, name: str, target: str, stack: ExitStack) -> None:
        """Mount a device to be looked at, until `stack` is closed."""
        with self.pool:
            device = self.pool.activate(number, name)
            stack.callback(self.locked, self.pool.deactivate, name)
        linux.mount(device, target, "ext4", linux.MS_RDONLY)
        stack.callback(take_away, target)

    def remove(self, container: str) -> None:
        """Delete the container's snapshot."""
        self.unmount(container)
        own = self.places.own(container)
        if os.path.exists(f"{own}/device"):
            self.locked(self.pool.delete, read_number(own))
        self.places.forget(container)

    def names(self, layers: Sequence[Layer]) -> list[str]:
        """Return the names of the devices: each stands for a layer with all below it."""
        return [BASE, *chain(layers)]

    def discard(self, name: str) -> None:
        """Delete a layer's device that nothing uses; snapshots of it stay whole."""
        folder = f"{self.places.layers}/{name}"
        if os.path.exists(f"{folder}/device"):
            self.locked(self.pool.delete, read_number(folder))
        self.places.vanish(folder)


def read_number(folder: str) -> int:
    """Return the number, in the pool, of a layer's or a container's device."""
    with open(f"{folder}/device", encoding="ascii") as file:
        return int(file.read())
