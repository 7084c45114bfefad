"""Steps on images: containers whose directories the host looks at, and scripts on the host."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from checks.bench import Bench
from checks.canaries import nonce
from checks.model import Finding
from checks.runtimes import Runtime
from checks.trial import Container, Ended, NotStarted, Trial
from labs.demo import measure, proof, stack
from labs.demo.lab import Imaged, Lab
from labs.demo.played import Side
from labs.demo.script import Places, Step, fill
from labs.texts import say

Outside = Callable[[Sequence[str], Step], Ended]
"""Runs a command on the host, with a step's variables."""
Proved = tuple[list[Side], list[stack.Stack], Places, dict[str, Finding]]
"""Sides, the stacks of the containers, the places that they are at, and what was found."""


class Layered:
    """Plays a stage's steps on the demo's own images, which are made for the first of them."""

    def __init__(self, chosen: Runtime, bench: Bench, stage: str, outside: Outside) -> None:
        """Take the runtime, the bench, the stage, and what runs a command on the host."""
        self.chosen, self.bench, self.stage, self.outside = chosen, bench, stage, outside
        self._lab: Lab | None = None

    @property
    def lab(self) -> Lab:
        """Return the images. Raises what `Lab` does."""
        if self._lab is None:
            self._lab = Lab(self.chosen, self.bench, self.stage)
        return self._lab

    def trial(self, options: Sequence[str]) -> Trial:
        """Return the runtime on its bench, on the image."""
        return Trial(Imaged(self.chosen, self.lab.store, self.lab.plan.image, options), self.bench)

    def play(self, step: Step, places: Places) -> Proved:
        """Play a step. Raises NotStarted, Unsupported, Hindered and OSError."""
        self.lab.renew()
        places = {**places, "store": self.lab.store}
        seen: list[proof.Contents] = [stack.contents(self.bench, self.lab.store)]
        return (self.turns if step.turns else self.inside)(step, places, seen)

    def inside(self, step: Step, places: Places, seen: list[proof.Contents]) -> Proved:
        """Run a step's command in containers that still live when the host looks at their files."""
        asked = [each.options for each in step.beside or ()] + [step.options]
        between = []
        with ExitStack() as living:
            stacks = []
            for options in asked:
                ended, container = living.enter_context(
                    _living(self.trial(options), step.command[-1])
                )
                stacks.append(stack.look(self.bench, container.pid, self.lab.store))
                between.append(Side(self.stage, options, step.command, ended))
            seen.append(stack.contents(self.bench, self.lab.store))
            names = [("upper", stacks[-1].upper), ("other", stacks[0].upper)]
            names.append(("lower", next(iter(stacks[-1].lower), "")))
            places = {**places, **{name: path for name, path in names if path}}
            beside = [fill(word, places) for word in step.host]
            host = Side("", (), beside, self.outside(beside, step))
            said = [side.ended for side in between]
            scene = proof.Scene(self.bench, self.lab, said, stacks, seen)
            findings = proof.prove(step.looks, (step.axis, *step.also), scene)
        return [host, *between], stacks, places, findings

    def turns(self, step: Step, places: Places, seen: list[proof.Contents]) -> Proved:
        """Run scripts of the host's that call the runtime, one after the other."""
        sides = []
        try:
            for turn in step.turns:
                if turn.anew:
                    self.lab.clear()
                    self.lab.renew()
                known = {**places, **turn.places}
                command = [fill(word, known) for word in turn.command or step.command]
                environment = {"LABRUN_STORE": self.lab.store}
                ended = self.outside(
                    self.lab.script(command), replace(step, environment=environment)
                )
                seen.append(stack.contents(self.bench, self.lab.store))
                sides.append(Side("", (), command, ended, title=str(turn.title or "")))
            scene = proof.Scene(self.bench, self.lab, [side.ended for side in sides], (), seen)
            findings = proof.prove(step.looks, (step.axis, *step.also), scene)
        finally:
            self.lab.clear()
        return sides, [], places, findings


@contextmanager
def _living(trial: Trial, script: str) -> Iterator[tuple[Ended, Container]]:
    """Run a shell script in a container; give what it said, and the container, which still lives.

    Raises NotStarted.
    """
    end = nonce("end")
    # It waits until it has been found: what it forks looks like it.
    line = f'export PATH={measure.PATH}; read go; ({script}\n) 2>&1; echo "{end} $? {end}"'
    with trial.started(line) as container:
        measure.tell(container, "go")
        if not container.hears(f" {end}\n".encode()):
            raise NotStarted(say("demo.ended_early"))
        said, _, status = (
            bytes(container.heard).rpartition(end.encode())[0].rpartition(end.encode())
        )
        # The first line is the shell's own: by it the container was found.
        yield Ended(int(status), said.partition(b"\n")[2], b""), container
