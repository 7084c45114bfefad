"""Layers for tests: archives written by hand, trees at random, and what a tree is, to compare."""

from __future__ import annotations

import io
import os
import random
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages import linux
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.more.tar import DIRECTORY, FILE, LINK, SYMLINK, Entry
from stages.stage4_overlayfs.pack import END, pack
from stages.stage4_overlayfs.unpack import unpack
from stages.stage4_overlayfs.whiteouts import ApplyForm, AufsForm, OverlayForm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.whiteouts import Form

FORMS: dict[str, Callable[[], Form]] = {
    "overlay": OverlayForm,
    "aufs": AufsForm,
    "apply": ApplyForm,
}
Tree = dict[bytes, tuple[Any, ...]]


def entry(name: bytes, kind: bytes = FILE, content: bytes = b"", **more: Any) -> bytes:
    """Return one entry of an archive; `more` are attributes of Entry."""
    one = Entry(name, kind, 0o755 if kind == DIRECTORY else 0o644)
    one.size = len(content)
    for key, value in more.items():
        setattr(one, key, value)
    return tar.header(one) + content + bytes(-len(content) % tar.UNIT)


def directory(name: bytes, **more: Any) -> bytes:
    return entry(name, DIRECTORY, **more)


def symlink(name: bytes, link: bytes, **more: Any) -> bytes:
    return entry(name, SYMLINK, link=link, **more)


def hard_link(name: bytes, link: bytes, **more: Any) -> bytes:
    return entry(name, LINK, link=link, **more)


def pax(records: Mapping[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """Return a PAX header of that content, as it is or with the records' lengths computed."""
    if not isinstance(records, bytes):
        records = b"".join(tar._record(key, value) for key, value in records.items())
    return entry(b"PaxHeaders", kind, records)


def patched(block: bytes, at: int, field: bytes) -> bytes:
    """Return a header with one field changed and its checksum right again."""
    block = block[:at] + field + block[at + len(field) :]
    total = sum(block[:148]) + 8 * 32 + sum(block[156 : tar.UNIT])
    return block[:148] + b"%06o\0 " % total + block[156:]


def archive(*entries: bytes) -> bytes:
    return b"".join(entries) + END


def apply(data: bytes, target: Path | str, form: Form, **more: Any) -> list[bytes]:
    return unpack(io.BytesIO(data), target, form, **more)


def repack(directory: Path | str, form: Form, **more: Any) -> bytes:
    return b"".join(pack(directory, form, **more))


def tree(top: Path | str) -> Tree:
    """Return all that a layer keeps of a tree: hard links by their first name."""
    found: Tree = {}
    first: dict[tuple[int, int], bytes] = {}
    for folder, folders, files in os.walk(os.fsencode(top)):
        folders.sort()
        note(folder, os.fsencode(top), found, first)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted(files + links):
            note(os.path.join(folder, name), os.fsencode(top), found, first)
    return found


def note(path: bytes, top: bytes, found: Tree, first: dict[tuple[int, int], bytes]) -> None:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    name = os.path.relpath(path, top)
    content: object = None
    if kind == stat.S_IFREG:
        content = Path(os.fsdecode(path)).read_bytes()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    same = name if kind == stat.S_IFDIR else first.setdefault((status.st_dev, status.st_ino), name)
    xattrs = {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
    }
    found[name] = (
        *(oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev),
        *(content, same, xattrs),
    )


def random_name(chance: random.Random) -> bytes:
    alphabet = b"abcdefghijklmnop" if chance.random() < 0.8 else bytes(set(range(1, 256)) - {47})
    long = chance.random() < 0.1
    size = chance.randrange(90, 255) if long else chance.randrange(1, 9)
    name = bytes(chance.choice(alphabet) for _ in range(size))
    return b"x" + name[1:] if name.startswith(b".") else name


def random_tree(top: Path, chance: random.Random, files: int = 40, root: bool = False) -> None:
    """Fill a directory with files of all types that we may make, with all that they can be."""
    folders = [os.fsencode(top)]
    plain: list[bytes] = []
    dressed: list[tuple[bytes, int]] = []
    for _ in range(files):
        path = os.path.join(chance.choice(folders), random_name(chance))
        if os.path.lexists(path) or len(path) > 3000:
            continue
        kinds = ["file"] * 4 + ["folder"] * 3 + ["link", "hard", "fifo"] + ["device"] * root
        kind = chance.choice(kinds)
        if kind == "folder":
            os.mkdir(path)
            folders.append(path)
        elif kind == "link":
            os.symlink(chance.choice([b"/etc/passwd", b"..", b"x", random_name(chance)]), path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            linux.mknod(path, chance.choice([stat.S_IFCHR, stat.S_IFBLK]), 1, chance.randrange(300))
        elif kind == "hard" and plain:
            os.link(chance.choice(plain), path, follow_symlinks=False)
            continue
        else:
            Path(os.fsdecode(path)).write_bytes(
                chance.randbytes(chance.choice([0, 1, 511, 512, 9000]))
            )
        plain += [path] if kind != "folder" else []
        dressed.append((path, chance.randrange(0o10000)))
    for path, mode in reversed([(folders[0], 0o755), *dressed]):
        dress(path, mode if root else mode | 0o700, chance, root)


def dress(path: bytes, mode: int, chance: random.Random, root: bool) -> None:
    link = os.path.islink(path)
    if root:
        ids = [0, 1000, 65534, 3_000_000]
        os.chown(path, chance.choice(ids), chance.choice(ids), follow_symlinks=False)
    if not link:
        os.chmod(path, mode)
    if stat.S_ISREG(os.lstat(path).st_mode) or (os.path.isdir(path) and not link):
        if chance.random() < 0.3:
            os.setxattr(
                path, "user." + chance.choice("abc"), chance.randbytes(chance.randrange(50))
            )
        if root and stat.S_ISREG(os.lstat(path).st_mode) and chance.random() < 0.3:
            # Version 2, permitted CAP_NET_RAW: what ping has. See capabilities(7).
            os.setxattr(path, "security.capability", b"\1\0\0\2" + b"\0\x20\0\0" + bytes(12))
    time = chance.choice([0, 1, -1, chance.randrange(-(10**18), 2 * 10**18)])
    os.utime(path, ns=(time, time), follow_symlinks=False)
