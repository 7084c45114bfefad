"""The engine: it plays a step, on the host and in the container, and measures what came of it."""

import os
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from checks import kernel
from checks.bench import Bench
from checks.model import Finding, Verdict
from checks.peers import runtime
from checks.probes import observe
from checks.runtimes import NAMESPACES, Request, Runtime, Unsupported
from checks.trial import Ended, NotStarted, Trial
from checks.visitor import Hindered
from labs import gauge
from labs.demo import ground, judge, living, measure, picture, proof, stack, trees
from labs.demo.layered import Layered
from labs.demo.measure import Measured
from labs.demo.played import NOT_FOUND, Links, Played, Side
from labs.demo.script import PLACE, Beside, Demo, Places, Plot, Step, fill
from labs.demo.served import Served
from labs.demo.trace import Call, calls
from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.stages import reference
from labs.texts import say

HOST = "@host"
KINDS = (*NAMESPACES, *(kind for kind in kernel.NAMESPACES if kind not in NAMESPACES))
"""The namespaces that a stage makes unasked, then the others."""
Watch = Callable[[Played], None]
"""Sees a step whose plots still grow."""
KILLED = 128 + signal.SIGKILL
TRIES = 3
"""How often a rate is measured that other loads of the machine may have disturbed."""


def choose(stage: str, command: str | None) -> Runtime:
    """Return the runtime to play with: the stage's own, unless another is named.

    Raises Refused for one that can't be started.
    """
    words = command if command is not None else _own(stage)
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


def _own(stage: str) -> str:
    """Return the command of a stage's own runtime, as a shell would have it."""
    return shlex.quote(reference(stage))


def bench_of(demo: Demo, root: Path) -> Bench:
    """Return the bench that a demo is played on: this machine, or a throw-away host."""
    return Bench(root, machine=not demo.apart)


class With(Runtime):
    """A runtime that is always given some options."""

    def __init__(self, chosen: Runtime, options: Sequence[str]) -> None:
        """Take the runtime, and the options in the contract's spelling."""
        super().__init__(chosen.name)
        self.chosen, self.options = chosen, options
        self.networks, self.copies_root = chosen.networks, chosen.copies_root

    def prepare(self, bench: Bench) -> None:
        """Have on the bench what the runtime needs."""
        self.chosen.prepare(bench)

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return the runtime's own command line. What the request asks for comes last, and wins."""
        options = [*self.options, *request.options]
        return self.chosen.argv(replace(request, options=options), bench)

    def environment(self, request: Request) -> Mapping[str, str]:
        """Return what the runtime adds to its environment."""
        return self.chosen.environment(request)


