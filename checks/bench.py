"""The bench: a throw-away host on which a runtime is tried, so that its mistakes harm nothing.

A process of the judge's becomes pid 1 of outer namespaces: mounts (propagation shared, as systemd
has it), network (with links and routes of its own), uts, ipc, pid and cgroup, in an outer cgroup
with limits, which on the bench is the top of the tree. The judge stays outside and looks in. When
the judge lets go, or dies, the kernel kills pid 1, with it every process on the bench, and takes
all the rest away with the last of them.

A demo runs on the machine itself: there only the mounts are the bench's own.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self, TypeVar

from checks import cgroup, kernel, ledger, mounts, visitor
from checks.canaries import Canaries, nonce, plant
from checks.cgroup import Control, Group
from checks.words import say

T = TypeVar("T")

OUTER = ("mnt", "net", "uts", "ipc", "pid", "cgroup")
"""The namespaces that a bench has of its own."""
OVERLAID = ("/tmp", "/var/tmp", "/var/lib", "/etc", "/root", "/home", "/opt", "/srv")
"""Folders that programs write to: what a runtime leaves there must be seen, and must go."""
DISK = "disk"
"""A file system in memory, by itself in the bench's folder, for what runtimes store: an upper layer
can't be on an overlay, which the other folders are; and what is used of it can be told exactly."""
SIZE = "size=1g,mode=1777"
"""Of that: an ordinary user makes a store there, too."""
UPPERS = "/run/.bench"
"""Where the bench keeps what is written to those folders."""


class NoBench(Exception):
    """This machine, or this user, cannot have a bench."""


