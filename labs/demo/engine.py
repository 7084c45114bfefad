"""The engine: it plays a step, on the host and in the container, and measures what came of it."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checks.bench import Bench
from checks.model import Finding, Verdict
from checks.probes import observe
from checks.runtimes import Request, Runtime, Unsupported, runtime
from checks.trial import Ended, NotStarted, Trial
from labs.demo.script import Places, Step, fill
from labs.demo.trace import Call, calls
from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.texts import say

HOST = "@host"
NOT_FOUND = 127


@dataclass(frozen=True)
class Played:
    """A step, and what happened."""

    step: Step
    places: Places
    command: Sequence[str]
    host_command: Sequence[str]
    host: Ended
    container: Ended
    finding: Finding
    others: dict[str, Verdict] = field(default_factory=dict)
    """The verdicts on the step's further axes."""
    calls: Sequence[Call] = ()

    @property
    def as_expected(self) -> bool:
        """Say whether the verdict is the one that the stage is known for."""
        return self.finding.verdict is self.step.expected

    @property
    def marked(self) -> re.Pattern[str] | None:
        """Return the pattern of the output's lines that matter, if the step has one."""
        return re.compile(fill(self.step.mark, self.places)) if self.step.mark else None


def choose(stage: str, command: str | None) -> Runtime:
    """Return the runtime to play with: the stage's own, unless another is named.

    Raises Refused for one that can't be started.
    """
    own = Path(sys.executable).with_name(stage)
    words = command if command is not None else shlex.quote(str(own))
    try:
        chosen = runtime(words)
        program = "" if words.startswith("@") else shlex.split(words)[0]
    except Unsupported as error:
        raise Refused(words, str(error), status=CANNOT) from None
    except (ValueError, IndexError) as error:
        raise Refused(f"--runtime {words}", str(error), status=USAGE) from None
    if program and not shutil.which(program):
        raise Refused(words, say("demo.no_program"), say("demo.no_program.remedy"), status=FAILED)
    return chosen


class Engine:
    """Plays steps on one bench."""

    def __init__(self, chosen: Runtime, bench: Bench) -> None:
        """Take the runtime to show, and the bench to show it on."""
        self.bench = bench
        self.trial = Trial(chosen, bench)
        self.host = Trial(runtime(HOST), bench)
        # Only one that keeps the contract knows `--trace`; an adapter's program does not.
        self.traces = type(chosen) is Runtime
        canaries = bench.canaries
        self.places: Places = {
            "root": str(bench.root),
            "up": "/".join(".." for _ in bench.root.parts[1:]),
            "file": canaries.file,
            "secret": canaries.secret,
            "process": str(canaries.process),
            "shm": str(canaries.shm),
            "here": os.getcwd(),
        }

    def play(self, step: Step) -> Played:
        """Run a step's command outside and inside, and have its axis measured."""
        command = [fill(word, self.places) for word in step.command]
        beside = [fill(word, self.places) for word in step.host] or command
        request = Request(command, environment=step.environment)
        host = self._outside(beside, step)
        container = _run(self.trial, request)
        if step.axis:
            finding = observe(step.axis, self.trial)
        else:
            finding = _ended_with(step, container, host)
        others = {axis: observe(axis, self.trial) for axis in step.also}
        evidence = finding.evidence + tuple(e for f in others.values() for e in f.evidence)
        return Played(
            step,
            self.places,
            command,
            beside,
            host,
            container,
            Finding(finding.verdict, evidence),
            {axis: other.verdict for axis, other in others.items()},
            self._calls(request),
        )

    def before(self, axis: str) -> Verdict:
        """Return the verdict on an axis for no runtime at all: the host itself."""
        return observe(axis, self.host).verdict

    def _outside(self, command: Sequence[str], step: Step) -> Ended:
        """Run a command on the host, by the rootfs's own busybox where that has it.

        So both sides show the same program's words, and only the world around it differs.
        """
        name = Path(command[0]).name
        busybox = str(self.bench.root / "bin/busybox")
        tries = [[name, *command[1:]]]
        if command[0].startswith("/bin/") and name != "sh" and os.path.exists(busybox):
            tries.insert(0, [busybox, name, *command[1:]])
        for words in tries:
            try:
                return _run(self.host, Request(words, environment=step.environment))
            except OSError:
                continue
        return Ended(NOT_FOUND, b"", f"{name}: not found".encode())

    def _calls(self, request: Request) -> Sequence[Call]:
        """Run once more, to see the system calls: in a run of their own, as stderr is shared."""
        if not self.traces:
            return ()
        traced = Request(request.command, environment=request.environment, options=["--trace"])
        return calls(_run(self.trial, traced).stderr.decode("utf-8", "replace"))


def _run(trial: Trial, request: Request) -> Ended:
    """Run a command; what keeps the runtime from it is what stderr says."""
    try:
        return trial.run(request)
    except (NotStarted, Unsupported) as error:
        return Ended(NOT_FOUND, b"", str(error).encode())


def _ended_with(step: Step, ended: Ended, host: Ended) -> Finding:
    """Return the finding on a step without an axis: did it end, and answer, as it should?"""
    evidence = [say("demo.status", status=ended.status)]
    kept = ended.status == step.status
    if step.same:
        inside, outside = _last_line(ended.stdout), _last_line(host.stdout)
        kept = kept and inside == outside
        key = "demo.same" if inside == outside else "demo.differs"
        evidence = [say(key, inside=inside, outside=outside)]
    if not kept and ended.stderr:
        evidence.append(ended.said())
    return Finding(Verdict.KEPT if kept else Verdict.BROKEN, tuple(evidence))


def _last_line(stdout: bytes) -> str:
    return stdout.decode("utf-8", "replace").strip().rpartition("\n")[2]
