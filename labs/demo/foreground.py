"""Become a program that has the terminal to itself: `python foreground.py PROGRAM [ARG...]`.

The keys that send signals (Ctrl-C) reach the terminal's whole foreground group. A shell in a
container gets a group of its own, so that they don't reach the demo and what it has planted.
"""

import os
import signal
import sys


def take(group: int) -> None:
    """Make a process group the terminal's foreground group, where stdin is one that has groups.

    See tcsetpgrp(3).
    """
    # Whoever asks from the background would be stopped for asking.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        return
    finally:
        signal.signal(signal.SIGTTOU, before)


def main() -> None:
    """Move to a group of our own, take the terminal, and become the program."""
    os.setpgid(0, 0)
    take(os.getpgrp())
    # Nobody here would wake a shell that Ctrl-Z had put to sleep.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
