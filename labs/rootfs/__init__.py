"""`labrun rootfs`: a root file system from busybox, Docker, a tarball or an OCI layout."""

import errno
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from labs import paths
from labs.errors import USAGE, Refused
from labs.rootfs import archive, busybox, docker, oci, progress, staging
from labs.rootfs.interrupts import Interrupts
from labs.rootfs.verify import Verified, verify
from labs.texts import say

Fill = Callable[[Path, Path, Interrupts], list[str]]
"""Fills a root with the help of a work directory; returns remarks for the reader."""


def command(directory: Path, source: str) -> int:
    """Make a root file system in `directory` from `source`, and say what to type next.

    Whole and verified, or not at all; a `directory` that holds the same one already is left as it
    is. Returns the exit status; raises Refused, and KeyboardInterrupt on Ctrl-C.
    """
    try:
        name, fill, strict = _source(source)
        target = _target(directory)
        with Interrupts() as interrupts:
            _make(target, directory, name, fill, interrupts, strict=strict)
    except OSError as error:
        raise _refused(error, directory) from error
    return 0


def default() -> Path:
    """Return the root file system that demos and checks use: busybox's, verified, in the cache.

    Made when it is missing or damaged. Raises Refused.
    """
    folder = paths.cache() / "rootfs"
    try:
        with Interrupts() as interrupts:
            with interrupts.let_through():
                found = busybox.find(interrupts)
            target = folder / found.key()
            if not busybox.intact(found, target):
                with staging.alone(folder, interrupts):
                    _cache(found, target, interrupts)
    except OSError as error:
        raise _refused(error, folder) from error
    return target


def _cache(found: busybox.Busybox, target: Path, interrupts: Interrupts) -> None:
    if busybox.intact(found, target):
        # Another labrun has made it while we waited.
        return
    progress.line(say("rootfs.making", directory=target))

    def fill(root: Path, work: Path) -> None:
        busybox.lay_out(found, root)
        verify(root, interrupts, name=str(found.path), strict=True)
        if os.path.lexists(target):
            # Somebody may be running in the damaged one: it goes as a whole, after it is replaced.
            os.rename(target, work / "damaged")

    staging.build(target, fill, interrupts)


def _source(source: str) -> tuple[str, Fill, bool]:
    """Return what `--from` names: its name, how to fill a root from it, whether all must run."""
    if source == "busybox":
        return source, _from_busybox, True
    if source == "docker" or source.startswith("docker:"):
        image = source.partition(":")[2] if ":" in source else "busybox"
        return f"docker:{image}", lambda root, work, i: docker.unpack(image, root, i), False
    path = Path(source)
    if not path.exists():
        raise Refused(source, say("rootfs.no_source"), say("rootfs.no_source.remedy"), status=USAGE)
    if path.is_dir():
        if not oci.is_layout(path):
            raise Refused(source, say("rootfs.no_layout"), say("rootfs.no_layout.remedy"))
        return source, lambda root, work, i: oci.unpack(path, root, i, name=source), False
    if not path.is_file() and not path.is_fifo():
        raise Refused(source, say("rootfs.no_archive"), status=USAGE)
    return source, lambda root, work, i: _from_archive(path, source, root, work, i), False


def _from_busybox(root: Path, work: Path, interrupts: Interrupts) -> list[str]:
    busybox.lay_out(busybox.find(interrupts), root)
    return []


def _from_archive(
    path: Path, name: str, root: Path, work: Path, interrupts: Interrupts
) -> list[str]:
    size = path.stat().st_size if path.is_file() else None
    with path.open("rb", buffering=0) as file:
        read = archive.stream(file.fileno(), interrupts)
        pieces = progress.bar(say("rootfs.unpacking", name=name), read, size)
        notes = archive.unpack(pieces, root, interrupts, name=name)
    if oci.is_layout(root):
        # `docker save` packs the layout; the root file system is in the layers.
        layout = root.rename(work / "layout")
        root.mkdir()
        root.chmod(0o755)
        return oci.unpack(layout, root, interrupts, name=name)
    if (root / "manifest.json").is_file() and not os.path.lexists(root / "bin"):
        raise Refused(name, say("rootfs.old_save"), say("rootfs.old_save.remedy"))
    return notes


