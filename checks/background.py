"""Containers that live by themselves: begun in the background, called by a name, and removed."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from checks.canaries import nonce
from checks.images import Images, NoImages
from checks.runtimes import Request
from checks.trial import (
    PATIENCE,
    USAGE,
    Container,
    Ended,
    NoSuchOption,
    NotStarted,
    Trial,
    awaited,
    bearers,
    find,
    kill,
    let_go,
    status_of,
)
from checks.words import say

HOLD = "sleep 600 & wait"
"""What has a shell wait where there is nothing to read; its traps run meanwhile."""
SOON = 20.0
"""Seconds until what is to come by itself has come: the command, its end, what it wrote."""


def within(seconds: float, look: Callable[[], bool]) -> bool:
    """Say whether that is so within so many seconds, or at last."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if look():
            return True
        time.sleep(0.05)  # whose child it is nobody tells us
    return look()


@dataclass(frozen=True, eq=False)
class Detached:
    """A container in the background. `process` is the runtime that began it, and has ended."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    ended: Ended

    @property
    def mark(self) -> str:
        """Return the command's last argument, which no other has."""
        return self.command[-1]

    def first(self, but: int = 0) -> int:
        """Return the pid of its first process, when there is one; `but` is one that there was.

        Raises NotStarted.
        """
        until = time.monotonic() + SOON
        while True:
            with contextlib.suppress(NotStarted):
                if (pid := find(self.command, forked=True)) != but:
                    return pid
            if time.monotonic() > until:
                raise NotStarted(say("life.no_process", seconds=SOON))
            time.sleep(0.05)

    def gone(self) -> bool:
        """Say whether no process of its command is there."""
        return not bearers(self.command)


@contextlib.contextmanager
def detached(
    trial: Trial,
    script: str,
    *options: str,
    root: str = "",
    before: Sequence[str] = (),
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Detached]:
    """Have a shell run a script in the background; remove the container in the end.

    Raises Unsupported, NoSuchOption, and NotStarted where the runtime fails or doesn't come back.
    """
    name, command = nonce("life"), ["/bin/sh", "-c", script, nonce("command")]
    words = ("--detach", "--name", name, *options)
    request = Request(command, options=words, root=root)
    pipe = subprocess.PIPE
    with removed(trial, name, command):
        process = trial.popen(request, before, stdin=stdin, stdout=pipe, stderr=pipe)
        try:
            ended = _comes_back(process, command)
            if ended.status == USAGE:
                raise NoSuchOption(say("runtime.no_option", options=" ".join(words)))
            if ended.status:
                said = {"status": ended.status, "said": ended.said()}
                raise NotStarted(say("life.not_begun", **said))
            yield Detached(name, command, process, ended)
        finally:
            let_go(process)


@contextlib.contextmanager
def removed(trial: Trial, name: str, command: Sequence[str] = ()) -> Iterator[None]:
    """Have a container removed, and whatever is left of its command ended."""
    try:
        yield
    finally:
        with contextlib.suppress(NoImages, NotStarted):
            Images(trial).ask("rm", "--force", name)
        for pid in bearers(command) if command else ():
            kill(pid)


def _comes_back(process: subprocess.Popen[bytes], command: Sequence[str]) -> Ended:
    """Wait for the end of a runtime that is to leave its command in the background.

    Raises NotStarted where it stays, though the command has long been there.
    """
    until, seen = time.monotonic() + PATIENCE, False
    while process.poll() is None:
        if not seen and bearers(command):
            seen, until = True, min(until, time.monotonic() + SOON)
        if time.monotonic() > until:
            raise NotStarted(say("life.stays"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    assert process.stdout
    assert process.stderr
    return Ended(status_of(process), *map(_there, (process.stdout, process.stderr)))


def _there(stream: IO[bytes]) -> bytes:
    """Return what has come through a pipe; whoever has it still open is not waited for."""
    fd, parts = stream.fileno(), b""
    while select.select([fd], [], [], 0)[0] and (part := os.read(fd, 65536)):
        parts += part
    return parts


@contextlib.contextmanager
def named(trial: Trial, script: str, *options: str) -> Iterator[tuple[Container, str]]:
    """Have a container in the foreground that has a name; give that, too, and remove it."""
    name = nonce("life")
    with (
        removed(trial, name),
        trial.started(script, options=("--name", name, *options)) as container,
    ):
        yield container, name


@contextlib.contextmanager
def entered(trial: Trial, name: str, script: str) -> Iterator[Container]:
    """Have `exec` start a shell in a container, which says its name, runs a script; find it.

    Raises NoImages, NotStarted, NoSuchOption.
    """
    command = ["/bin/sh", "-c", script, nonce("second")]
    operands = ("--interactive", name, *command)
    process = Images(trial).start("exec", *operands, stdin=subprocess.PIPE)
    with awaited(process, command, ("exec",)) as container:
        yield container
