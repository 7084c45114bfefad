"""Images made by hand, what a tree is, and a place of its own for a test that mounts."""

import contextlib
import functools
import hashlib
import io
import os
import re
import stat
import subprocess
import tarfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from stages import linux
from stages.stage4_overlayfs import storage
from stages.stage4_overlayfs.more.devicemapper import DeviceMapper, devices

WHEN = 1_700_000_000
Layer = tuple[str, Callable[[], BinaryIO]]


def tar(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Layer:
    """Return a layer of the entries."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info, content = entry if isinstance(entry, tuple) else (entry, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return layer(file.getvalue())


def layer(content: bytes) -> Layer:
    """Return a tar as a driver takes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}", lambda: io.BytesIO(content)


def entry(name: str, kind: bytes, mode: int, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, WHEN
    for key, value in more.items():
        setattr(info, key, value)
    return info


def folder(name: str, mode: int = 0o755, **more: Any) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, mode, **more)


def file(
    name: str, content: bytes = b"", mode: int = 0o644, **more: Any
) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.REGTYPE, mode, **more), content


def hard(name: str, to: str) -> tarfile.TarInfo:
    return entry(name, tarfile.LNKTYPE, 0o644, linkname=to)


def soft(name: str, to: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, 0o777, linkname=to)


def xattrs(**named: bytes) -> dict[str, str]:
    return {f"SCHILY.xattr.user.{name}": text.decode() for name, text in named.items()}


def sample(links: bool = True) -> list[Layer]:
    """Return an image of three layers, in which there is something of everything."""
    linked = (file("one", b"linked\n"), hard("two", "one"), hard("etc/three", "one"))
    return [
        tar(
            folder("."),
            folder("etc"),
            file("etc/passwd", b"root\n", uid=7, gid=8),
            file("etc/motd", b"hello\n"),
            folder("usr"),
            folder("usr/share", 0o2775, uid=3, gid=4),
            file("usr/share/doc", b"doc\n"),
            folder("usr/share/man"),
            file("usr/share/man/one", b"1\n"),
            file("usr/share/man/two", b"2\n"),
            folder("old"),
            file("old/gone", b"gone\n"),
            file("old/kept", b"kept\n"),
            file("su", b"#!\n", 0o4755, pax_headers=xattrs(colour=b"blue")),
            soft("link", "etc/motd"),
            *(linked if links else ()),
        ),
        tar(
            folder("etc"),
            file("etc/motd", b"hello again\n"),
            file("etc/.wh.passwd"),
            folder("old"),
            file("old/.wh..wh..opq"),
            file("old/new", b"new\n"),
        ),
        tar(folder("etc"), file("etc/passwd", b"nobody\n"), folder("srv"), file("srv/a", b"a\n")),
    ]


# ---- what a tree is


def walk(top: str) -> Iterator[str]:
    """Yield the paths of all that is below a directory."""
    for parent, folders, files in os.walk(top):
        for name in sorted(folders + files):
            yield os.path.relpath(f"{parent}/{name}", top)


def tree(
    top: str, *, times: bool = True, inner: bool = False, counts: bool = True
) -> dict[str, object]:
    """Return all that is to be known of the files below a directory, by path.

    Without `counts`, not how many names a file has. With `inner`, also what a program doesn't see
    of a union: times of change, inode numbers.
    """
    found: dict[str, object] = {}
    linked: dict[tuple[int, int], list[str]] = {}
    for path in [".", *walk(top)]:
        whole = f"{top}/{path}"
        status = os.lstat(whole)
        facts: list[object] = [oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev]
        if not stat.S_ISDIR(status.st_mode):
            facts += [status.st_nlink] * counts
            linked.setdefault((status.st_dev, status.st_ino), []).append(path)
        if times:
            facts.append(status.st_mtime_ns)
        if inner:
            facts += [status.st_ctime_ns, status.st_ino]
        names = [
            name
            for name in os.listxattr(whole, follow_symlinks=False)
            if inner or (name.startswith("user.") and not name.startswith("user.overlay."))
        ]
        facts.append([(n, os.getxattr(whole, n, follow_symlinks=False)) for n in sorted(names)])
        if stat.S_ISLNK(status.st_mode):
            facts.append(os.readlink(whole))
        if stat.S_ISREG(status.st_mode):
            facts.append(Path(whole).read_bytes())
        found[path] = facts
    found["which names are one file"] = sorted(sorted(names) for names in linked.values())
    return found