class Bench:
    """A place where runtimes are started, and looked at from outside."""

    def __init__(self, root: Path, *, machine: bool = False) -> None:
        """Prepare a bench for the root file system `root`; `machine`: on this machine itself."""
        self.root = root.resolve()
        self.machine = machine
        self.outer = ("mnt",) if machine else OUTER
        self.pid = 0
        self.canaries: Canaries
        self.keyring = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start pid 1 of the bench, and wait until all canaries are planted.

        Raises NoBench with the reason.
        """
        if os.geteuid() != 0:
            raise NoBench(say("bench.needs_root"))
        # What is started on the bench has the judge's session keyring; some kernels have no keys.
        with contextlib.suppress(OSError):
            self.keyring = kernel.join_session_keyring()
        with ExitStack() as stack:
            page = stack.enter_context(ledger.page())
            self._group = stack.enter_context(cgroup.outer_group(page))
            scratch = ""
            if self.machine:
                self._group.give()
                scratch = os.path.join(tempfile.gettempdir(), nonce("labrun"))
                page.add("folder", Path(scratch))
                os.mkdir(scratch, 0o755)
                stack.callback(shutil.rmtree, scratch)
            self.canaries = self._start(stack, scratch)
            canary = self.popen(["/bin/sh", "-c", "read wait", nonce()], stdin=subprocess.PIPE)
            stack.callback(_end, canary)
            self.canaries = replace(self.canaries, process=canary.pid)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill everything on the bench, and take the bench down."""
        self._stack.close()

    def _start(self, stack: ExitStack, scratch: str) -> Canaries:
        """Fork pid 1 of the bench, and have it taken down with the stack."""
        if not self.machine:
            # Before the fork: afterwards each bench would load it. And Python drops a Ctrl-C that
            # falls into the lock of its import system.
            with visitor.signals_held():
                import pyroute2  # noqa: F401  # only loaded here
        report, answer = os.pipe()
        hold, held = os.pipe()
        with visitor.signals_held():
            outer = os.fork()
            if outer == 0:
                try:
                    os.close(held)
                    os.close(report)
                    _be_bench(self, self._group, scratch, hold, answer)
                finally:
                    # Whatever went wrong, this process must never go on as a second judge.
                    os._exit(1)
            # Pid 1 lives as long as somebody has the other end of its pipe: us. A Ctrl-C that was
            # held back comes when this block ends, and must find how to take the bench down.
            stack.callback(_await_end, outer)
            stack.callback(os.close, held)
        os.close(hold)
        os.close(answer)
        with os.fdopen(report, "rb") as pipe:
            line = pipe.readline()
        told: dict[str, Any] = json.loads(line) if line else {"error": say("bench.died")}
        if "error" in told:
            raise NoBench(say("bench.cannot", reason=told["error"]))
        self.pid = told.pop("pid") if self.machine else _children_of(outer)[0]
        return Canaries(**told)

    @property
    def scratch(self) -> str:
        """Return the bench's own folder for temporary files, outside of ROOT."""
        return os.path.dirname(self.canaries.directory)

    @property
    def disk(self) -> str:
        """Return where the bench has a file system that nothing else is on: see DISK."""
        return os.path.join(self.scratch, DISK)

    @property
    def store(self) -> str:
        """Return where runtimes keep images and containers; LABRUN_STORE tells them."""
        return os.path.join(self.disk, "store")

    def see(self, look: Callable[[], T], *, root: bool = False) -> T:
        """Return what `look()` returns on the bench: the host's view."""
        return visitor.visit(self.pid, look, root=root)

    def see_network(self, look: Callable[[], T]) -> T:
        """Return what `look()` returns in the bench's network namespace, and in no other."""
        return visitor.visit(self.pid, look, root=False, only=("net",))

    def link(self, namespace: str) -> str:
        """Return which namespace the bench is in, such as `net:[4026531840]`."""
        return visitor.link(self.pid, namespace)

    def path(self, path: str | Path) -> str:
        """Return how the judge reaches a path of the bench's."""
        return f"/proc/{self.pid}/root{path}"

    def processes(self) -> dict[int, list[str]]:
        """Return pid (as the judge numbers it) and argv of each process on the bench.

        By the judge's own /proc: the bench's may be gone, or lie.
        """
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if self._holds(int(entry.name)):
                        found[int(entry.name)] = argv_of(entry)
        return found

    def _holds(self, pid: int) -> bool:
        """Say whether a process is in the bench's pid namespace, or in one that began there."""
        if visitor.link(pid, "pid") == self.link("pid"):
            return True
        parent = int(visitor.status_fields(pid)["PPid"])
        return parent not in (0, os.getpid()) and self._holds(parent)

    def groups(self) -> list[str]:
        """Return the cgroups that were made below the bench's own."""
        return self._group.below()

    def beneath(self, name: str) -> str:
        """Return the path of a group `name` below the bench's, as it is called on the bench.

        "" where no one path leads below the bench's group in every hierarchy.
        """
        above = self._group.path if self.machine else "/"
        return os.path.join(above, name) if above else ""

    def control(self, pid: int, controller: str) -> Control:
        """Return the cgroups that hold a process under a controller; raise Hindered without it."""
        return self._group.control(pid, controller)

    def files(self) -> list[str]:
        """Return what has been written to the bench's common folders, /run and /dev/shm.

        Not counted: the bench's own folder, where probes and adapters write; directories that
        overlayfs copied up for what was written below; what an interpreter caches of its program.
        """
        uppers = {folder: self.path(f"{UPPERS}{folder}/upper") for folder in OVERLAID}
        written = [
            f"{folder}/{name}"
            for folder, upper in uppers.items()
            if os.path.isdir(upper)
            for name in tree(upper)
            if not os.path.isdir(f"{folder}/{name}")
        ]
        for folder in ("/run", "/dev/shm"):
            written += [f"{folder}/{name}" for name in tree(self.path(folder))]
        own = (UPPERS, self.scratch)
        return [f for f in written if not f.startswith(own) and "/__pycache__" not in f]

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """Have a process that was started on the bench end with it, and not before."""
        self._stack.callback(_end, process)

    def popen(
        self,
        argv: Sequence[str | bytes],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a program on the bench; it dies with the judge. Its pid is as the judge sees it."""
        joined = {
            kernel.NAMESPACES[name]: os.open(f"/proc/{self.pid}/ns/{name}", os.O_RDONLY)
            for name in self.outer
        }
        home = os.open("/proc/self/ns/pid", os.O_RDONLY)
        here = _working_directory()
        heard = {*visitor.ENDINGS, signal.SIGQUIT}

        def board() -> None:
            # Who started us may ignore some (nohup, a background job): execve(2) hands that on.
            for number in heard:
                signal.signal(number, signal.SIG_DFL)
            kernel.die_with_parent()
            self._group.join()
            for flag, fd in joined.items():
                if flag != kernel.CLONE_NEWPID:
                    kernel.setns(fd, flag)
            # Joining a mount namespace moves a process to that namespace's root directory.
            os.chdir(here)
            # execve(2) hands on what is held back, too.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)

        try:
            if kernel.CLONE_NEWPID in joined:
                # A process never changes its own pid namespace, only that of its next children.
                kernel.setns(joined[kernel.CLONE_NEWPID], kernel.CLONE_NEWPID)
            # Python drops what is raised in the hooks that it runs around such a fork.
            with visitor.signals_held():
                return subprocess.Popen(
                    argv,
                    env={**os.environ, "LABRUN_STORE": self.store, **(environment or {})},
                    pass_fds=pass_fds,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    preexec_fn=board,
                )
        finally:
            if kernel.CLONE_NEWPID in joined:
                kernel.setns(home, kernel.CLONE_NEWPID)
            for fd in (home, *joined.values()):
                os.close(fd)


def _working_directory() -> str:
    """Return where we are; `/` where that has been deleted, or is the bench's own on the bench."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return "/"
    return "/" if Path(here).is_relative_to("/run") else here


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started, and forget it."""
    with process:
        process.kill()


def _children_of(pid: int) -> list[int]:
    """Return the pids of a process's children. See proc_pid_task(5)."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def _await_end(outer: int) -> None:
    """Wait until a bench is gone.

    Pid 1 can't end while a dead process of its namespace waits to be reaped by a parent outside:
    us, where a Ctrl-C came between its start and our waiting for it. See pid_namespaces(7).
    """
    while os.waitpid(outer, os.WNOHANG)[0] == 0:
        for child in _children_of(os.getpid()):
            if child != outer and visitor.status_fields(child)["State"].startswith("Z"):
                os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)  # nothing tells a process of two events at once: its end, and a zombie


