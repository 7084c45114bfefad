"""Device mapper: layers as snapshots of block devices, below any file system instead of above one.

A thin pool hands out blocks from one big file. A snapshot is a device that shares all blocks of
another until one of them is written; so a layer is a snapshot of the layer below with more in it,
and a container's is a snapshot of the topmost one. What is copied when something is written is a
block of 64 KiB, not a file. See the kernel's device-mapper/thin-provisioning.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from contextlib import ExitStack
from glob import glob
from hashlib import sha256

from stages import linux
from stages.stage4_overlayfs.more.branches import NoMarks, Union
from stages.stage4_overlayfs.more.changes import Comparison
from stages.stage4_overlayfs.more.places import Places, apply, chain, is_mounted, take_away
from stages.stage4_overlayfs.whiteouts import ApplyForm, in_user_namespace

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
MKFS = ("mkfs.ext4", "-q", "-J", "size=4", "-E", "lazy_itable_init=1,root_owner=0:0")
"""Each container writes a journal of its own, so that is as small as can be."""
MOUNT = "noinit_itable"
"""Without it the kernel fills all tables of inodes with zeros, bit by bit, in each container."""
NOTE = linux.O_RDWR | linux.O_CLOEXEC
"""How the note of a device that is on its way is opened: to be locked."""


NO_CAUSES = ("Udev is running and", "Command failed")
"""What dmsetup says before and behind the cause."""


def run(line: list[str], held: Sequence[int] = ()) -> str:
    """Run a program; return what it prints, or raise OSError with what it complains about.

    It inherits the locks in `held`. So who is killed here keeps them until the program has ended.
    """
    ended = subprocess.run(
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=held,
        # The nodes in /dev/mapper are there when dmsetup ends, with or without udev.
        env={**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C"},
        # Ctrl-C is for the command, not for half a device.
        start_new_session=True,
    )
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if not line.startswith(NO_CAUSES)]
        raise OSError(errno.EIO, lines[0] if lines else f"it ended with {ended.returncode}")
    return ended.stdout.strip()


def command(*line: str, held: Sequence[int] = ()) -> str:
    """Run a program, seen by --trace as a call is."""
    return str(linux.request(" ".join(line), run, list(line), held))


def devices() -> list[str]:
    """Return the names of the device mapper's devices."""
    found = []
    for path in glob("/sys/block/dm-*/dm/name"):
        # It may have been removed since.
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            found.append(file.read().strip())
    return found


def is_idle(name: str) -> bool:
    """Say whether a device is there and nothing is mounted from it: what is has it for itself."""
    flags = linux.O_RDONLY | os.O_EXCL | linux.O_CLOEXEC
    try:
        os.close(linux.open_file(f"/dev/mapper/{name}", flags))
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENXIO):
            raise
        return False
    return True


