"""Steps on containers that live on: scripts on the host start them, and `exec` looks inside.

All runs on a throw-away host (`apart`): what a script leaves running ends with that at the latest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from checks.model import Finding, Verdict
from checks.peers import dockerd, runtime
from checks.runtimes import Unsupported
from checks.trial import Ended, NotStarted
from labs.demo import living
from labs.demo.lab import called
from labs.demo.played import NOT_FOUND, Side
from labs.demo.script import Places, Step, Turn, fill

if TYPE_CHECKING:
    from labs.demo.layered import Layered

DOCKER = "docker"


class Served:
    """Plays the steps of the last stage, in the store that `Layered` has."""

    def __init__(self, layered: Layered) -> None:
        """Take what has the images."""
        self.layered = layered
        self._docker: list[str] = []

    def play(self, step: Step, places: Places) -> tuple[list[Side], Places, dict[str, Finding]]:
        """Play a step: sides, places, and what was found while its containers lived.

        Raises NotStarted, Unsupported, Hindered and OSError.
        """
        lab = self.layered.lab
        lab.renew()
        places = {**places, "store": lab.store}
        try:
            if step.ready and (ended := self._script(step, step.ready)).status:
                raise NotStarted(ended.said())
            without = self._prepare(step)
            sides = [self._turn(step, turn, places, without) for turn in step.turns]
            if without:
                return sides, places, {"": Finding(Verdict.UNKNOWN, (without,))}
            scene = living.Scene(self.layered.bench, lab, [side.ended for side in sides])
            if step.peer:
                scene.peer = self._docker
            return sides, places, {"": living.prove(step.looks, scene)}
        finally:
            if self._docker:
                lab.run([*self._docker, "rm", "-f", living.SERVER], {})
            lab.clear()

    def _turn(self, step: Step, turn: Turn, places: Places, without: str) -> Side:
        """Run one script, on the host or in a container."""
        known = {**places, **turn.places}
        command = [fill(word, known) for word in turn.command or step.command]
        title = str(turn.title or "")
        if without and step.peer in turn.places.values():
            return Side("", (), command, Ended(NOT_FOUND, b"", without.encode()), title=title)
        if turn.inside:
            lab = self.layered.lab
            argv = [*lab.words, "exec", turn.inside, *command]
            ended = lab.run(argv, {"LABRUN_STORE": lab.store})
            return Side(self.layered.stage, (), command, ended, title=title)
        return Side("", (), command, self._script(step, command[-1]), title=title)

    def _script(self, step: Step, script: str) -> Ended:
        """Run a script of the host's, in which the runtime, and Docker, have their short names."""
        lab = self.layered.lab
        head = called(DOCKER, self._docker) if self._docker else ""
        argv = lab.script(["/bin/sh", "-c", head + script])
        return self.layered.outside(argv, replace(step, environment={"LABRUN_STORE": lab.store}))

    def _prepare(self, step: Step) -> str:
        """Have Docker run the same image, where a step wants that; return why it can't, or ""."""
        if step.peer != DOCKER or self._docker:
            return ""
        lab, bench = self.layered.lab, self.layered.bench
        try:
            docker = runtime(f"@{DOCKER}")
            docker.prepare(bench)
        except Unsupported as error:
            return str(error)
        tar = f"{lab.folder}/image.tar"
        lab.made(["image", "export", lab.plan.image, tar], lab.store)
        loaded = lab.run(docker.verb("image import", [tar, lab.plan.image], bench), {})
        if loaded.status:
            return loaded.said()
        self._docker = dockerd.client(f"{bench.scratch}/{DOCKER}")
        return ""
