"""`labrun` alone: where the student is, and what comes next.

`route.py` knows the stages and how far the student has come; `page.py` draws that. Without a
terminal the page is text, and nothing is asked.
"""

import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rich.text import Text

from labs import progress, texts
from labs.demo.keys import ENTER, HELP, QUIT, Keys
from labs.demo.screen import Screen
from labs.errors import FAILED, SIGNALLED
from labs.home import page, route
from labs.texts import say

PAGES = ("stage", "matrix")
"""How commands begin that lead through pages of their own, which the student leaves by a key."""
MATRIX, EXERCISE, CHECK, DOCTOR, LANGUAGE = "m", "e", "c", "d", "l"


def command(commands: Collection[str], *, no_input: bool) -> int:
    """Show the road map and, at a terminal, do what the student asks for; return a status.

    `commands` are labrun's, by name: a key is there where its command is.
    """
    screen = Screen()
    if not no_input and sys.stdin.isatty() and screen.live:
        return Home(screen, commands).run()
    known = progress.read()
    road = route.road(known)
    here = route.here(road)
    then = page.following(screen, route.following(here))
    screen.show([*page.head(screen), *page.stages(screen, road, here), *then])
    screen.show([screen.prose(say("home.help"))])
    if known.trouble:
        sys.stdout.flush()
        print(f"labrun: {known.trouble}", file=sys.stderr)
    return 0


class Home:
    """The map at a terminal."""

    def __init__(self, screen: Screen, commands: Collection[str]) -> None:
        """Take the terminal, and which commands there are."""
        self.screen, self.commands = screen, commands
        self.keys = Keys()
        self.chosen = 0
        """The stage that the student has chosen by its number, 0 for none."""
        self.notice = ""

    def run(self) -> int:
        """Show the map until the student quits; return the exit status."""
        with self.keys:
            while True:
                known = progress.read()
                road = route.road(known)
                here = road[self.chosen - 1] if self.chosen else route.here(road)
                then = route.following(here, chosen=bool(self.chosen))
                key = self._ask(road, then, known.trouble)
                self.notice = ""
                if key == QUIT:
                    return 0
                if (status := self._do(key, road, then)) >= SIGNALLED:
                    return status

    def _names(self, then: route.Next) -> list[str]:
        """Return the keys that mean something now, in the order of the page."""
        there = {
            "go": then.what != "own",
            "choose": True,
            "matrix": "matrix" in self.commands,
            "exercise": "exercise" in self.commands,
            "check": True,
            "doctor": True,
            "language": _spells(self.screen),
        }
        return [*(name for name, is_there in there.items() if is_there), "help", "quit"]

    def _ask(self, road: Sequence[route.Stage], then: route.Next, trouble: str) -> str:
        """Show the map, and return the key that is pressed."""
        screen = self.screen
        built = [stage.number for stage in road if stage.built]
        numbers = f"{built[0]}–{built[-1]}" if len(built) > 1 else str(built[0])
        below = page.following(screen, then)
        for line in filter(None, (self.notice, trouble)):
            below += [screen.prose(line, style="bold"), Text()]
        below += page.keys(screen, self._names(then), numbers=numbers)
        whole = [*page.head(screen), *page.stages(screen, road, then.stage), *below]
        if sum(map(screen.lines, whole)) <= screen.height:
            return self._show(whole)
        return self._show([*page.stages(screen, road, then.stage, brief=True), *below])

    def _show(self, blocks: page.Blocks) -> str:
        self.screen.show(blocks, page=True)
        try:
            return self.keys.next()
        finally:
            self.screen.show([Text()])

    def _do(self, key: str, road: Sequence[route.Stage], then: route.Next) -> int:
        """Do what a key says; return the status of what was started, 0 where nothing was."""
        stage = then.stage.name
        started = {
            ENTER: then.arguments if then.what != "own" else (),
            CHECK: ("check", stage),
            DOCTOR: ("doctor",),
            MATRIX: ("matrix",) if "matrix" in self.commands else (),
            EXERCISE: ("exercise", stage) if "exercise" in self.commands else (),
        }
        if key in map(str, route.STAGES):
            number = int(key)
            if road[number - 1].built:
                self.chosen = number
            else:
                self.notice = say("home.to_come", stage=number)
        elif key == LANGUAGE and _spells(self.screen):
            texts.speak(page.other_language())
        elif key == HELP:
            names = self._names(then)
            back = page.keys(self.screen, ["return"])
            self._show([*page.helped(self.screen, names, progress.place()), *back])
        elif started.get(key):
            self.chosen = self.chosen if key != ENTER else 0
            return self._start(started[key])
        return 0

    def _start(self, arguments: Sequence[str]) -> int:
        """Start one of labrun's commands, and return its status when it has ended."""
        words = [*arguments, "--lang", texts.language()]
        typed = Text(f"$ labrun {' '.join(arguments)}", style="dim")
        self.screen.show([typed, Text()], page=True)
        with self.keys.lent():
            status = _run([str(Path(sys.executable).with_name("labrun")), *words])
        pages = arguments[0].startswith(PAGES) and status in (0, FAILED)
        if status < SIGNALLED and not pages:
            # What isn't a page of its own has to be read first; so has a refusal.
            self.screen.show([Text(), *page.keys(self.screen, ["return"])])
            self.keys.next()
        return status


def _run(argv: Sequence[str]) -> int:
    """Run a command in the foreground to its end; return its exit status, as a shell has it.

    Ctrl-C is the command's own affair: it puts everything back and ends, and then so do we.
    """
    arrived: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            arrived.append(number)
            for child in children:
                # sudo isn't ours to signal; it hears of the terminal's end by itself.
                with suppress(OSError):
                    child.send_signal(number)

    before = {
        number: signal.signal(number, hand_on)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        sys.stdout.flush()
        children.append(subprocess.Popen(argv))
        for number in arrived:
            with suppress(OSError):
                children[0].send_signal(number)
        status = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        return SIGNALLED + arrived[0]
    return status if status >= 0 else SIGNALLED - status


def _spells(screen: Screen) -> bool:
    """Say whether the terminal can show both languages."""
    try:
        "中".encode(screen.out.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
