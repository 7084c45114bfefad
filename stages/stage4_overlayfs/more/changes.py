"""What a container changed: its tree compared with its image's, as `docker diff` says it.

"A" added, "C" changed, "D" deleted. What is in an added directory is listed too; of a deleted one
only the name. A directory in which something changed has itself changed.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISLNK, S_ISREG

from stages.stage4_overlayfs.more.branches import WHITEOUT
from stages.stage4_overlayfs.more.copies import Copies
from stages.stage4_overlayfs.more.places import remove_tree
from stages.stage4_overlayfs.pack import pack
from stages.stage4_overlayfs.whiteouts import ApplyForm, AufsForm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.stage4_overlayfs.more.branches import Union
    from stages.stage4_overlayfs.more.places import Places

    Change = tuple[str, str]


ALIKE = ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns")


class Comparison:
    """A tree as it was and as it is now; `changes` is what differs, by path."""

    def __init__(self, before: Union, after: Union, since: int = 0, guide: str = "") -> None:
        """Compare them.

        `since` is when the copy `after` was made, in ns: files that have not been touched from
        then on are the same. `guide` is a branch of `after` outside of which nothing has changed.
        """
        self.before, self.after, self.since, self.guide = before, after, since, guide
        self.changes: dict[str, str] = {}
        self.links: dict[tuple[int, int], list[str]] = {}
        self.waiting = [""]
        while self.waiting:
            self.directory(self.waiting.pop())
        self.complete()

    def directory(self, path: str) -> None:
        """Compare what is in a directory."""
        before, after = self.before.entries(path), self.after.entries(path)
        for name in {**before, **after}:
            inner = f"{path}/{name}"
            was, now = before.get(name), after.get(name)
            if now is None:
                self.changes[inner] = "D"
                continue
            self.remember(inner, now)
            if was is None or is_folder(was) != is_folder(now) or not self.same(was, now):
                self.changes[inner] = "C" if was else "A"
            if is_folder(now) and not self.is_untouched(was, now):
                self.waiting.append(inner)

    def is_untouched(self, was: str | None, now: str) -> bool:
        """Say whether a directory needs no look: nothing in it is in the upper branch."""
        return bool(self.guide) and was == now and not now.startswith(f"{self.guide}/")

    def same(self, was: str, now: str) -> bool:
        """Say whether two files are alike: not only what they hold, but also whose they are."""
        if was == now:
            return True
        before, after = os.lstat(was), os.lstat(now)
        if any(getattr(before, each) != getattr(after, each) for each in ALIKE):
            return False
        if not S_ISDIR(before.st_mode) and before.st_size != after.st_size:
            return False
        if S_ISLNK(before.st_mode):
            return os.readlink(was) == os.readlink(now)
        if self.attributes(was, self.before) != self.attributes(now, self.after):
            return False
        # A program may put the time back after it has written. The kernel's own (ctime) nobody
        # sets, and it tells which files are worth reading.
        unread = not S_ISREG(before.st_mode) or (self.since and after.st_ctime_ns < self.since)
        return bool(unread) or same_bytes(was, now)

    def attributes(self, path: str, union: Union) -> dict[str, bytes]:
        """Return a file's extended attributes, without the marks of a union."""
        names = filter(union.marks.attribute, os.listxattr(path, follow_symlinks=False))
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}

    def remember(self, path: str, now: str) -> None:
        """Note which names are of one file."""
        status = os.lstat(now)
        if status.st_nlink > 1 and not S_ISDIR(status.st_mode):
            self.links.setdefault((status.st_dev, status.st_ino), []).append(path)

    def complete(self) -> None:
        """List what has changed because something else has."""
        # Where one name of a file is new, the others belong to it: in a layer they stay one file.
        for names in self.links.values():
            if any(name in self.changes for name in names):
                for name in names:
                    self.changes.setdefault(name, "C")
        for path in list(self.changes):
            while path := path.rpartition("/")[0]:
                self.changes.setdefault(path, "C")

    def listed(self) -> list[Change]:
        """Return the changes as pairs, sorted by path."""
        return [(self.changes[path], path) for path in sorted(self.changes)]

    def packed(self) -> Iterator[bytes]:
        """Yield a layer's tar of the changes; all of `after` is one directory."""
        paths = [(kind, os.fsencode(path[1:])) for path, kind in self.changes.items()]
        kept = [path for kind, path in paths if kind != "D"]
        gone = [path for kind, path in paths if kind == "D"]
        return pack(self.after.branches[0], ApplyForm(), only=kept, deleted=gone)

    def lay_out(self, target: str) -> None:
        """Make a layer of the changes in the directory `target`, with deletions as AUFS's files."""
        with Copies(target) as copies:
            root = self.after.find("")
            assert root is not None
            copies.like(root, "", self.after.marks.attribute)
            for kind, path in self.listed():
                folder, _, name = path.rpartition("/")
                if kind == "D":
                    os.close(os.open(f"{target}{folder}/{WHITEOUT}{name}", os.O_CREAT, 0o444))
                elif name.startswith(WHITEOUT):
                    raise ValueError(f"{path}: in a layer, a name like that is a deletion")
                elif found := self.after.find(path):
                    copies.copy(found, path, self.after.marks.attribute)


def same_bytes(one: str, other: str) -> bool:
    """Say whether two files hold the same."""
    with open(one, "rb") as first, open(other, "rb") as second:
        while block := first.read(1 << 20):
            if block != second.read(len(block)):
                return False
        return not second.read(1)


def is_folder(path: str) -> bool:
    """Say whether it is a directory itself, not a link to one."""
    return S_ISDIR(os.lstat(path).st_mode)


def pack_changes(comparison: Comparison, places: Places) -> Iterator[bytes]:
    """Yield the changes as a layer's tar."""
    draft = places.draft()
    try:
        comparison.lay_out(draft)
        yield from pack(draft, AufsForm())
    finally:
        remove_tree(draft)
