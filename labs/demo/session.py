"""A demo being played: to a student at a terminal, or from beginning to end to whoever reads."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Group
from rich.constrain import Constrain
from rich.live import Live
from rich.text import Text

from checks.model import Verdict
from labs import progress
from labs.demo import pages, shell, summary
from labs.demo.engine import Engine
from labs.demo.keys import (
    AGAIN,
    BACK,
    CALLS,
    ENTER,
    FACTS,
    HELP,
    LEFT,
    PICTURE,
    QUIT,
    SHELL,
    Keys,
)
from labs.demo.played import Played
from labs.demo.screen import Screen
from labs.demo.script import Demo, Step
from labs.texts import say

FRAME = 0.1
"""Seconds between two pictures of a plot that grows."""


def shown(step: Step) -> tuple[str, ...]:
    """Return the keys of a step that has been played."""
    drawn = ("picture",) if step.picture else ()
    return ("next", "again", "shell", "calls", *drawn, "back", "quit", "help")


def explained(step: Step) -> tuple[str, ...]:
    """Return the keys that the help is about: those that are shown, and one that need not be."""
    return ("next", "again", "shell", "facts", *shown(step)[3:])


def measured(engine: Engine, played: Sequence[Played]) -> dict[str, Verdict]:
    """Return the verdicts without a runtime on the axes that were measured with one."""
    known = {done.step.axis: done.before for done in played if done.before}
    return {axis: known.get(axis) or engine.before(axis) for axis in summary.measured(played)}


def live(engine: Engine, demo: Demo, step: Step, screen: Screen | None) -> Played:
    """Play a step; where there is a terminal, its plots are seen to grow."""
    if not (step.plot and screen and screen.plots and screen.live):
        return engine.play(step)
    drawn = 0.0
    # It draws where we say so, and not from a thread of its own: the engine forks.
    with Live(console=screen.out, auto_refresh=False, transient=True) as picture:

        def watch(growing: Played) -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= FRAME:
                drawn = time.monotonic()
                page = pages.growing(screen, demo, growing)
                picture.update(Constrain(Group(*page), screen.width), refresh=True)

        return engine.play(step, watch)


def read_out(
    engine: Engine, demo: Demo, steps: Sequence[Step], screen: Screen | None
) -> list[Played]:
    """Play every step in turn and ask nothing: for a pipe, a log, or (None) no reader at all."""
    whole = steps is demo.steps
    if screen and whole:
        screen.show(pages.opening(screen, demo, engine.places))
    played = []
    for step in steps:
        played.append(live(engine, demo, step, screen))
        if screen:
            head = pages.step_head(screen, demo, step, engine.places["root"])
            asked = pages.intro(screen, step, engine.places)
            page = pages.result(screen, demo, played[-1], head=head, asked=asked)
            if step.picture:
                page += [Text(), *pages.drawn(screen, played[-1])]
            screen.show([*page, Text()])
    if screen and whole:
        screen.show(summary.table(screen, demo, played, measured(engine, played)))
        screen.show(summary.outlook(screen, demo, played))
    return played


class Player:
    """Shows a step at a time to a student, who predicts, looks and goes on."""

    def __init__(self, engine: Engine, demo: Demo, screen: Screen) -> None:
        """Take what plays the steps, and the terminal that they are shown on."""
        self.engine, self.demo, self.screen = engine, demo, screen
        self.places = engine.places
        self.keys = Keys()
        self.played: dict[str, Played] = {}
        self.guesses: dict[str, str] = {}
        self.trouble = ""
        """Why the student's progress could not be kept, where it couldn't."""

    def run(self, steps: Sequence[Step], start: Step | None = None) -> list[Played]:
        """Play until the student has seen all or quits; return what happened in the steps seen.

        With `start`, begin at that step; those before it are a key away. Raises KeyboardInterrupt
        on Ctrl-C.
        """
        turns: list[Callable[[], str]] = [partial(self._step, step) for step in steps]
        if steps is self.demo.steps:
            turns = [self._opening, *turns, partial(self._end, steps)]
        place = steps.index(start) + len(turns) - len(steps) - 1 if start else 0
        with self.keys:
            while place < len(turns):
                key = turns[place]()
                if key == QUIT:
                    break
                place = place + 1 if key == ENTER else max(place - 1, 0)
        return self._seen(steps)

    def _seen(self, steps: Sequence[Step]) -> list[Played]:
        return [self.played[step.id] for step in steps if step.id in self.played]

    def _opening(self) -> str:
        page = pages.opening(self.screen, self.demo, self.places)
        return self._wait(page, ("begin", "quit"))

    def _end(self, steps: Sequence[Step]) -> str:
        """Show the table and what follows from it, on one page or, on a low screen, on two."""
        self._say_playing()
        # Whoever began in the middle gets the whole table all the same.
        played = [self.played.get(step.id) or self.engine.play(step) for step in steps]
        before = measured(self.engine, played)
        table = summary.table(self.screen, self.demo, played, before)
        outlook = [*summary.outlook(self.screen, self.demo, played), Text()]
        if sum(map(self.screen.lines, [*table, *outlook])) < self.screen.height:
            return self._wait([*table, *outlook], ("end", "back"))
        rows = self.screen.height - 1
        table = summary.table(self.screen, self.demo, played, before, rows=rows)
        while (key := self._wait(table, ("next", "back", "quit"))) == ENTER:
            if (key := self._wait(outlook, ("end", "back"))) != BACK:
                break
        return key

    def _step(self, step: Step) -> str:
        """Ask, run, show; return the key that leaves the step."""
        if step.id not in self.played:
            if (key := self._ask(step)) != ENTER:
                return key
            self._play(step)
            self.trouble = progress.played(self.demo.stage, step.id) or self.trouble
        keys = (AGAIN, SHELL, CALLS, FACTS, HELP, *([PICTURE] if step.picture else []))
        while True:
            key = self._wait(self.result(step), shown(step), keys)
            if key == AGAIN:
                self._play(step)
            elif key == SHELL:
                self._shell(step)
            elif key in keys:
                self._wait(self._behind(step, key), ("return",))
            else:
                return key

    def _play(self, step: Step) -> None:
        """Play a step and keep what happened."""
        if step.plot:
            self.screen.show([Text()], page=True)
        elif step.id in self.played:
            self._say_playing()
        self.played[step.id] = live(self.engine, self.demo, step, self.screen)

    def _say_playing(self) -> None:
        """Say that something is under way: it may take a moment."""
        self.screen.show([self.screen.prose(say("demo.playing"), style="dim")])

    def _behind(self, step: Step, key: str) -> pages.Blocks:
        """Return the page that a key opens behind a step's."""
        done = self.played[step.id]
        if key == CALLS:
            return pages.calls(self.screen, self.demo, done)
        if key == FACTS:
            return pages.facts(self.screen, self.demo, done)
        if key == PICTURE:
            return pages.pictured(self.screen, self.demo, done)
        return pages.helped(self.screen, explained(step))

    def _ask(self, step: Step) -> str:
        """Have the student predict; Enter means: go on, with a guess or without."""
        key = self._wait(self.asked(step), ("choose", "skip", "left", "quit"), tuple(step.choices))
        if key in step.choices:
            self.guesses[step.id] = key
            return ENTER
        # `b` is an answer here, so the way back is the arrow.
        return BACK if key == LEFT else key

    def asked(self, step: Step) -> pages.Blocks:
        """Return the page of a step before it is played."""
        return [
            *pages.step_head(self.screen, self.demo, step, self.places["root"]),
            *pages.intro(self.screen, step, self.places),
            *pages.question(self.screen, step, self.places),
        ]

    def result(self, step: Step) -> pages.Blocks:
        """Return a played step's page, as high as the screen."""
        asked = self.screen.prose(step.question.filled(self.places), style="bold")
        head = pages.step_head(self.screen, self.demo, step, self.places["root"])
        done, guess = self.played[step.id], self.guesses.get(step.id, "")
        rows = self.screen.height - sum(
            map(self.screen.lines, pages.keys(self.screen, shown(step)))
        )
        return pages.result(
            self.screen, self.demo, done, guess, rows=rows, head=head, asked=[asked]
        )

    def _shell(self, step: Step) -> None:
        """Hand the terminal to a shell in the container, until it ends."""
        hint = self.screen.prose(say("demo.inside"))
        self.screen.show([hint, Text(), Text()], page=True)
        with self.keys.lent():
            why = shell.run(self.engine.trial(step))
        if why:
            self._wait([self.screen.prose(why), Text()], ("return",))

    def _wait(self, page: pages.Blocks, names: Sequence[str], more: Sequence[str] = ()) -> str:
        """Show a page and its keys; return the first key that means something there.

        Another key draws the page again, as after the window's size has changed.
        """
        while True:
            self.screen.show([*page, *pages.keys(self.screen, names)], page=True)
            try:
                key = self.keys.next()
            finally:
                self.screen.show([Text()])
            if key == LEFT and BACK not in more:
                key = BACK
            if key in more or key in (ENTER, LEFT, BACK, QUIT):
                return key