def _target(directory: Path) -> Path:
    """Return where `directory` is, absolute; raises Refused where nothing can be put there."""
    where = str(directory)
    if directory.is_symlink():
        raise Refused(where, say("rootfs.is_link"), say("rootfs.other_name"))
    if not directory.parent.is_dir():
        parent = directory.parent
        raise Refused(
            where,
            say("rootfs.no_parent", parent=parent),
            say("rootfs.no_parent.remedy", parent=shlex.quote(str(parent))),
        )
    # `.` and `..` have a parent and a name only once they are resolved.
    target = directory.parent.resolve() / directory.name
    if directory.name in ("", ".."):
        target = directory.resolve()
    if not os.path.lexists(target):
        return target
    if not target.is_dir():
        raise Refused(where, say("rootfs.is_file"), say("rootfs.other_name"))
    if any(target.iterdir()):
        if not os.path.lexists(target / "bin/sh"):
            raise Refused(where, say("rootfs.not_empty"), say("rootfs.other_name"))
    elif target.is_mount():
        # Nothing can be renamed onto a mount point: EBUSY.
        raise Refused(where, say("rootfs.is_mount"), say("rootfs.is_mount.remedy"))
    elif target.samefile("."):
        # The shell would stay behind in a directory that is no longer there.
        raise Refused(where, say("rootfs.is_here"), say("rootfs.is_here.remedy", name=target.name))
    return target


def _make(
    target: Path,
    directory: Path,
    name: str,
    fill: Fill,
    interrupts: Interrupts,
    *,
    strict: bool,
) -> None:
    there: list[Path] = []

    def fill_and_verify(root: Path, work: Path) -> None:
        notes = fill(root, work, interrupts)
        verified = verify(root, interrupts, name=name, strict=strict)
        for note in notes:
            progress.line(say("rootfs.note", note=note))
        _report(verified)
        if target.is_dir() and any(target.iterdir()) and staging.same(root, target):
            there.append(target)

    try:
        staging.build(target, fill_and_verify, interrupts)
        progress.line(say("rootfs.made", directory=directory, name=name))
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not there:
            where = str(directory)
            raise Refused(where, say("rootfs.not_empty"), say("rootfs.other_name")) from None
        progress.line(say("rootfs.there", directory=directory, name=name))
    progress.line(say("rootfs.next", command=_next(directory)))


def _report(verified: Verified) -> None:
    for program, problem in verified.lacking.items():
        key = {"/bin/ip": "rootfs.without_ip", "/bin/ps": "rootfs.without_ps"}
        why = say(key.get(program, "rootfs.without_it"))
        progress.line(say("rootfs.note", note=f"{program} {problem}: {why}"))
    if not verified.ran:
        progress.line(say("rootfs.note", note=say("rootfs.only_looked")))


def _next(directory: Path) -> str:
    """Return the command line that runs a shell in `directory`."""
    stage1 = Path(sys.executable).with_name("stage1")
    words = [str(stage1) if stage1.exists() else "stage1", "run", str(directory), "/bin/sh"]
    # Root itself needs no sudo, and may not have it; who came by sudo types it again.
    sudo = ["sudo"] if os.geteuid() != 0 or "SUDO_UID" in os.environ else []
    return shlex.join(sudo + words)


def _refused(error: OSError, directory: Path) -> Refused:
    """Say what the kernel refused, and what to do about it."""
    remedies = {
        errno.ENOSPC: "rootfs.full.remedy",
        errno.EDQUOT: "rootfs.full.remedy",
        errno.EACCES: "rootfs.denied.remedy",
        errno.EPERM: "rootfs.denied.remedy",
        errno.EROFS: "rootfs.other_name",
    }
    why = error.strerror or str(error)
    name = os.fsdecode(error.filename or "")
    # Our own directory on the way has a name that would tell the reader nothing.
    if name not in ("", str(directory)) and f"/.{directory.name}." not in name:
        why = f"{archive.printable(name)}: {why}"
    key = remedies.get(error.errno or 0)
    return Refused(str(directory), why, say(key) if key else "")
