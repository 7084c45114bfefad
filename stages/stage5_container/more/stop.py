"""`stop`, `kill`, `restart`: from outside a signal reaches pid 1 as far as it wants to hear it."""

from __future__ import annotations

import contextlib
import time

from stages.linux import SIGCONT, SIGINT, SIGKILL, SIGQUIT, SIGTERM
from stages.stage5_container.more.freeze import frozen, thaw
from stages.stage5_container.more.lookup import find, made_again, running, send, wait_for_end
from stages.stage5_container.more.signals import signal_number
from stages.stage5_container.more.verb import MANY, Verb, each, last
from stages.stage5_container.options import whole
from stages.stage5_container.state import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.state import Facts, State

ENDS = {SIGTERM, SIGINT, SIGQUIT, SIGKILL}
PATIENCE = 60.0
"""Seconds that it may take to tidy up behind a command that was killed: many may be at it."""
AGAIN = 0.5
"""Seconds after which it is killed once more."""


def stop(store: Store, operands: Sequence[str], options: Options) -> int:
    """Ask containers to end, and kill those that don't."""
    text, grace = last(options, "--signal"), last(options, "--time")
    signum = signal_number(text) if text else 0
    seconds = whole("--time", grace) if grace else None
    going = hurry(store, operands, seconds, signum)
    return each(operands, lambda word: see_end(*going.get(word) or known(store, word)))


def end(state: State, grace: int | None = None) -> None:
    """End a container's command, softly first; return when it is tidied up behind."""
    going = hurry(state.store, [state.id], grace)
    see_end(*going.get(state.id) or known(state.store, state.id))


def known(store: Store, word: str) -> tuple[State, Facts]:
    """Return a container, and how it is; raise FileNotFoundError where there is none."""
    state = find(store, word)
    return state, state.facts()


def hurry(
    store: Store, operands: Sequence[str], grace: int | None = None, signum: int = 0
) -> dict[str, tuple[State, Facts]]:
    """Ask containers to end, all at once, and kill those that don't: none waits for another.

    Returns how each was: with --rm it may be gone by now.
    """
    asked = time.monotonic()
    going, waiting = {}, []
    for word in operands:
        with contextlib.suppress(OSError):  # whoever sees to its end says why
            state, facts = known(store, word)
            usual = ask(state, signum)
            going[word] = state, facts
            waiting.append((usual if grace is None else grace, facts, state))
    # Those last that are never to be killed.
    for patience, facts, state in sorted(waiting, key=lambda one: (one[0] < 0, one[0])):
        if patience < 0:
            wait_for_end(facts)
        elif not wait_for_end(facts, max(asked + patience - time.monotonic(), 0)):
            send(state.facts(), SIGKILL)
    return going


def ask(state: State, signum: int = 0) -> int:
    """Ask a container's command to end, and have nobody start it again.

    Returns how many seconds it has for that; for ever where they are less than 0.
    """
    container = made_again(state)
    usual = container.signal_to_stop()
    if state.facts()["status"] not in LIVE:
        return 0
    state.want(False)
    facts = state.facts()
    if facts["status"] == "restarting":
        send(facts, SIGTERM, "monitor")
    else:
        send(facts, signum or stop_signal(state, usual))
    if frozen(facts):
        thaw(facts)  # or it can't hear
    return container.grace


def see_end(state: State, facts: Facts) -> None:
    """Wait until a container that was killed, or has ended, is tidied up behind."""
    now = facts
    until = time.monotonic() + PATIENCE
    while now["monitor"] == facts["monitor"] and not wait_for_end(facts, AGAIN):
        send(now, SIGKILL)  # there may have been no command yet
        if time.monotonic() > until:
            send(facts, SIGKILL, "monitor")
        now = state.facts()


def stop_signal(state: State, usual: int) -> int:
    """Return what it wants to be stopped with: what its image says was noted at its start."""
    return int(state.facts().get("stop_signal") or usual)


def kill(store: Store, operands: Sequence[str], options: Options) -> int:
    """Send a signal to containers' commands: SIGKILL, unless another is said."""
    signum = signal_number(last(options, "--signal") or "KILL")

    def strike(word: str) -> None:
        state = find(store, word)
        facts = running(state)
        if signum in ENDS or signum == stop_signal(state, SIGTERM):
            state.want(False)
        send(facts, signum)
        if signum in (SIGKILL, SIGCONT) and frozen(facts):
            thaw(facts)  # on v1 not even SIGKILL reaches who is frozen
        if signum == SIGKILL:
            wait_for_end(facts, PATIENCE)

    return each(operands, strike)


SIGNAL = ("-s", "--signal", "SIGNAL", "this one")
TIME = ("-t", "--time", "SECONDS", "how long until it is killed (10; -1: never)")
VERBS = {
    "stop": Verb("CONTAINER...", 1, MANY, "end containers", [SIGNAL, TIME], stop),
    "kill": Verb("CONTAINER...", 1, MANY, "kill them, or send a signal", [SIGNAL], kill),
}
