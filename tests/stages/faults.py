"""Make one kernel call of a stage fail, and see what becomes of the run."""

import re
import subprocess
import sys
from collections.abc import Sequence

from tests.running import run

HARNESS = """
import importlib, os, sys
from stages import linux
stage, wanted = sys.argv[1:3]
cli = importlib.import_module({"stage1": "stages.stage1_chroot.cli",
                               "stage2": "stages.stage2_namespaces.cli",
                               "stage3": "stages.stage3_cgroups.cli",
                               "stage4": "stages.stage4_overlayfs.cli",
                               "stage5": "stages.stage5_container.cli"}[stage])
half, owner, count = "parent", os.getpid(), 0
def fail(words, result):
    global half, owner, count
    if result is not linux.PENDING:
        if owner != os.getpid():
            # The fork itself, as it comes back in a child. From stage 2 on clone3() makes the
            # command's process, and fork() a helper of the runtime's.
            helper = words == "fork()" and stage != "stage1"
            half, owner, count = "helper" if helper else "child", os.getpid(), 0
        return
    count += 1
    if words.startswith(wanted) or wanted == f"{half}:{count}":
        raise OSError(5, os.strerror(5))
linux.watch = fail
sys.argv = [stage, *sys.argv[3:]]
cli.main()
"""


def faulty(stage: str, call: str, *arguments: str) -> list[str]:
    """Return the command line of a stage in which a call fails with EIO.

    The call is named by how its words begin, or by its number in its half: `parent:3`, `child:7`.
    """
    return [sys.executable, "-c", HARNESS, stage, call, *arguments]


OWN_NETWORK = ("unshare", "-n")
"""What precedes a run whose calls must not depend on which addresses others have taken."""


def calls_before_the_command(
    command: str, *arguments: str, before: Sequence[str] = ()
) -> dict[str, str]:
    """Return the words of each call that precedes COMMAND, by its number in its half.

    Of the parent's, those up to its last word to the child, where there is one.
    """
    ended = run([*before, command, "run", "--trace", *arguments])
    assert ended.returncode == 0, ended.stderr
    rows = re.findall(r"^\[(\d+)\] (.*)$", ended.stderr.decode(), re.MULTILINE)
    parent = [words for pid, words in rows if pid == rows[0][0]]
    runner = next(pid for pid, words in rows if words.startswith("execve("))
    child = [words for pid, words in rows if pid == runner]
    said = [number for number, words in enumerate(parent) if words.startswith("write(")]
    parent = parent[: said[-1] + 1 if said else None]
    ends = [number for number, words in enumerate(child) if words.startswith("execve(")]
    # Its first is the fork itself, as it comes back in the child.
    child = child[1 : ends[0]]
    halves = {"parent": parent, "child": child}
    return {
        f"{half}:{number}": words
        for half, calls in halves.items()
        for number, words in enumerate(calls, 1)
    }


def line_of(ended: subprocess.CompletedProcess[bytes], stage: str) -> str:
    """Return the one line that a failed run wrote to stderr, and nothing to stdout."""
    assert ended.stdout == b""
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{stage}: ")
    return lines[0]


def check_each_fails_closed(
    stage: str, calls: Sequence[str], command: Sequence[str], before: Sequence[str] = ()
) -> dict[str, str]:
    """Make each of the calls fail in a run of its own; return what is said, by call.

    Nothing is run, the status is 125, and one line is said.
    """
    found = {}
    for call in calls:
        ended = run([*before, *faulty(stage, call, *command)])
        assert ended.returncode == 125, (call, ended)
        found[call] = line_of(ended, stage)
    return found
