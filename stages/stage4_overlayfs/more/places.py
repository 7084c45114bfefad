"""Where the drivers keep their things: directories that appear whole, and vanish whole."""

from __future__ import annotations

import errno
import os
from stat import S_IMODE

from stages import linux
from stages.light import later, read_text, sha256, write_text
from stages.stage4_overlayfs.more.copies import Copies, copy_metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from stages.stage4_overlayfs import unpack
    from stages.stage4_overlayfs.more.branches import Union
    from stages.stage4_overlayfs.storage import Layer
    from stages.stage4_overlayfs.whiteouts import Form
else:
    unpack = later("stages.stage4_overlayfs.unpack")

UNSAID = 0o1000
"""A mode that no root directory has: by it one is known of which a layer says nothing."""


def chain(layers: Sequence[Layer]) -> list[str]:
    """Return a name for each layer *with all below it*, as hex: what the OCI calls its ChainID.

    See image-spec, config.md, "Layer ChainID".
    """
    names: list[str] = []
    for name, _ in layers:
        whole = f"sha256:{names[-1]} {name}" if names else ""
        names.append(sha256(whole.encode()).hexdigest() if whole else digits(name))
    return names


def digits(digest: str) -> str:
    """Return the hex of a digest "sha256:HEX"; ValueError where it is none."""
    kind, _, text = digest.partition(":")
    if kind != "sha256" or len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"not a digest: {digest}: sha256: and 64 hexadecimal digits are one")
    return text


class Places:
    """Where a driver keeps its things in the store."""

    def __init__(self, root: str, driver: str) -> None:
        """Take the store's folder; nothing is made yet."""
        self.root, self.driver = os.path.abspath(root), driver
        self.layers = f"{self.root}/layers/{driver}"

    def own(self, container: str, name: str = "") -> str:
        """Return the path of what is the container's own."""
        if not container or set(container) & set("/,:\\\0") or container[0] == ".":
            raise ValueError(f"no name for a container: {container!r}")
        return f"{self.root}/containers/{container}/{self.driver}" + (name and f"/{name}")

    def appear(self, target: str, fill: Callable[[str], None], durable: bool = False) -> None:
        """Have `fill` fill a new directory, and let it be at `target`: whole, or not at all.

        Where it is there already nothing is done. `durable`: not even a power cut leaves a part.
        """
        parent = os.path.dirname(target)
        os.makedirs(parent, 0o710, exist_ok=True)
        lock = linux.open_file(parent, linux.O_RDONLY | linux.O_DIRECTORY | linux.O_CLOEXEC)
        try:
            # Who comes second waits, and finds it done.
            linux.flock(lock, linux.LOCK_EX)
            if os.path.isdir(target):
                return
            draft = self.draft()
            try:
                fill(draft)
                if durable:
                    linux.syncfs(draft)
                linux.rename(draft, target)
            except BaseException:
                remove_tree(draft)
                raise
            if durable:
                linux.fsync(parent)
        finally:
            os.close(lock)

    def unpack(
        self, name: str, opener: Callable[[], BinaryIO], form: Form, below: Union | None
    ) -> None:
        """Unpack a layer into `layers/DRIVER/NAME/diff`, once.

        `below` shows the layers that it lies on: they know what a directory is like that the layer
        only has something in. Where `form` keeps no marks, the layer goes onto a copy of them.
        """

        def fill(draft: str) -> None:
            target = f"{draft}/diff"
            os.mkdir(target, 0o755)
            os.utime(target, (0, 0))
            if below and form.merged:
                with Copies(target) as copies:
                    copies.tree(below.branches[0])
            elif root := below and below.find(""):
                copy_metadata(root, target, below.marks.attribute)
            for path in apply(opener, target, form):
                found = below and below.find(path)
                if below and found and os.path.isdir(found):
                    copy_metadata(found, f"{target}/{path}", below.marks.attribute)

        self.appear(f"{self.layers}/{name}", fill, durable=True)

    def draft(self) -> str:
        """Return a new directory in the store's `tmp`, which nobody takes for anything."""
        path = f"{self.root}/tmp/{self.driver}-{os.urandom(8).hex()}"
        os.makedirs(path, 0o710)
        return path

    def drop(self, draft: str) -> None:
        """Remove a draft."""
        remove_tree(draft)

    def vanish(self, path: str) -> None:
        """Remove a tree: whole from where it was, then bit by bit."""
        if os.path.lexists(path):
            away = self.draft()
            linux.rename(path, away)
            remove_tree(away)

    def forget(self, container: str) -> None:
        """Remove what is the container's own; and its folder, where nobody else has a file."""
        own = self.own(container)
        self.vanish(own)
        try:
            os.rmdir(os.path.dirname(own))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def note(self, folder: str, names: Sequence[str]) -> None:
        """Write down what a container stands on: diff() and commit() have to know."""
        write_text(f"{folder}/layers", "\0".join(names))

    def noted(self, container: str) -> list[str]:
        """Return that again, from the lowest up."""
        text = read_text(self.own(container, "layers"))
        return text.split("\0") if text else []

    def stamp(self, folder: str) -> None:
        """Note the time, as the kernel gives it to files: what changes from now on is later."""
        with open(f"{folder}/made", "w", encoding="ascii"):
            return

    def stamped(self, container: str) -> int:
        """Return the time noted, in ns."""
        return os.lstat(self.own(container, "made")).st_ctime_ns


def apply(opener: Callable[[], BinaryIO], target: str, form: Form) -> list[str]:
    """Unpack a layer into `target`; return the directories that it only implies.

    `target` itself is like before, unless the layer has an entry for the root.
    """
    status = os.lstat(target)
    os.chmod(target, UNSAID)
    with opener() as stream:
        implied = unpack.unpack(stream, target, form)
    if S_IMODE(os.lstat(target).st_mode) == UNSAID:
        os.chmod(target, S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return [os.fsdecode(path) for path in implied]


def remove_tree(top: str) -> None:
    """Remove a directory and all in it, without a path that gets too long for the kernel.

    A container may nest directories deeper than PATH_MAX; each is brought up to `top` first.
    """
    prefix, count = os.urandom(8).hex(), 0
    while folders := list(os.scandir(top)):
        for folder in folders:
            if not folder.is_dir(follow_symlinks=False):
                os.unlink(folder.path)
                continue
            for entry in list(os.scandir(folder.path)):
                if entry.is_dir(follow_symlinks=False):
                    count += 1
                    os.rename(entry.path, f"{top}/{prefix}{count}")
                else:
                    os.unlink(entry.path)
            os.rmdir(folder.path)
    os.rmdir(top)


def is_mounted(path: str) -> bool:
    """Say whether something is mounted at `path`, be it dead."""
    try:
        return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # A union in user space whose process has ended: the mount stays, and answers so.
        if error.errno == errno.ENOTCONN:
            return True
        raise


def take_away(path: str) -> None:
    """Unmount what is at `path`, all of it, if anything is."""
    while is_mounted(path):
        # What has a file open in there keeps the file, but nobody comes in any more.
        linux.umount2(path, linux.MNT_DETACH)
