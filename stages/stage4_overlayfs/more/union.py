"""A union file system to read: AUFS's rules, in a process of its own, which the kernel asks (FUSE).

The kernel sends each call on a file of the mount here: `getattr` for stat(2), and so on. The
answers follow AUFS: a file is looked up through the branches from the top (`branches.py`); what is
written is first copied up into the one branch that may be written; a deletion is a file `.wh.NAME`
there, and `.wh..wh..opq` makes a directory opaque. See aufs(5), fuse(4).

Run as a program, with the container's folder, the place to mount on, and the branches.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from stat import S_ISDIR, S_ISGID

# Maintained, pure Python (ctypes), and one interface to libfuse 2 and 3.
from mfusepy import FUSE, Operations, fuse_get_context

from stages import linux
from stages.stage4_overlayfs.more.branches import OPAQUE, REST, WHITEOUT, AufsMarks, Union
from stages.stage4_overlayfs.more.copies import Copies
from stages.stage4_overlayfs.more.indexed import Index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HIDDEN = ".fuse_hidden"
"""How libfuse renames a file that is deleted while it is open; AUFS keeps those apart too."""
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
"""Instead of ns in utimensat(2): the time that it is, and no change."""
NOREPLACE = 1
NUMBERS = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_rdev", "st_blocks", "st_ino")


def gone(path: str) -> OSError:
    """Return the error for a name that is not there."""
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class AufsUnion(Operations):  # type: ignore[misc]  # mfusepy is not installed everywhere
    """The union: one method for each request of the kernel's. Paths begin with a slash."""

    use_ns = True

    def __init__(self, own: str, lower: list[str], mounts: int) -> None:
        """Take the container's folder, the read-only branches from the top down, and a namespace.

        In that mount namespace it answers. See mount_namespaces(7).
        """
        self.mounts = mounts
        self.rw, self.work, self.orphans = (f"{own}/{name}" for name in ("rw", "work", "orphans"))
        self.index = Index(f"{own}/links")
        self.union = Union([self.rw, *lower], AufsMarks(), self.index.find)
        self.handles: dict[int, str] = {}
        self.inodes: dict[tuple[int, int], int] = {}

    def init(self, path: str) -> None:
        """Begin to answer: it is mounted now, and this is the process that stays."""
        linux.setns(self.mounts, linux.CLONE_NEWNS)
        os.close(self.mounts)

    # ---- where a file is, and how it gets to where it can be written

    def real(self, path: str) -> str:
        """Return where the file that shows as `path` is."""
        name = os.path.basename(path)
        found = f"{self.orphans}/{name}" if name.startswith(HIDDEN) else self.union.find(path)
        if not found or not os.path.lexists(found) or name.startswith(WHITEOUT):
            raise gone(path)
        return found

    def copy_up(self, path: str) -> str:
        """Return where the file is in the branch that may be written, copied there if need be."""
        found, target = self.real(path), f"{self.rw}{path}"
        if f"{found}/".startswith((f"{self.rw}/", f"{self.orphans}/")):
            return found
        status = os.lstat(found)
        parent = self.copy_up(os.path.dirname(path))
        before = os.lstat(parent)
        if found.startswith(self.index.folder):
            # Copied up under another name already: now the copy has this name too.
            os.link(found, target, follow_symlinks=False)
            self.count(target, self.rest(target) - 1)
        else:
            self.copy(found, target, status)
        # That it was copied is no change of the directory.
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
        return target

    def copy(self, found: str, target: str, status: os.stat_result) -> None:
        """Copy a lower file to `target`; who has it open reads from the copy from now on."""
        with Copies(self.work) as copies:
            copies.copy(found, "/copy")
        # A rename is all or nothing: no half of a file is ever seen.
        linux.rename(f"{self.work}/copy", target)
        copy = os.lstat(target)
        # The file keeps its number, as AUFS's xino has it.
        self.inodes[copy.st_dev, copy.st_ino] = status.st_ino
        if status.st_nlink > 1 and not S_ISDIR(status.st_mode):
            self.index.add(found, target)
            self.count(target, status.st_nlink - 1)
        for fd in [fd for fd, place in self.handles.items() if place == found]:
            reopened = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            os.dup2(reopened, fd, inheritable=False)
            os.close(reopened)
            self.handles[fd] = target

    def count(self, path: str, rest: int) -> None:
        """Note how many names of a copied file are still in a lower branch only."""
        linux.setxattr(path, REST, str(rest).encode())

    def rest(self, path: str) -> int:
        """Return that; -1 for the index's own name of the file is in it."""
        return int(linux.getxattr(path, REST) or 0)

    def has_others(self, found: str) -> bool:
        """Say whether a file may have more names: in the index alone it has those of below."""
        status = os.lstat(found)
        several = status.st_nlink > 1 or found.startswith(f"{self.index.folder}/")
        return several and not S_ISDIR(status.st_mode)

    # ---- names

    def room(self, path: str) -> str:
        """Return where a new name goes: its directory is there afterwards."""
        if os.path.basename(path).startswith(WHITEOUT):
            raise OSError(errno.EPERM, "names that begin with .wh. are the union's own", path)
        self.copy_up(os.path.dirname(path))
        return f"{self.rw}{path}"

    def whiteout(self, path: str) -> str:
        """Return where the whiteout of a name would be."""
        folder, name = os.path.split(f"{self.rw}{path}")
        return f"{folder}/{WHITEOUT}{name}"

    def shines_through(self, path: str) -> bool:
        """Say whether a lower branch has the name, and would show it."""
        folder, name = os.path.split(path)
        below = [
            each for each in self.union.below(folder) if each != f"{self.rw}{folder}".rstrip("/")
        ]
        opaque = os.path.lexists(f"{self.rw}{folder}/{OPAQUE}")
        return not opaque and bool(self.union.step(below, name))

    def hide(self, path: str) -> None:
        """Have no lower branch show the name any more."""
        if self.shines_through(path):
            self.touch(self.whiteout(path))

    def reveal(self, path: str) -> None:
        """Take the whiteout away: the name is in use again."""
        if os.path.lexists(self.whiteout(path)):
            os.unlink(self.whiteout(path))

    def touch(self, path: str) -> None:
        """Make an empty file: AUFS's marks are such."""
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))

    def own(self, path: str, target: str) -> None:
        """Give a new file to who asked for it, and show it."""
        uid, gid, _ = fuse_get_context()
        # In a directory with the set-group-ID bit the group is the directory's, already.
        inherited = os.lstat(os.path.dirname(target)).st_mode & S_ISGID
        os.chown(target, uid, -1 if inherited else gid, follow_symlinks=False)
        self.reveal(path)

    def mkdir(self, path: str, mode: int) -> int:
        """Make a directory; where one was deleted before, nothing of that one shows in it."""
        target = self.room(path)
        os.mkdir(target, mode)
        if os.path.lexists(self.whiteout(path)):
            self.touch(f"{target}/{OPAQUE}")
        os.chmod(target, mode | os.lstat(target).st_mode & S_ISGID)
        self.own(path, target)
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        """Make a device, a pipe or a socket."""
        target = self.room(path)
        linux.mknod(target, mode, os.major(dev), os.minor(dev))
        self.own(path, target)
        return 0

    def symlink(self, target: str, source: str) -> int:
        """Make the link `target`, which leads to `source`."""
        place = self.room(target)
        os.symlink(source, place)
        self.own(target, place)
        return 0

    def link(self, target: str, source: str) -> int:
        """Give the file `source` the name `target` too."""
        os.link(self.copy_up(source), self.room(target), follow_symlinks=False)
        self.reveal(target)
        return 0

    def unlink(self, path: str) -> int:
        """Delete a file: from the upper branch, and from view."""
        found = self.real(path)
        if not found.startswith(f"{self.orphans}/"):
            self.copy_up(os.path.dirname(path))
            if self.has_others(found):
                found = self.copy_up(path)  # to count its names
            self.hide(path)
        if found.startswith((f"{self.rw}/", f"{self.orphans}/")):
            os.unlink(found)
        return 0

    def rmdir(self, path: str) -> int:
        """Delete an empty directory; what may be in it yet are whiteouts."""
        if self.union.entries(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self.copy_up(os.path.dirname(path))
        self.hide(path)
        self.clear(f"{self.rw}{path}")
        return 0

    def clear(self, target: str) -> None:
        """Remove a directory of the upper branch that has nothing but marks in it."""
        if os.path.isdir(target) and not os.path.islink(target):
            for name in os.listdir(target):
                os.unlink(f"{target}/{name}")
            os.rmdir(target)

    def rename(self, old: str, new: str) -> int:
        """Give a file another name, in place of what has that name."""
        found = self.real(old)
        folder = S_ISDIR(os.lstat(found).st_mode)
        # What is in lower branches can't be renamed there. mv(1) copies then; and so does AUFS's.
        if folder and self.union.below(old) != [f"{self.rw}{old}"]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), old)
        if os.path.basename(new).startswith(HIDDEN):
            source = self.copy_up(old)
            self.hide(old)
            linux.rename(source, f"{self.orphans}/{os.path.basename(new)}")
            return 0
        target = self.room(new)
        if self.union.below(new):
            if os.path.samestat(os.lstat(found), os.lstat(self.real(new))):
                return 0  # two names of one file: rename(2) does nothing
            self.replace(new, folder)
        source = self.copy_up(old)
        if folder and self.shines_through(new):
            self.touch(f"{source}/{OPAQUE}")
        self.hide(old)
        linux.rename(source, target)
        self.reveal(new)
        return 0

    def replace(self, path: str, folder: bool) -> None:
        """Have the name make way for what is renamed to it."""
        if folder and self.union.entries(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        if folder:
            self.clear(f"{self.rw}{path}")
        elif self.has_others(self.real(path)):
            self.copy_up(path)  # to count its names

    def readdir(self, path: str, fh: int) -> list[Any]:
        """Return the names in a directory."""
        entries = self.union.entries(path)
        numbered = {name: {"st_ino": self.number(os.lstat(at))} for name, at in entries.items()}
        return [".", "..", *((name, status, 0) for name, status in numbered.items())]

    # ---- what a file says of itself

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Return a file's status. See stat(2)."""
        status = (
            os.fstat(fh) if fh in self.handles and fh is not None else os.lstat(self.real(path))
        )
        answer = {name: getattr(status, name) for name in NUMBERS}
        for name in ("st_atime", "st_mtime", "st_ctime"):
            answer[name] = getattr(status, f"{name}_ns")
        if S_ISDIR(status.st_mode):
            answer["st_nlink"] = 1  # "unknown": else find(1) counts on it
        elif self.has_others(found := self.real(path)):
            rest = linux.getxattr(found, REST)
            answer["st_nlink"] += int(rest) - 1 if rest else 0
        answer["st_ino"] = self.number(status)
        return answer

    def number(self, status: os.stat_result) -> int:
        """Return the inode number that the file had before it was copied up."""
        return self.inodes.get((status.st_dev, status.st_ino), status.st_ino)

    def readlink(self, path: str) -> str:
        """Return where a link leads."""
        return os.readlink(self.real(path))

    def chmod(self, path: str, mode: int) -> int:
        """Change who may do what."""
        os.chmod(self.copy_up(path), mode & 0o7777)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        """Change whose it is."""
        os.chown(self.copy_up(path), uid, gid, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """Set when it was read and written last, in ns."""
        target = self.copy_up(path)
        if times is None:
            os.utime(target, follow_symlinks=False)
            return 0
        # The kernel's own clock for NOW: the file is given that first.
        status = os.lstat(target)
        if NOW in times:
            os.utime(target, follow_symlinks=False)
        now = os.lstat(target)
        atime, mtime = ({NOW: new, OMIT: old}.get(time, time) for time, new, old in (
            (times[0], now.st_atime_ns, status.st_atime_ns),
            (times[1], now.st_mtime_ns, status.st_mtime_ns),
        ))  # fmt: skip
        os.utime(target, ns=(atime, mtime), follow_symlinks=False)
        return 0

    def listxattr(self, path: str) -> list[str]:
        """Return the names of its extended attributes."""
        names = os.listxattr(self.real(path), follow_symlinks=False)
        return list(filter(self.union.marks.attribute, names))

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """Return one of them."""
        return os.getxattr(self.real(path), name, follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        """Set one of them."""
        linux.setxattr(self.copy_up(path), name, value, options)
        return 0

    def removexattr(self, path: str, name: str) -> int:
        """Remove one of them."""
        os.removexattr(self.copy_up(path), name, follow_symlinks=False)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Return how much room there is: in the branch that is written."""
        status = os.statvfs(self.rw)
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}

    # ---- what is in a file

    def open(self, path: str, flags: int) -> int:
        """Open a file; who wants to write gets it copied up first."""
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
        found = self.copy_up(path) if writes else self.real(path)
        # The kernel knows the offset: with O_APPEND pwrite(2) would not write where it says.
        fd = os.open(found, flags & (os.O_ACCMODE | os.O_TRUNC) | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.handles[fd] = found
        return fd

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Make a file and open it."""
        target = self.room(path)
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self.handles[fd] = target
        os.chmod(fd, mode & 0o7777)
        self.own(path, target)
        return fd

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Read some of it."""
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Write some of it."""
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Cut it, or make it longer."""
        os.truncate(fh if fh in self.handles and fh is not None else self.copy_up(path), length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Wait until it is on the disk."""
        os.fsync(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        """Close it: nobody has it open any more."""
        del self.handles[fh]
        os.close(fh)
        return 0


class Mount(FUSE):  # type: ignore[misc]  # likewise
    """The mount, as libfuse has it."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        """Refuse what rename() can't do, such as two files changing places."""
        # The kernel has looked for the new name itself, and the mount is the only way in.
        if flags & ~NOREPLACE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return int(self.rename_fuse_2(old, new))


def leave_mounts(needed: list[str]) -> int:
    """Return a mount namespace to live in: with what holds the paths `needed`, and no more.

    A process keeps the mounts that it sees, and a union needs its process. If it saw itself, it
    would outlive mounts that end without being unmounted; if it saw others, those would.
    """
    here = linux.open_file("/proc/self/ns/mnt", linux.O_RDONLY | linux.O_CLOEXEC)
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    apart = linux.open_file("/proc/self/ns/mnt", linux.O_RDONLY | linux.O_CLOEXEC)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [unescaped(line.split()[4]) for line in file]
    for point in points:
        if not any(f"{path}/".startswith(f"{point.rstrip('/')}/") for path in needed):
            # What is mounted in there goes along, and isn't found any more.
            with suppress(OSError):
                linux.umount2(point, linux.MNT_DETACH)
    linux.setns(here, linux.CLONE_NEWNS)
    os.close(here)
    return apart


def unescaped(text: str) -> str:
    """Return a path of mountinfo as it is: spaces and the like are octal numbers there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def serve(own: str, target: str, lower: list[str]) -> None:
    """Mount the union, and answer until it is unmounted; return in who called at once."""
    # Modes are what the caller says: the kernel has applied the caller's umask.
    linux.umask(0)
    Mount(
        AufsUnion(own, lower, leave_mounts([own, *lower])),
        target,
        fsname="aufs",
        # Else only who mounts may come in; and the kernel is to check the modes, for everybody.
        allow_other=True,
        default_permissions=True,
        dev=True,
        suid=True,
        use_ino=True,
        readdir_ino=True,
        # A file has as many statuses in the kernel as names: none may be believed for long.
        attr_timeout=0,
        nothreads=True,
    )


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