def difference(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    """Return what differs, as a failed assertion is to show it."""
    return {
        path: (one.get(path), other.get(path))
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path)
    }


# ---- a place of its own


def apart(fact: Callable[..., None], flags: int = linux.CLONE_NEWNS) -> Callable[..., None]:
    """Have a test run in a child with mounts of its own; what it mounts goes with it."""

    @functools.wraps(fact)
    def run(tmp_path: Path, **given: Any) -> None:
        said = tmp_path / "said"
        reader, writer = os.pipe()
        # clone3 of our own: os.fork() warns of the threads that pytest-xdist has.
        child = linux.clone3(flags)
        if child == 0:
            status = 1
            try:
                os.close(writer)
                os.read(reader, 1)
                linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
                fact(tmp_path=tmp_path, **given)
                status = 0
            except pytest.skip.Exception as skipped:
                said.write_text(str(skipped), encoding="utf-8")
                status = 3
            except BaseException:
                said.write_text(traceback.format_exc(), encoding="utf-8")
            finally:
                os._exit(status)
        if flags & linux.CLONE_NEWUSER:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{child}/{name}").write_text("0 0 65536", encoding="ascii")
        os.close(reader)
        os.close(writer)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 3:
            pytest.skip(said.read_text(encoding="utf-8"))
        if status:
            pytest.fail(said.read_text(encoding="utf-8") if said.exists() else str(status))

    return run


class Bench:
    """A store of its own, and a driver for it."""

    shelf: Path | None = None
    """Where a store is kept with the layers of sample() as devices: each test has a copy of it."""

    def __init__(self, tmp_path: Path, driver: str, *, empty: bool = False) -> None:
        """Begin with nothing; unless it is to be `empty`, layers may come from the shelf."""
        self.empty = empty
        self.name, self.root = driver, str(tmp_path / "store")
        self.driver = storage.choose(driver, self.root)
        self.layers: list[Layer] = []
        self.open = contextlib.ExitStack()
        if isinstance(self.driver, DeviceMapper):
            # A pool is made of six programs; one for the whole test is enough.
            self.open.enter_context(self.driver.pool.staying())

    def image(self, *layers: Layer) -> None:
        self.layers = list(layers)
        if isinstance(self.driver, DeviceMapper) and not self.empty:
            self.fetch()
        self.driver.prepare(self.layers)

    def fetch(self) -> None:
        """Take the layers from the shelf: they are made by forty programs, in a minute or more."""
        digests = [digest for digest, _ in self.layers]
        if not self.shelf or os.path.exists(self.root) or digests != [d for d, _ in sample()]:
            return
        storage.choose(self.name, str(self.shelf)).prepare(self.layers)
        os.makedirs(os.path.dirname(self.root), exist_ok=True)
        subprocess.run(["cp", "-a", self.shelf, self.root], check=True)

    def container(self, name: str = "c1") -> str:
        """Return the path of a container's tree, mounted."""
        return self.driver.mount(name, self.layers)

    def again(self, name: str = "c1") -> str:
        """Unmount it and mount it again: what is seen then is on the disk."""
        self.driver.unmount(name)
        return self.container(name)

    def committed(self, name: str = "c1") -> Layer:
        return layer(b"".join(self.driver.commit(name)))

    def inside(self) -> dict[str, object]:
        """Return what the unpacked layers are on the disk."""
        return tree(f"{self.root}/layers", inner=True)

    def remove_all(self, *names: str) -> None:
        """Remove containers and layers, and see that no device is left."""
        for name in names or ("c1",):
            self.driver.remove(name)
        for name in self.driver.names(self.layers):
            self.driver.discard(name)
        self.open.close()
        if isinstance(self.driver, DeviceMapper):
            assert os.listdir(f"{self.root}/devicemapper/pending") == []
            assert not [name for name in devices() if name.startswith(self.driver.pool.prefix)]

    def end(self, *names: str) -> None:
        """Remove containers and layers, and see that nothing is left."""
        self.remove_all(*names)
        left = [path for path in walk(self.root) if not os.path.isdir(f"{self.root}/{path}")]
        if isinstance(self.driver, DeviceMapper):
            left = [path for path in left if not path.startswith("devicemapper/")]
        assert left == []
        assert self.root not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        assert os.listdir(f"{self.root}/containers") == []
        assert os.listdir(f"{self.root}/tmp") == []


@contextlib.contextmanager
def raises(number: int) -> Iterator[None]:
    """Expect an OSError."""
    with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
        yield