def tree(root: str) -> Iterator[str]:
    """Yield every path below `root`, relative to it, without entering what is mounted there."""
    device = os.lstat(root).st_dev
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders + files):
            yield os.path.relpath(os.path.join(folder, name), root)
        folders[:] = [n for n in folders if os.lstat(os.path.join(folder, n)).st_dev == device]


def argv_of(process: Path) -> list[str]:
    """Return the arguments of the process whose /proc directory is given.

    See proc_pid_cmdline(5).
    """
    return [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]


def _be_bench(bench: Bench, group: Group, scratch: str, hold: int, answer: int) -> NoReturn:
    """Be the bench: leave the machine's namespaces, plant the canaries, and wait."""
    try:
        kernel.die_with_parent()
        if "cgroup" in bench.outer:
            group.found()
        others = [name for name in bench.outer if name != "cgroup"]
        kernel.unshare(sum(kernel.NAMESPACES[name] for name in others))
        if "pid" in bench.outer and (child := os.fork()):
            os.close(hold)
            os.close(answer)
            os.waitpid(child, 0)
            os._exit(0)
        kernel.die_with_parent()
        # First of all: nothing that is mounted from here on may reach the machine.
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        if not bench.machine:
            scratch = _furnish(bench.root)
        os.mkdir(os.path.join(scratch, DISK))
        kernel.mount("disk", os.path.join(scratch, DISK), "tmpfs", data=SIZE)
        proc = bench.root / "proc"
        if proc.is_dir():
            kernel.mount(
                "proc", str(proc), "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
            )
        told: dict[str, object] = asdict(plant(scratch, machine=bench.machine))
        # As systemd leaves it: a mount made on the bench reaches every other namespace of it.
        if not bench.machine:
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SHARED)
    except Exception as error:
        # Whatever it is (netlink has errors of its own): this process must never go on as a judge.
        told = {"error": str(error)}
    if bench.machine:
        told["pid"] = os.getpid()
    os.write(answer, json.dumps(told).encode() + b"\n")
    os.close(answer)
    while not select.select([hold], [], [], 0.2)[0]:
        # Pid 1 is the heir of every orphan, and buries it.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os._exit(0)


