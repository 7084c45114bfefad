"""Make one kernel call after another of a stage 5 command fail, each in a run of its own.

One process has the command loaded, and forks for each run. A call is named by who makes it and by
its words, with `#` for what differs from run to run. Who makes it is named by birth, the same in
every run: `main`, its second fork `main/fork2`, that one's container `main/fork2/clone1`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

SERVER = r"""
import ctypes, importlib, json, mmap, os, re, sys, time

ROOM, ROOMS = 1 << 18, 16
# The processes of a run close all descriptors but their own: they tell by shared memory. Its first
# bytes: how many have been born, whether the call has failed; then room for what each has called.
board = mmap.mmap(-1, ROOM * ROOMS)

def run_one(asked):
    from stages import linux
    name, owner, room, at, born, last = "main", os.getpid(), 1, 0, {}, ""
    seen = {}
    def watch(words, result):
        nonlocal name, owner, room, at, born, last
        if owner != os.getpid():  # the fork itself, as it comes back in a child
            name, owner, room, at = f"{name}/{last}{born[last]}", os.getpid(), board[0] + 1, 0
            born = {}
            seen.clear()
            return
        if result is not linux.PENDING:
            return
        call = words.partition("(")[0]
        if call in ("fork", "clone3"):
            board[0] += 1
            last = call.rstrip("3")
            born[last] = born.get(last, 0) + 1
        key = f"{name} {re.sub('[0-9a-f]*[0-9][0-9a-f]*', '#', words)}"
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 1:
            row = key.encode() + b"\0"
            board[room * ROOM + at : room * ROOM + at + len(row)] = row
            at += len(row)
        if asked["fail"] == key and seen[key] == 1:
            board[1] = 1
            raise OSError(5, os.strerror(5))
    linux.watch = watch
    sys.argv = ["stage5", *asked["argv"]]
    importlib.import_module("stages.stage5_container.commands").main()

def leave(patience):
    # What a run leaves is ours to bury: whoever is still there after that is left.
    until = time.monotonic() + patience
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        if time.monotonic() > until:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                return file.read().split()
        time.sleep(0.005)

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
import stages.stage5_container.commands
for line in sys.stdin:
    asked = json.loads(line)
    board[:] = bytes(len(board))
    out, err = os.memfd_create("out"), os.memfd_create("err")
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(asked["environment"])
            os.dup2(out, 1), os.dup2(err, 2)
            run_one(asked)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    left = [] if asked["stays"] else leave(10)
    rows = bytes(board[ROOM:]).split(b"\0")
    told = {"calls": [row.decode() for row in rows if row], "failed": bool(board[1]), "left": left}
    told |= {"out": os.pread(out, 1 << 20, 0).decode(), "err": os.pread(err, 1 << 20, 0).decode()}
    os.close(out), os.close(err)
    print(json.dumps(told | {"status": os.waitstatus_to_exitcode(status)}), flush=True)
"""


class Told(NamedTuple):
    """What became of a run."""

    status: int
    out: str
    err: str
    failed: bool
    """Whether the call that was to fail has been made."""
    left: list[str]
    """The processes that the run has left."""
    calls: list[str]
    """What was called, by each process in its order; of those that read alike, the first."""


class Failing:
    """The process that forks for each run."""

    def __init__(self, environment: Mapping[str, str], before: Sequence[str] = ()) -> None:
        self.environment = dict(environment)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process as process:
            assert process.stdin
            process.stdin.close()
        assert process.returncode == 0

    def run(self, argv: Sequence[str], fail: str = "", *, stays: bool = False) -> Told:
        """Run a command while one call fails; wait for all that it has begun, unless it stays."""
        assert self.process.stdin
        assert self.process.stdout
        asked = {"argv": list(argv), "fail": fail, "stays": stays, "environment": self.environment}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return Told(**told)
