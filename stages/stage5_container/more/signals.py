"""Signals by the names that people use: TERM, SIGTERM, 15, RTMIN+3."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in stages/linux.py


def signal_number(text: str) -> int:
    """Return a signal's number; raise ValueError for what is none. See signal(7)."""
    if text.isdecimal() and 0 < int(text) < _signal.NSIG:
        return int(text)
    name, plus, more = text.upper().removeprefix("SIG").partition("+")
    number = getattr(_signal, f"SIG{name}", None)
    if isinstance(number, int) and (not plus or more.isdecimal()) and name.isalnum():
        number += int(more or 0)
        if 0 < number < _signal.NSIG:
            return number
    raise ValueError(f"{text}: no signal is called so: say TERM, KILL, HUP or a number")
