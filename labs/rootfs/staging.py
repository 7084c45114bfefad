"""In place whole, or not at all: built beside the target, then renamed."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labs.errors import Refused
from labs.rootfs.interrupts import Interrupts
from labs.texts import say


def build(target: Path, fill: Callable[[Path, Path], None], interrupts: Interrupts) -> None:
    """Let `fill(root, work)` make the tree `root`, then rename it to `target`.

    `work` is an empty directory for what is needed on the way. Both are in one directory beside
    `target`, of mode 0700 so that nobody meets a half-made setuid program; it goes in any case.
    A `target` that exists must be an empty directory, else OSError (ENOTEMPTY) is raised.
    """
    with interrupts.held():
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Held as long as we live, and not a moment longer, however we end: see `sweep`.
            fcntl.flock(lock, fcntl.LOCK_EX)
            root, work = made / "root", made / "work"
            root.mkdir()
            root.chmod(0o755)
            work.mkdir()
            with interrupts.let_through():
                fill(root, work)
            os.rename(root, target)
        finally:
            remove(made)
            os.close(lock)


@contextmanager
def alone(folder: Path, interrupts: Interrupts) -> Iterator[None]:
    """Be the only labrun that changes the cache folder `folder`, and remove dead ones' leavings."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with interrupts.let_through():
            fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(folder)
        yield
    finally:
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove the half-made trees in `folder` whose makers are dead: nobody holds their locks."""
    for entry in folder.glob(".*.*"):
        try:
            lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.geteuid():
                remove(entry)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def remove(tree: Path) -> None:
    """Remove a tree of ours; refused while something is mounted in it, which is not ours."""
    inside = f"{os.path.realpath(tree)}/"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        # proc(5): a blank in a path is \040 there.
        where = line.split(" ")[4].replace("\\040", " ")
        if f"{where}/".startswith(inside):
            raise Refused(
                str(tree),
                say("rootfs.mounted_inside", where=where),
                say("rootfs.mounted_inside.remedy", where=where),
            )
    if os.geteuid() != 0:
        # Of a directory without write permission even its owner can remove nothing.
        for folder, names, _ in os.walk(tree):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(tree)


def same(new: Path, old: Path) -> bool:
    """Tell whether everything in `new` is in `old` too, alike but for the times."""
    for folder, directories, files in os.walk(new):
        for name in directories + files:
            one = Path(folder, name)
            other = old / one.relative_to(new)
            if not os.path.lexists(other) or not _alike(one, other):
                return False
    return True


def _alike(one: Path, other: Path) -> bool:
    a, b = one.lstat(), other.lstat()
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev):
        return False
    if stat.S_ISLNK(a.st_mode):
        return os.readlink(one) == os.readlink(other)
    if not stat.S_ISREG(a.st_mode):
        return True
    if a.st_size != b.st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while chunk := left.read(1 << 20):
            if chunk != right.read(1 << 20):
                return False
    return True
