"""One key at a time, from the terminal.

Typer's `getchar` throws away what was typed before it was called, so a key pressed while a step
still runs would be lost; here it waits.
"""

import os
import re
import termios
import tty
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

ENTER, LEFT, BACK, QUIT, HELP = "enter", "left", "b", "q", "?"
AGAIN, SHELL, CALLS, FACTS, PICTURE = "r", "s", "k", "e", "p"

SAME = {
    # what terminals send: what it means here
    "\r": ENTER,
    "\n": ENTER,
    " ": ENTER,
    "\x1b[C": ENTER,  # arrow right
    "\x1bOC": ENTER,
    "\x1b[D": LEFT,  # arrow left
    "\x1bOD": LEFT,
    "h": HELP,
    "\x04": QUIT,  # Ctrl-D
}
KEY = re.compile(r"\x1b(?:\[[0-9;]*[@-~]|O.|.)?|.", re.DOTALL)
"""What one key sends: a character, or a sequence that begins with Escape. A key held down sends it
again and again, and several may be read at once."""
CONTROLS = 6
"""Where tcgetattr(3) keeps the characters that mean something to the terminal."""


class Keys:
    """The keys as they come. While entered, the terminal hands on each at once and shows none.

    Ctrl-C sends SIGINT as ever; Ctrl-Z, which would leave the student's shell with a terminal in
    this state, is a key without a meaning.
    """

    def __init__(self, terminal: int = 0, same: Mapping[str, str] = SAME) -> None:
        """Read from the descriptor `terminal`; `same` is what keys mean, as they are sent."""
        self.terminal, self.same = terminal, same
        self._waiting: deque[str] = deque()
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self.terminal)
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_back()

    def _take(self) -> None:
        # TCSADRAIN changes the terminal without dropping what has been typed: see termios(3).
        tty.setcbreak(self.terminal, termios.TCSADRAIN)
        modes = termios.tcgetattr(self.terminal)
        modes[CONTROLS][termios.VSUSP] = b"\0"
        termios.tcsetattr(self.terminal, termios.TCSADRAIN, modes)

    def _give_back(self) -> None:
        # A terminal that has gone needs nothing.
        with suppress(termios.error):
            termios.tcsetattr(self.terminal, termios.TCSADRAIN, self._before)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Leave the terminal to somebody else for a while, as it was before us."""
        self._give_back()
        try:
            yield
        finally:
            self._take()

    def next(self) -> str:
        """Wait for a key and return it: a name from above, or the letter in lower case.

        A terminal that went away is `q`.
        """
        while not self._waiting:
            try:
                read = os.read(self.terminal, 64).decode("utf-8", "replace")
            except OSError:
                return QUIT
            if not read:
                return QUIT
            self._waiting.extend(KEY.findall(read))
        key = self._waiting.popleft()
        return self.same.get(key, key.lower())
