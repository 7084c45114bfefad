"""One key at a time, from the terminal."""

from collections import deque

import typer

ENTER, LEFT, BACK, QUIT, HELP = "enter", "left", "b", "q", "?"
AGAIN, SHELL, CALLS = "r", "s", "k"

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
}
INTERRUPT, END = "\x03", "\x04"


class Keys:
    """The keys as they come; what is typed ahead waits."""

    def __init__(self) -> None:
        """Begin with nothing typed."""
        self._waiting: deque[str] = deque()

    def next(self) -> str:
        """Wait for a key and return it: a name from above, or the letter in lower case.

        Raises KeyboardInterrupt for Ctrl-C; Ctrl-D, or a terminal that went away, is `q`.
        """
        while not self._waiting:
            try:
                read = typer.getchar()
            except (EOFError, OSError):
                return QUIT
            # An escape sequence is one key, and arrives in one piece.
            self._waiting.extend([read] if read.startswith("\x1b") else read)
            if not read:
                return QUIT
        key = self._waiting.popleft()
        if key == INTERRUPT:
            raise KeyboardInterrupt
        return QUIT if key == END else SAME.get(key, key.lower())
