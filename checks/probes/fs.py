"""Files: the root, the working directory, open descriptors, mounts, and the classic way out."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from checks import kernel
from checks.bench import Bench, tree
from checks.canaries import nonce
from checks.model import Finding
from checks.mounts import Mount, parse
from checks.probes import probe, same_namespace, wall
from checks.runtimes import Request, Unsupported
from checks.trial import Container, Trial
from checks.visitor import Hindered, walk_up
from checks.words import say

HIGH = 64
"""Where a descriptor is in nobody's way."""


def inode(path: str) -> tuple[int, int]:
    """Return the device and inode of what a path leads to: what a directory *is*."""
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


def named(identity: tuple[int, int]) -> str:
    """Return device and inode as evidence."""
    device, number = identity
    return say("fs.inode", device=f"{os.major(device)}:{os.minor(device)}", number=number)


def reaches(path: str, secret: str) -> bool:
    """Say whether this process can read the secret at `path`."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read() == secret
    except (OSError, UnicodeDecodeError):
        return False


@probe("fs.root")
def root(trial: Trial) -> Finding:
    """A canary outside ROOT cannot be reached, and `/` inside is ROOT, or lies on top of it."""
    bench, canaries = trial.bench, trial.bench.canaries
    copied = trial.runtime.copies_root
    # On a machine that is somebody's own, ROOT is, too: it is left alone.
    marked = contextlib.nullcontext("") if copied or bench.machine else _mark(bench)
    with marked as mark, trial.started() as container:
        inside = inode(f"/proc/{container.pid}/root/")
        wanted = inode(bench.path(bench.root))
        on_top = _own_mount(container.pid) if inside != wanted else ""
        strays = ["/"] if inside != wanted else []
        if on_top or copied:
            strays = _strange(trial, container.pid)
            if mark and not _same(mark, bench, container.pid):
                strays.append(mark)
        paths = [canaries.file, "/" + "../" * 40 + canaries.file.lstrip("/")]
        reached = container.visit(lambda: [p for p in paths if reaches(p, canaries.secret)])
    # Also by a program of ROOT's own: a runtime may treat the shell better than other commands.
    if canaries.secret.encode() in trial.run(Request(["/bin/cat", canaries.file])).stdout:
        reached.append(canaries.file)
    facts = {"pid": container.pid, "inside": named(inside)}
    if inside == wanted:
        where = say("fs.root_same", **facts)
    elif strays == ["/"]:
        where = say("fs.root_other", wanted=named(wanted), **facts)
    elif strays:
        where = say("fs.root_strange", file=strays[0], count=len(strays), **facts)
    elif copied:
        where = say("fs.root_copy", **facts)
    elif mark:
        where = say("fs.root_marked", type=on_top, file=mark, **facts)
    else:
        where = say("fs.root_on_top", type=on_top, **facts)
    if reached:
        return wall(False, where, say("fs.canary_read", path=reached[0]))
    return wall(not strays, where, say("fs.canary_shut", path=canaries.file))


@contextlib.contextmanager
def _mark(bench: Bench) -> Iterator[str]:
    """Put a new file into ROOT; give its path there.

    Nobody can have a copy of it from before.
    """
    name = nonce("mark")
    place = Path(bench.path(bench.root), name)
    with place.open("x", encoding="ascii") as file:
        file.write(nonce())
    try:
        yield f"/{name}"
    finally:
        place.unlink()


def _same(name: str, bench: Bench, pid: int) -> bool:
    """Say whether a file of ROOT's is in the container, byte for byte."""
    try:
        inside = Path(f"/proc/{pid}/root{name}").read_bytes()
    except OSError:
        return False
    return inside == Path(bench.path(bench.root) + name).read_bytes()


def _own_mount(pid: int) -> str:
    """Return the type of the file system that a process's root is a mount of; "" where it is none.

    An overlay's directories have a device of their own, and so has what another driver mounts.
    """
    device = os.stat(f"/proc/{pid}/root/").st_dev
    table = parse(os.fsdecode(Path(f"/proc/{pid}/mountinfo").read_bytes()))
    return next((m.type for m in reversed(table) if (m.point, m.device) == ("/", device)), "")


def _strange(trial: Trial, pid: int) -> list[str]:
    """Return which files of ROOT's are others in a container that has no ROOT itself for root.

    What is mounted over, such as /proc and /etc/hosts, is the runtime's.
    """
    table = parse(os.fsdecode(Path(f"/proc/{pid}/mountinfo").read_bytes()))
    covered = {mount.point for mount in table}
    outside, inside = trial.bench.path(trial.bench.root), f"/proc/{pid}/root"
    return [
        f"/{name}"
        for name in tree(outside)
        if f"/{name}" not in covered
        and _described(f"{outside}/{name}") != _described(f"{inside}/{name}")
    ]


