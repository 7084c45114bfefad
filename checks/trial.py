"""A trial: a runtime on a bench, the commands that it is given, and how they end."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from checks import visitor
from checks.bench import Bench, argv_of
from checks.canaries import nonce
from checks.runtimes import Request, Runtime
from checks.words import say

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a runtime may take until its command runs, or has ended.

`docker run` takes 0.4; on an emulated processor with others at work, twenty.
"""


HOLD = 'read go; echo held; read wait <"$go"'
"""What a command does that `Container.holding` holds."""
Watch = Callable[[subprocess.Popen[bytes], Sequence[str]], None]
"""What looks on while a runtime starts a command, given the command's arguments."""
USAGE = 2
"""The exit status for a command line that a runtime doesn't understand (CONTRACT)."""


class NotStarted(Exception):
    """The runtime ended, or waited, without having run the command."""


class NoSuchOption(NotStarted):
    """The runtime knows no option of that name: it ended with 2, as for every usage error."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: the exit status as a shell has it (128+N for signal N), and what it said."""

    status: int
    stdout: bytes
    stderr: bytes

    def said(self) -> str:
        """Return the last line of stderr, as evidence."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else say("runtime.nothing")


@dataclass(frozen=True)
class Container:
    """A command that a runtime has started: `pid` is the command's, as the judge numbers it."""

    pid: int
    process: subprocess.Popen[bytes]
    """The runtime itself."""
    heard: bytearray
    """What has been read of its stdout."""

    def hears(self, mark: bytes, patience: float = PATIENCE) -> bool:
        """Read stdout until `mark` is in it: False where it ends, or patience does, without."""
        assert self.process.stdout
        return _hear(self.process.stdout, mark, patience, self.heard)

    def visit(self, look: Callable[[], T], *, root: bool = True) -> T:
        """Return what `look()` returns inside; see `visitor.visit`."""
        return visitor.visit(self.pid, look, root=root)

    def see_network(self, look: Callable[[], T]) -> T:
        """Return what `look()` returns in the container's network namespace, and in no other.

        Whatever `look` imports comes from where the judge's own files are.
        """
        return visitor.visit(self.pid, look, root=False, only=("net",))

    def link(self, namespace: str) -> str:
        """Return which namespace the command is in."""
        return visitor.link(self.pid, namespace)

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Have a command with HOLD in it wait for a writer that never comes, where it is told to.

        Some runtimes carry stdin: killed, they close the command's, and a command that waits there
        ends of itself, whatever its runtime cares for. Raises NotStarted.
        """
        assert self.process.stdin
        name = nonce("wait")
        folder, place = self._writable(name)
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(f"{place}\n".encode())
                self.process.stdin.flush()
            if not self.hears(b"held\n"):
                raise NotStarted(say("runtime.not_held"))
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.close(folder)

    def _writable(self, name: str) -> tuple[int, str]:
        """Make a FIFO inside; return the open folder that it is in, and its path there."""
        for place in ("", "/tmp", "/run", "/dev/shm"):
            try:
                folder = os.open(f"/proc/{self.pid}/root{place}", os.O_PATH | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                os.mkfifo(name, 0o644, dir_fd=folder)
            except OSError:
                os.close(folder)
                continue
            return folder, f"{place}/{name}"
        raise NotStarted(say("runtime.no_place"))

    def ends(self, patience: float) -> bool:
        """Say whether the command ends within `patience` seconds."""
        until = time.monotonic() + patience
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)  # it is not our child: the kernel tells its parent, not us
        return True

    def alive(self) -> bool:
        """Say whether the command still runs."""
        return alive(self.pid)

    def end(self) -> None:
        """Have the command end by itself, and wait until its runtime has ended, too.

        Raises NotStarted where that takes too long.
        """
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        self.status()

    def status(self, patience: float = PATIENCE) -> int:
        """Return its runtime's exit status as a shell has it, once it has ended, too.

        Raises NotStarted where that takes too long.
        """
        try:
            self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            raise NotStarted(say("runtime.not_ended", seconds=patience)) from None
        return status_of(self.process)


@dataclass(frozen=True)
class Trial:
    """A runtime on a bench: what a probe is given."""

    runtime: Runtime
    bench: Bench

    def popen(
        self,
        request: Request,
        before: Sequence[str] = (),
        **streams: int | IO[bytes] | Sequence[int],
    ) -> subprocess.Popen[bytes]:
        """Start the runtime on the bench, by the words `before`, if any.

        Raises NotStarted where it can't be.
        """
        try:
            return self.bench.popen(
                [*before, *self.runtime.argv(request, self.bench)],
                environment=self.runtime.environment(request),
                **streams,  # type: ignore[arg-type]  # popen() checks them
            )
        except (FileNotFoundError, PermissionError) as error:
            why = say("runtime.cannot_start", runtime=self.runtime.name, reason=error.strerror)
            raise NotStarted(why) from None

    def run(self, request: Request, stdin: bytes = b"", pass_fds: Sequence[int] = ()) -> Ended:
        """Run a command to its end.

        Raises NotStarted where the runtime doesn't end within PATIENCE.
        """
        pipe = subprocess.PIPE
        process = self.popen(request, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=pass_fds)
        return _outcome(process, stdin, PATIENCE)

    @contextlib.contextmanager
    def started(
        self,
        script: str = "",
        pass_fds: Sequence[int] = (),
        workdir: str = "",
        options: Sequence[str] = (),
        line: str = "",
        watch: Watch | None = None,
        root: str = "",
        before: Sequence[str] = (),
        stdin: int = subprocess.PIPE,
    ) -> Iterator[Container]:
        """Start a shell that says so, runs `script` and waits, and find it among the processes.

        `line` is another line for the shell, which says so, and waits, in a child that it forks.
        `watch` is called with the runtime and the command's arguments as soon as the runtime runs.
        `root` is another ROOT than the bench's, or an image. `before` are words that start the
        runtime, and `stdin` is a descriptor for it.
        Raises NotStarted with what the runtime said, NoSuchOption where it knows no such option.
        """
        name = nonce("command")
        # The shell waits in a builtin: no other program need be in ROOT, and it is never replaced.
        usual = f'echo "$0"; {script or ":"}; read wait'
        command = ["/bin/sh", "-c", line or usual, name]
        request = Request(command, workdir=workdir, options=options, root=root)
        pipe = subprocess.PIPE
        streams: dict[str, int] = {"stdin": stdin, "stdout": pipe, "stderr": pipe}
        process = self.popen(request, before, pass_fds=pass_fds, **streams)
        with awaited(process, command, options, forked=bool(line), watch=watch) as container:
            yield container


@contextlib.contextmanager
def awaited(
    process: subprocess.Popen[bytes],
    command: Sequence[str],
    options: Sequence[str] = (),
    *,
    forked: bool = False,
    watch: Watch | None = None,
) -> Iterator[Container]:
    """Wait for the name that a command says, its last argument; find it, and end it at last.

    `process` is the runtime that was given the command. Raises NotStarted, NoSuchOption.
    """
    try:
        assert process.stdout
        heard = bytearray()
        if watch:
            watch(process, command)
        # A terminal of its own ends a line otherwise.
        said = command[-1].encode() + (b"" if "--tty" in options else b"\n")
        if not _hear(process.stdout, said, PATIENCE, heard):
            raise _why_not(process, options)
        container = Container(find(command, forked=forked), process, heard)
        yield container
        # The command first: then a runtime ends in order, and takes down what it made.
        kill(container.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
    finally:
        let_go(process)


def kill(pid: int) -> None:
    """Kill a process that we found on the bench, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def status_of(process: subprocess.Popen[bytes]) -> int:
    """Return an exit status as a shell has it: 128+N for signal N."""
    code = process.returncode
    return 128 - code if code < 0 else code