def held_loops(files: set[str]) -> list[str]:
    """Return the loop devices of these files that would not go when nobody has them open."""
    found = []
    for loop in glob("/sys/block/loop*/loop"):
        # It may be freed at this moment.
        with contextlib.suppress(OSError):
            facts = []
            for name in ("backing_file", "autoclear"):
                with open(f"{loop}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                    facts.append(file.read().strip("\n"))
            if facts[0] in map(os.path.realpath, files) and facts[1] == "0":
                found.append(f"/dev/{loop.split('/')[3]}")
    return found


def prefix_of(root: str) -> str:
    """Return how the names of a store's devices begin: they are the machine's, and stores many."""
    return f"labrun-{sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:8]}"


class Pool:
    """The thin pool of one store: two files, a loop device for each, and a number a snapshot.

    It is there while a device of it is in use. Whoever changes it holds its lock.
    """

    def __init__(self, root: str) -> None:
        """Take the store's folder."""
        self.root, self.folder = root, f"{root}/devicemapper"
        self.prefix = prefix_of(root)
        self.name = f"{self.prefix}-pool"
        self.lock = -1
        self.stays = 0

    def __enter__(self) -> Pool:
        """Lock it, have it there, and remove what killed processes have left of it."""
        os.makedirs(f"{self.folder}/pending", 0o710, exist_ok=True)
        flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC
        self.lock = linux.open_file(self.folder, flags)
        try:
            linux.flock(self.lock, linux.LOCK_EX)
            if not os.path.exists(f"{self.folder}/data"):
                # A store was here, and was removed: a pool of its files is none of this one.
                self.bury()
            if self.name not in devices():
                self.start()
            else:
                # Who made it may have been killed before it had let go of them.
                for device in held_loops({f"{self.folder}/data", f"{self.folder}/metadata"}):
                    self.command("losetup", "--detach", device)
            self.sweep()
        except BaseException:
            self.unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it down where no device of it is left; unlock it."""
        try:
            if not self.stays and not self.others():
                self.stop()
        finally:
            self.unlock()

    def unlock(self) -> None:
        """Let others have it."""
        os.close(self.lock)
        self.lock = -1

    @contextlib.contextmanager
    def staying(self) -> Iterator[None]:
        """Have it stay, unlocked, from one use to the next: to make it costs six programs."""
        self.stays += 1
        try:
            yield
        finally:
            self.stays -= 1
            if not self.stays and self.name in devices():
                with self:
                    pass

    def others(self) -> list[str]:
        """Return the names of the devices that are of this pool, and in this machine now."""
        return [n for n in devices() if n.startswith(f"{self.prefix}-") and n != self.name]

    def command(self, *line: str) -> str:
        """Run a program, which inherits the pool's lock."""
        return command(*line, held=[self.lock])

    def start(self) -> None:
        """Make the pool's device of its files; all is unmade where a step fails."""
        if in_user_namespace():
            # Its root may not make devices, and every complaint would be another one.
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), "dmsetup create")
        if "thin-pool" not in self.command("dmsetup", "targets"):
            # The target is a module of its own; dmsetup loads none but device mapper itself.
            self.command("modprobe", "dm-thin-pool")
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
            self.command("dmsetup", "create", self.name, "--table", f"{table} 1 skip_block_zeroing")
            undo.callback(self.stop)
            # The pool has them open: detached now they go when it goes, whoever removes it.
            for device in (data, metadata):
                self.command("losetup", "--detach", device)
            undo.pop_all()

    def bury(self) -> None:
        """Remove a pool, and devices, of a store that is gone; raise OSError where one is used."""
        for name in self.others():
            self.deactivate(name.removeprefix(f"{self.prefix}-"))
        if self.name in devices():
            self.stop()

    def loop(self, name: str, undo: ExitStack) -> str:
        """Return a loop device for one of the files; `undo` frees it.

        The one that a killed process has made for it is taken again.
        """
        path = f"{self.folder}/{name}"
        device = self.command("losetup", "--find", "--show", "--nooverlap", path)
        undo.callback(self.command, "losetup", "--detach", device)
        return device

    def stop(self) -> None:
        """Take the pool's device away, and with it the loop devices; the files stay."""
        self.command("dmsetup", "remove", "--retry", self.name)

    def message(self, words: str) -> None:
        """Tell the pool to do something."""
        self.command("dmsetup", "message", f"/dev/mapper/{self.name}", "0", words)

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

    def suspect(self, number: int) -> int:
        """Note that a device is on its way in or out: who finds the note unlocked is to delete it.

        Return the descriptor that locks it, until `keep` closes it.
        """
        note = f"{self.folder}/pending/{number}"
        held = linux.open_file(note, NOTE | linux.O_CREAT, 0o600)
        linux.flock(held, linux.LOCK_EX)
        linux.fsync(f"{self.folder}/pending")
        return held

    def keep(self, number: int, held: int) -> None:
        """Take the note away: all is as it should be."""
        os.unlink(f"{self.folder}/pending/{number}")
        os.close(held)

    def create(self, below: int, undo: ExitStack) -> tuple[int, str, int]:
        """Make a snapshot of a device, or an empty one; `undo` unmakes it.

        Return its number, the path of its device here, and the descriptor of its note.
        """
        number = self.new_number()
        held = self.suspect(number)
        undo.callback(self.delete, number, held)
        self.message(f"create_snap {number} {below}" if below else f"create_thin {number}")
        return number, self.activate(number, f"draft-{number}"), held

    def delete(self, number: int, held: int) -> None:
        """Lock the pool, and give back a device's blocks that it doesn't share with others."""
        with self:
            self.delete_now(number)
            self.keep(number, held)

    def delete_now(self, number: int) -> None:
        """Do that, with the lock; no error where it is gone.

        Raises OSError where it is in use.
        """
        draft = f"draft-{number}"
        if f"{self.prefix}-{draft}" in devices() and not is_idle(f"{self.prefix}-{draft}"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{self.prefix}-{draft}")
        self.deactivate(draft)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(f"{self.folder}/seen/{number}")
        try:
            self.message(f"delete {number}")
        except OSError:
            # Where the number is free, a killed process came as far as that: then it can be had.
            self.message(f"create_thin {number}")
            self.message(f"delete {number}")

    def sweep(self) -> None:
        """Remove what killed processes were at, and the devices of containers that they ran."""
        for name in self.others():
            # Who mounts one holds the lock from before it is there.
            if not name.startswith(f"{self.prefix}-draft-") and is_idle(name):
                self.deactivate(name.removeprefix(f"{self.prefix}-"))
        for number in map(int, os.listdir(f"{self.folder}/pending")):
            held = linux.open_file(f"{self.folder}/pending/{number}", NOTE)
            try:
                linux.flock(held, linux.LOCK_EX | linux.LOCK_NB)
                # What has come to its place is no draft any more, whenever its maker was killed.
                if not self.is_used(number):
                    self.delete_now(number)
            except OSError:
                # Somebody is at it; or uses the device still, and who comes later finds the note.
                os.close(held)
            else:
                self.keep(number, held)

    def is_used(self, number: int) -> bool:
        """Say whether a layer or a container has the device with this number."""
        for folder in (f"{self.root}/layers/devicemapper", f"{self.root}/containers"):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                own = "" if folder.endswith("/devicemapper") else "/devicemapper"
                with contextlib.suppress(OSError):
                    if read_number(f"{folder}/{name}{own}") == number:
                        return True
        return False

    def activate(self, number: int, name: str) -> str:
        """Return the path of a device of this machine's for one of the pool's."""
        table = f"0 {VIRTUAL // SECTOR} thin /dev/mapper/{self.name} {number}"
        self.command("dmsetup", "create", f"{self.prefix}-{name}", "--table", table)
        return f"/dev/mapper/{self.prefix}-{name}"

    def deactivate(self, name: str) -> None:
        """Take it away, if it is there: only the machine's, the pool's stays."""
        if f"{self.prefix}-{name}" in devices():
            # Somebody, such as udev, may be looking at it at this moment.
            self.command("dmsetup", "remove", "--retry", f"{self.prefix}-{name}")


BASE = "base"
"""The device that all layers begin with: an empty file system."""


class DeviceMapper:
    """The driver."""

    fleeting = False

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
        with self.pool.staying():
            self.layer(BASE, "", None)
            below = BASE
            for name, layer in zip(chain(layers), layers, strict=True):
                self.layer(name, below, layer)
                below = name

    def layer(self, name: str, below: str, layer: Layer | None) -> None:
        """Make the device of one layer: a snapshot of the one below, with the layer applied."""

        def fill(draft: str, device: str, held: int) -> None:
            tree = f"{draft}/tree"
            os.mkdir(tree)
            if not below:
                command(*MKFS, device, held=[held])
            linux.mount(device, tree, "ext4", linux.MS_NOSUID | linux.MS_NODEV, MOUNT)
            try:
                if layer:
                    apply(layer[1], tree, ApplyForm())
                else:
                    os.rmdir(f"{tree}/lost+found")
                    os.utime(tree, (0, 0))
                linux.syncfs(tree)
            finally:
                take_away(tree)

        self.appear(f"{self.places.layers}/{name}", below, fill, True)

    def appear(
        self, target: str, below: str, fill: Callable[[str, str, int], None], durable: bool = False
    ) -> None:
        """Have a snapshot of the layer `below`, filled, at `target`: whole, or not at all."""
        made: list[tuple[int, int]] = []

        def make(draft: str) -> None:
            # The pool is locked only for its own changes: a layer may take minutes to unpack.
            with self.pool:
                number = read_number(f"{self.places.layers}/{below}") if below else 0
                number, device, held = self.pool.create(number, undo)
            fill(draft, device, held)
            with self.pool:
                self.pool.deactivate(f"draft-{number}")
            with open(f"{draft}/device", "w", encoding="ascii") as file:
                file.write(str(number))
            made.append((number, held))

        with ExitStack() as undo:
            self.places.appear(target, make, durable)
            undo.pop_all()
        # Only now: who is killed before leaves a note, and the pool sees that it is there.
        for number, held in made:
            with self.pool:
                self.pool.keep(number, held)

    def mount(self, container: str, layers: Sequence[Layer]) -> str:
        """Mount the container's snapshot of the topmost layer, made where there is none."""
        own = self.places.own(container)
        names = [BASE, *chain(layers)][-1:]

        def fill(draft: str, device: str, held: int) -> None:
            os.mkdir(f"{draft}/tree")
            self.places.note(draft, names)
            self.places.stamp(draft)

        with self.pool.staying():
            self.appear(own, names[0], fill)
            with self.pool:
                device = self.pool.activate(read_number(own), container)
                try:
                    linux.mount(device, f"{own}/tree", "ext4", 0, MOUNT)
                except BaseException:
                    self.pool.deactivate(container)
                    raise
        return f"{own}/tree"

    def unmount(self, container: str) -> None:
        """Take mount and device away; the pool has the snapshot still."""
        take_away(self.places.own(container, "tree"))
        # Not even to look is a pool needed where there is none.
        if f"{self.pool.prefix}-{container}" in devices():
            # It sweeps: so the device goes, now or when the last process has gone that is in it.
            with self.pool:
                pass

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
        stack.enter_context(self.pool.staying())
        now = f"{own}/tree"
        if not is_mounted(now):
            now = self.seen_elsewhere(container) or self.show(read_number(own), stack)
        below = read_number(f"{self.places.layers}/{self.places.noted(container)[0]}")
        was, since = self.show(below, stack), self.places.stamped(container)
        return Comparison(Union([was], NoMarks()), Union([now], NoMarks()), since)

    def seen_elsewhere(self, container: str) -> str:
        """Return the path of the tree by way of the runtime that has it mounted, "" if none has.

        A device that is mounted must not be mounted another time: two file systems would write it.
        """
        tree = self.places.own(container, "tree")
        device = f"{self.pool.prefix}-{container}"
        if device not in devices():
            return ""
        for process in filter(str.isdigit, os.listdir("/proc")):
            # Processes end as we look; and in most the path leads to no mount, or to nothing.
            with contextlib.suppress(OSError):
                if is_mounted(f"/proc/{process}/root{tree}"):
                    return f"/proc/{process}/root{tree}"
        with self.pool:
            # A killed runtime's is swept away; but who is in another PID namespace can't be seen.
            if device in devices():
                raise OSError(errno.EBUSY, "it is mounted where this process can't look", device)
        return ""

    def show(self, number: int, stack: ExitStack) -> str:
        """Mount a snapshot of a device, to be looked at until `stack` is closed; return where.

        Of the snapshot, since the device itself may come into use meanwhile.
        """
        with self.pool:
            seen, device, _ = self.pool.create(number, stack)
        # Not in the store's tmp/, which prune empties: what a mount elsewhere is on, it can remove.
        target = f"{self.pool.folder}/seen/{seen}"
        os.makedirs(target, 0o710)
        linux.mount(device, target, "ext4", linux.MS_RDONLY, MOUNT)
        stack.callback(take_away, target)
        return target

    def remove(self, container: str) -> None:
        """Delete the container's snapshot."""
        with self.pool.staying():
            self.unmount(container)
            own = self.places.own(container)
            self.drop(own, container, lambda: self.places.forget(container))

    def names(self, layers: Sequence[Layer]) -> list[str]:
        """Return the names of the devices: each stands for a layer with all below it."""
        return [BASE, *chain(layers)]

    def discard(self, name: str) -> None:
        """Delete a layer's device that nothing uses; snapshots of it stay whole."""
        folder = f"{self.places.layers}/{name}"
        self.drop(folder, "", lambda: self.places.vanish(folder))

    def drop(self, folder: str, container: str, vanish: Callable[[], None]) -> None:
        """Delete the device of a layer or a container, and what says that it has one."""
        if not os.path.exists(f"{folder}/device"):
            vanish()
            return
        number = read_number(folder)
        with self.pool:
            held = self.pool.suspect(number)
            # First nobody knows of the device any more, and then it goes.
            vanish()
            if f"{self.pool.prefix}-{container}" in devices():
                os.close(held)  # a process is in it still: the note stays, and who sweeps deletes
            else:
                self.pool.delete_now(number)
                self.pool.keep(number, held)


def read_number(folder: str) -> int:
    """Return the number, in the pool, of a layer's or a container's device."""
    with open(f"{folder}/device", encoding="ascii") as file:
        return int(file.read())