def _described(path: str) -> tuple[int, ...]:
    """Return a file's type and mode, owner and size; of what isn't there, nothing."""
    try:
        facts = os.lstat(path)
    except OSError:
        return ()
    size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
    return facts.st_mode, facts.st_uid, facts.st_gid, size


@probe("fs.cwd")
def cwd(trial: Trial) -> Finding:
    """The command starts at `/` of its root, so that no relative path leads out."""
    with trial.started() as container:
        process = f"/proc/{container.pid}"
        way = _way_up(f"{process}/cwd")
        top = inode(f"{process}/root/")
        where = os.readlink(f"{process}/cwd")
    facts = {"pid": container.pid, "top": named(top)}
    if top not in way:
        return wall(False, say("fs.cwd_outside", where=where, end=named(way[-1]), **facts))
    if way[0] != top:
        return wall(False, say("fs.cwd_below", here=named(way[0]), **facts))
    if strayed := _strays(trial, "/bin"):
        return wall(False, say("fs.workdir_outside", workdir="/bin", where=strayed))
    return wall(True, say("fs.cwd_top", **facts))


def _strays(trial: Trial, workdir: str) -> str:
    """Return where a command with that --workdir stands instead of there in its root, or ""."""
    try:
        with trial.started(workdir=workdir) as container:
            process = f"/proc/{container.pid}"
            if inode(f"{process}/cwd") == inode(f"{process}/root{workdir}"):
                return ""
            return os.readlink(f"{process}/cwd")
    except Unsupported:
        return ""


def _way_up(directory: str) -> list[tuple[int, int]]:
    """Return device and inode of a directory, and of all those above it."""
    here = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        return list(walk_up(here))
    finally:
        os.close(here)


@probe("fs.fds")
def fds(trial: Trial) -> Finding:
    """Nothing above descriptor 2 is inherited, and none is a way to a working directory."""
    opened = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    # Above what a runtime opens for itself: there it would not be hidden, but replaced.
    canary = fcntl.fcntl(opened, fcntl.F_DUPFD, HIGH)
    os.close(opened)
    try:
        with trial.started(pass_fds=(canary,)) as container:
            kept = _above_two(container)
        given = say("fs.fds_given", fd=canary)
        if kept:
            return wall(False, given, say("fs.fds_kept", pid=container.pid, shown=kept))
        none = say("fs.fds_none", pid=container.pid)
        workdir = f"/proc/self/fd/{canary}"
        if _accepts(trial, workdir, canary):
            return wall(False, given, none, say("fs.workdir_accepted", workdir=workdir))
        return wall(True, given, none, say("fs.workdir_refused", workdir=workdir))
    finally:
        os.close(canary)


def _above_two(container: Container) -> str:
    """Return a container's descriptors above 2 and what they lead to, as `ls -l` shows them."""
    directory = f"/proc/{container.pid}/fd"
    return ", ".join(
        f"{fd} -> {os.readlink(f'{directory}/{fd}')}"
        for fd in sorted(os.listdir(directory), key=int)
        if int(fd) > 2
    )


def _accepts(trial: Trial, workdir: str, fd: int) -> bool:
    """Say whether a command runs in a working directory that leads through a descriptor."""
    request = Request(["/bin/sh", "-c", "echo ran"], workdir=workdir)
    return b"ran" in trial.run(request, pass_fds=(fd,)).stdout


def _escape() -> bool:
    """Chroot once more, below an open directory, and climb: say whether chroot(2) was allowed."""
    kept = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    below = next(e.name for e in os.scandir("/") if e.is_dir(follow_symlinks=False))
    try:
        # The root moves below us: we stand outside of it, and `..` has nowhere to stop.
        os.chroot(f"/{below}")
    except PermissionError:
        return False
    os.fchdir(kept)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return True