def _why_not(process: subprocess.Popen[bytes], options: Sequence[str]) -> NotStarted:
    """Return why a runtime's command can't have started; afterwards the runtime has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    silent = process.poll() is None
    process.kill()
    ended = _outcome(process, b"", 1)
    if silent:
        return NotStarted(say("runtime.silent"))
    if options and ended.status == USAGE:
        return NoSuchOption(say("runtime.no_option", options=" ".join(options)))
    return NotStarted(say("runtime.not_started", status=ended.status, said=ended.said()))


def _outcome(process: subprocess.Popen[bytes], stdin: bytes, patience: float) -> Ended:
    """Wait for a runtime's end; raise NotStarted where it doesn't come.

    What a runtime left running may hold its streams open for ever: then what came is taken.
    """
    try:
        stdout, stderr = process.communicate(stdin, timeout=patience)
    except subprocess.TimeoutExpired as late:
        hung = process.poll() is None
        let_go(process)
        if hung:
            raise NotStarted(say("runtime.not_ended", seconds=patience)) from None
        stdout, stderr = late.stdout or b"", late.stderr or b""
    return Ended(status_of(process), stdout, stderr)


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Kill a runtime if it is still there, and close our ends of its streams."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _hear(stream: IO[bytes], mark: bytes, patience: float, heard: bytearray) -> bool:
    """Read into `heard` until `mark` is in it: False where the stream or patience ends first."""
    until = time.monotonic() + patience
    while mark not in heard:
        if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        if not (part := os.read(stream.fileno(), 4096)):
            return False
        heard += part
    return True


def alive(pid: int) -> bool:
    """Say whether a process still runs; a zombie doesn't."""
    try:
        return visitor.status_fields(pid)["State"][0] not in "ZX"
    except OSError:
        return False


def bearers(argv: Sequence[str]) -> list[int]:
    """Return the pids of the processes with exactly these arguments, as the judge numbers them.

    The runtime's own processes carry a command's behind arguments of their own.
    """
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if argv_of(process) == list(argv):
                    found.append(int(process.name))
    return sorted(found)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(visitor.status_fields(pid)["PPid"])
    return 0


def find(argv: Sequence[str], *, forked: bool = False) -> int:
    """Return the pid of the one process with exactly these arguments. Raises NotStarted.

    What a shell has `forked` bears them, too, but has such a process for a parent.
    """
    found = bearers(argv)
    if forked:
        found = [pid for pid in found if _parent(pid) not in found]
    if not found:
        raise NotStarted(say("runtime.no_process"))
    if len(found) > 1:
        # The shell has started nothing yet: whoever else looks like it is a decoy.
        raise NotStarted(say("runtime.many_processes", pids=", ".join(map(str, found))))
    return found[0]