def _furnish(root: Path) -> str:
    """Mount what a throw-away host has of its own; return its folder for temporary files.

    ROOT and the folders that everybody writes to become copies-on-write of the machine's: what is
    there is there, and what is written goes with the bench. Raises OSError, and NoBench where the
    bench would hide ROOT or the judge itself.
    """
    for path in (root, Path(__file__)):
        if any(path.is_relative_to(place) for place in ("/run", "/dev/shm")):
            raise NoBench(say("bench.covered", path=path))
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("proc", "/proc", "proc", flags | kernel.MS_NOEXEC)
    kernel.mount("tmpfs", "/run", "tmpfs", flags, "mode=755,size=256m")
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", flags, "mode=1777,size=64m")
    if os.path.isdir("/dev/mqueue"):
        kernel.mount("mqueue", "/dev/mqueue", "mqueue", flags)
    cgroup.remount()
    # Under another name first: overlayfs stacks only two deep, and ROOT may lie below /tmp.
    lower = f"{UPPERS}/ROOT"
    os.makedirs(lower)
    kernel.mount(str(root), lower, None, kernel.MS_BIND)
    for folder in filter(os.path.isdir, OVERLAID):
        _copy_on_write(folder, folder)
    if root != Path("/"):
        _copy_on_write(lower, str(root))
    # Without a /tmp it lies where the bench has a file system of its own, too.
    scratch = tempfile.mkdtemp(prefix="bench-", dir="/tmp" if os.path.isdir("/tmp") else "/run")
    # An ordinary user's runtime has its store in there; and no canary is out of reach for the
    # folder's sake.
    os.chmod(scratch, 0o755)
    return scratch


def _copy_on_write(lower: str, place: str) -> None:
    """Mount at `place` what is in `lower`; what is written there goes to a folder of the bench's.

    What is mounted below it is the machine's own, and stays there. See the kernel's
    Documentation/filesystems/overlayfs.rst: a layer is what is in one file system.
    """
    below = _topmost(m.point for m in mounts.parse(mounts.own()) if m.point.startswith(f"{lower}/"))
    upper, work = (f"{UPPERS}{place}/{name}" for name in ("upper", "work"))
    os.makedirs(upper)
    os.makedirs(work)
    # The merged directory has the owner and mode of the upper one.
    facts = os.stat(lower)
    os.chown(upper, facts.st_uid, facts.st_gid)
    os.chmod(upper, facts.st_mode & 0o7777)
    # Relative names: a path in the options would have to be escaped.
    os.chdir(f"{UPPERS}{place}")
    if below:
        os.mkdir("below")
        kernel.mount(lower, "below", None, kernel.MS_BIND | kernel.MS_REC)
    kernel.mount("overlay", place, "overlay", 0, f"lowerdir={lower},upperdir=upper,workdir=work")
    for name in (point.removeprefix(f"{lower}/") for point in below):
        # It may be gone by now, or out of reach below one that was made later.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            kernel.mount(f"below/{name}", f"{place}/{name}", None, kernel.MS_BIND | kernel.MS_REC)
    if below:
        kernel.umount("below")
    os.chdir("/")


def _topmost(points: Iterable[str]) -> list[str]:
    """Return the paths that lie below none of the others."""
    found: list[str] = []
    for point in sorted(points):
        if not any(point.startswith(f"{above}/") for above in found):
            found.append(point)
    return found