def _other_roots(path: str, secret: str) -> list[str]:
    """Return what in /proc leads to the secret: the root of a process that is outside."""
    try:
        processes = [name for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []
    ways = [f"/proc/{number}/root{path}" for number in processes]
    return [way for way in ways if reaches(way, secret)]


@probe("fs.chroot-escape")
def chroot_escape(trial: Trial) -> Finding:
    """Neither a second chroot, from a directory kept open, nor /proc/PID/root leads out."""
    canaries = trial.bench.canaries

    def climb() -> tuple[list[str], bool, bool, tuple[int, int]]:
        around = _other_roots(canaries.file, canaries.secret)
        tried = _escape()
        return around, tried, reaches(canaries.file, canaries.secret), inode("/")

    with trial.started() as container:
        own = inode(f"/proc/{container.pid}/root/")
        around, tried, out, (device, number) = container.visit(climb)
    if out:
        return wall(False, say("fs.escape_out", path=canaries.file))
    if around:
        return wall(False, say("fs.escape_proc", path=around[0]))
    if not tried:
        return wall(True, say("fs.escape_refused", reason=os.strerror(errno.EPERM)))
    top = named((device, number))
    if (device, number) != own:
        return wall(False, say("fs.escape_above", top=top, own=named(own)))
    return wall(True, say("fs.escape_stays", path=canaries.file), say("fs.escape_top", top=top))


@probe("fs.mounts")
def mounts(trial: Trial) -> Finding:
    """Neither the host's root nor the canary mount is among the container's mounts."""
    bench = trial.bench
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "mnt")
        inside, outside = tables(trial, container)
    leaks = _of_host(inside, outside, bench.canaries.mount)
    if leaks:
        line = leaks[-1].line
        return wall(False, evidence, say("fs.mounts_leak", count=len(inside), line=line))
    return wall(not shared, evidence, say("fs.mounts_own", count=len(inside)))


def tables(trial: Trial, container: Container) -> tuple[list[Mount], list[Mount]]:
    """Return all mounts of the container's mount namespace, and all of the host's."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def table() -> str:
        # Its own mountinfo, by the judge's /proc: inside there may be none, or a false one.
        me = os.readlink("self", dir_fd=proc)
        with open(os.open(f"{me}/mountinfo", os.O_RDONLY, dir_fd=proc), "rb") as file:
            return os.fsdecode(file.read())

    try:
        return parse(container.visit(table, root=False)), parse(trial.bench.see(table))
    finally:
        os.close(proc)


def _of_host(inside: list[Mount], outside: list[Mount], canary: str) -> list[Mount]:
    """Return which mounts are the host's root, and then which is the canary (where there is one).

    Device and root of a mount say what is mounted, whoever mounted it where.
    """
    host = next((mount.device, mount.root) for mount in outside if mount.point == "/")
    return [
        *(mount for mount in inside if (mount.device, mount.root) == host),
        *(mount for mount in inside if canary and canary in mount.line),
    ]


@probe("fs.propagation")
def propagation(trial: Trial) -> Finding:
    """A mount made inside appears nowhere else, nor one made outside inside."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "mnt")
        if shared:
            return wall(False, say("fs.spread_same"), evidence)
        inside, outside = tables(trial, container)
        # First what the tables say: a mount that is tried out where they are tied would spread.
        groups = {tie for mount in outside for tie in mount.ties if tie.startswith("shared:")}
        if both := [mount for mount in inside if mount.ties & groups]:
            return wall(False, say("fs.spread_both", line=both[0].line))
        masters = {tie.replace("shared:", "master:") for tie in groups}
        if fed := [mount for mount in inside if mount.ties & masters]:
            return wall(False, say("fs.spread_in", line=fed[0].line))
        return _spread(trial, container)


def _spread(trial: Trial, container: Container) -> Finding:
    """Mount something inside, then something outside, and look where it appears."""
    name, place = nonce("mount"), _directory(f"/proc/{container.pid}/root/")
    outside = str(trial.bench.root / place)
    top = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY)

    def mount() -> None:
        os.fchdir(top)
        kernel.mount(name, place, "tmpfs", data="size=64k")

    def unmount() -> None:
        os.fchdir(top)
        kernel.umount(place)

    def seen() -> list[str]:
        inside, outside = tables(trial, container)
        # A table ends at its reader's root, and the command's may lie below another mount.
        file = Path(f"/proc/{container.pid}/mountinfo")
        inside += parse(os.fsdecode(file.read_bytes()))
        sides = {"inside": inside, "outside": outside}
        return [side for side, table in sides.items() if any(name in each.line for each in table)]

    try:
        container.visit(mount, root=False)
        after_inner = seen()
        container.visit(unmount, root=False)
    finally:
        os.close(top)
    if "inside" not in after_inner:
        raise Hindered(say("fs.spread_unseen", place=place))
    if "outside" in after_inner:
        return wall(False, say("fs.spread_out", place=place))
    trial.bench.see(lambda: kernel.mount(name, outside, "tmpfs", data="size=64k"))
    after_outer = seen()
    trial.bench.see(lambda: kernel.umount(outside))
    if "inside" in after_outer:
        return wall(False, say("fs.spread_came", place=outside))
    return wall(True, say("fs.spread_none", place=place))


def _directory(root: str) -> str:
    """Return the name of a directory in `root` on which nothing is mounted."""
    device = os.stat(root).st_dev
    with os.scandir(root) as entries:
        return min(
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and entry.stat().st_dev == device
        )