class Engine:
    """Plays steps on one bench."""

    def __init__(self, chosen: Runtime, bench: Bench, demo: Demo) -> None:
        """Take the runtime to show, the bench to show it on, and the demo to play."""
        self.bench = bench
        self.chosen = chosen
        self.demo = demo
        self.host = Trial(runtime(HOST), bench)
        self.layered = Layered(chosen, bench, demo.stage, self._outside)
        self.served = Served(self.layered)
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
            "port": str(canaries.port),
            "abstract": canaries.abstract,
            "here": os.getcwd(),
            "group": str(_group(canaries.process)),
        }
        if demo.apart:
            # A throw-away host's folders have long names.
            self.places = {**self.places, "outside": canaries.file}

    def play(self, step: Step, watch: Watch = lambda growing: None) -> Played:
        """Run a step's command on each side, and have its axes measured."""
        if step.looks in proof.PROOFS or step.looks in living.PROOFS:
            return self._proved(step)
        if step.plot and step.looks:
            return self._accounts(step, step.plot)
        if step.plot:
            return self._plotted(step, step.plot, watch)
        if step.looks:
            return self._trees(step)
        command = [fill(word, self.places) for word in step.command]
        beside = [fill(word, self.places) for word in step.host] or command
        request = Request(command, environment=step.environment)
        trial = self.trial(step)
        host = Side("", (), beside, self._outside(beside, step))
        between = [self._beside(each, request) for each in self.demo.beside(step)]
        container = Side(self.demo.stage, step.options, command, _run(trial, request))
        if step.axis:
            findings = {axis: observe(axis, trial) for axis in (step.axis, *step.also)}
        else:
            findings = {"": _ended_with(step, container.ended, host.ended)}
        links, networks = self._look(trial, step)
        return Played(
            step,
            self.places,
            [host, *between, container],
            findings,
            self._calls(trial, request),
            links,
            networks,
        )

    def _plotted(self, step: Step, plot: Plot, watch: Watch) -> Played:
        """Run a step's command without its options, then with them, and read the counters."""
        command = [fill(word, self.places) for word in step.command]
        try:
            with ground.lay(plot.ground, self.bench) as laid:
                places = {**self.places, **laid.places}
                command = [fill(word, places) for word in step.command]
                options = [fill(word, places) for word in step.options]
                trials = [self._with(plot.against), self._with(options)]
                sides: list[Side] = []

                def grow(number: int, measured: Measured) -> None:
                    sides[number] = replace(sides[number], measured=measured)
                    watch(Played(step, places, sides, {}))

                for _ in range(TRIES):
                    sides[:] = [
                        Side(
                            self.demo.stage,
                            asked,
                            command,
                            Ended(0, b"", b""),
                            Measured(plot, limit),
                            title,
                        )
                        for asked, limit, title in (
                            (plot.against, None, _without(plot)),
                            (options, plot.limit, ""),
                        )
                    ]
                    for number, trial in enumerate(trials):
                        blank = sides[number]
                        assert blank.measured
                        ended, measured = measure.measure(
                            trial,
                            command[-1],
                            plot,
                            laid,
                            limit=blank.measured.limit,
                            watch=partial(grow, number),
                        )
                        sides[number] = replace(blank, ended=ended, measured=measured)
                    free, bound = (side.measured for side in sides)
                    assert free
                    assert bound
                    before, found = judge.judge(free, bound)
                    if found.verdict is not Verdict.UNKNOWN and not _took_more(plot, sides):
                        break
                findings = {step.axis: found}
                findings |= {axis: observe(axis, self._with(())) for axis in step.also}
                calls = self._calls(trials[1], Request(["/bin/sh", "-c", ":"]))
        except (NotStarted, Unsupported, Hindered, OSError) as error:
            # Never a pass: either this machine can't, or the runtime didn't.
            here = isinstance(error, (Hindered, OSError))
            kind = Verdict.UNKNOWN if here else Verdict.BROKEN
            failed = Ended(NOT_FOUND, b"", str(error).encode())
            sides = [
                Side("", plot.against, command, failed),
                Side(self.demo.stage, step.options, command, failed),
            ]
            findings = {axis: Finding(kind, (str(error),)) for axis in (step.axis, *step.also)}
            return Played(step, self.places, sides, findings)
        return Played(step, places, sides, findings, calls, before=before)

    def _trees(self, step: Step) -> Played:
        """Start a container, and read its limits in the tree that this machine has."""
        trial = self.trial(step)
        command = [fill(word, self.places) for word in step.command]
        try:
            elsewhere, here, version, found = trees.look(trial, step.options)
        except (NotStarted, Unsupported, OSError) as error:
            elsewhere = here = Ended(NOT_FOUND, b"", str(error).encode())
            version, found = "v1", Finding(Verdict.BROKEN, (str(error),))
        other = "v2" if version == "v1" else "v1"
        sides = [
            Side("", (), command, elsewhere, title=say("demo.tree_elsewhere", version=other)),
            Side(self.demo.stage, step.options, command, here, title=f"cgroup {version}"),
        ]
        calls = self._calls(trial, Request(["/bin/sh", "-c", ":"]))
        return Played(step, self.places, sides, {"": found}, calls)

    def _accounts(self, step: Step, plot: Plot) -> Played:
        """Run a step's command in a container, and read what its group has counted by the end."""
        trial = self.trial(step)
        command = [fill(word, self.places) for word in step.command]
        try:
            own, measured = measure.measure(trial, command[-1], plot, ground.Ground())
            group, found = trees.accounts(own, measured)
        except (NotStarted, Unsupported, OSError) as error:
            own = group = Ended(NOT_FOUND, b"", str(error).encode())
            found = Finding(Verdict.BROKEN, (str(error),))
        sides = [
            Side(self.demo.stage, (), command, own, title=say("demo.account_own")),
            Side(self.demo.stage, (), command, group, title=say("demo.account_group")),
        ]
        calls = self._calls(trial, Request(["/bin/sh", "-c", ":"]))
        return Played(step, self.places, sides, {"": found}, calls)

    def _proved(self, step: Step) -> Played:
        """Run a step on the demo's image, and look at what that made of its layers."""
        axes = (step.axis, *step.also)
        try:
            if step.looks in living.PROOFS:
                sides, places, findings = self.served.play(step, self.places)
                findings |= {axis: observe(axis, self._with(())) for axis in filter(None, axes)}
                stacks: Sequence[stack.Stack] = ()
            else:
                sides, stacks, places, findings = self.layered.play(step, self.places)
            calls = self._calls(self.trial(step), Request(["/bin/sh", "-c", ":"]))
        except (NotStarted, Unsupported, Hindered, OSError) as error:
            here = not isinstance(error, NotStarted)
            kind = Verdict.UNKNOWN if here else Verdict.BROKEN
            failed = Ended(NOT_FOUND, b"", str(error).encode())
            command = step.command or step.turns[-1].command
            sides = [Side("", (), command, failed), Side(self.demo.stage, (), command, failed)]
            findings = {axis: Finding(kind, (str(error),)) for axis in axes}
            return Played(step, self.places, sides, findings)
        drawn = stacks[-1] if stacks and step.picture else None
        return Played(step, places, sides, findings, calls, layers=drawn)

    def trial(self, step: Step) -> Trial:
        """Return the runtime on its bench, as the step asks for it."""
        if step.looks in proof.PROOFS or step.looks in living.PROOFS:
            return self.layered.trial(step.options)
        # A step's own disk is there only while it is played.
        known = [word for word in step.options if not PLACE.search(fill(word, self.places))]
        whole = len(known) == len(step.options)
        return self._with(step.options if whole else ())

    def _with(self, options: Sequence[str]) -> Trial:
        return Trial(With(self.chosen, options), self.bench)

    def _beside(self, beside: Beside, request: Request) -> Side:
        """Run the step's command in another stage, or with other options."""
        stage = beside.stage or self.demo.stage
        chosen = self.chosen if stage == self.demo.stage else runtime(_own(stage))
        trial = Trial(With(chosen, beside.options), self.bench)
        return Side(stage, beside.options, request.command, _run(trial, request))

    def _look(
        self, trial: Trial, step: Step
    ) -> tuple[Mapping[str, Links], picture.Networks | None]:
        """Start a container to see which namespaces it is in and, for a picture, its network."""
        if not (self.demo.compare or step.picture):
            return {}, None
        try:
            with trial.started() as container:
                links = {kind: Links(self.bench.link(kind), container.link(kind)) for kind in KINDS}
                networks = picture.look(self.bench, container) if step.picture else None
        except (NotStarted, Unsupported, Hindered, OSError):
            return {}, None
        return links, networks

    def before(self, axis: str) -> Verdict:
        """Return the verdict on an axis for no runtime at all: the host itself."""
        return observe(axis, self.host).verdict

    def _outside(self, command: Sequence[str], step: Step) -> Ended:
        """Run a command on the host, by the rootfs's own busybox where that has it.

        So both sides show the same program's words, and only the world around it differs.
        """
        name, *arguments = [Path(command[0]).name, *command[1:]]
        busybox = str(self.bench.root / "bin/busybox")
        tries = [([name, *arguments], dict(step.environment))]
        if command[0].startswith("/bin/") and os.path.exists(busybox):
            here = step.environment.get("PATH", os.environ.get("PATH", ""))
            inside = [str(self.bench.root / folder) for folder in ("bin", "sbin", "usr/sbin")]
            environment = {**step.environment, "PATH": ":".join([*inside, here])}
            tries.insert(0, ([busybox, name, *arguments], environment))
        for words, environment in tries:
            try:
                return _run(self.host, Request(words, environment=environment))
            except OSError:
                continue
        return Ended(NOT_FOUND, b"", f"{name}: not found".encode())

    def _calls(self, trial: Trial, request: Request) -> Sequence[Call]:
        """Run once more, to see the system calls: in a run of their own, as stderr is shared."""
        if not self.traces:
            return ()
        traced = replace(request, options=["--trace"])
        return calls(_run(trial, traced).stderr.decode("utf-8", "replace"))


def _took_more(plot: Plot, sides: list[Side]) -> bool:
    """Return whether the OOM killer took the shell, too, which was to say how its hog ended.

    On a busy machine it may: the hog no longer counts as one to wait for (MMF_OOM_SKIP, see
    mm/oom_kill.c) a moment before its pages are free, and who asks for one then is the next.
    """
    return plot.ends and any(side.ended.status == KILLED for side in sides)


def _without(plot: Plot) -> str:
    """Return what the side without the limit is called."""
    return "" if plot.against else say("demo.no_limit")


def _group(pid: int) -> Path:
    """Return the group of a process below which others can be made, on v1 or v2."""
    groups = gauge.groups_of(pid)
    # v1 has one tree for each controller; on v2 processes sit in a group of their own.
    return groups.get("pids") or groups.get("", Path("/nonexistent/bench")).parent


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
