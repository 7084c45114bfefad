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
    from stages.stage5_container.state import State

ENDS = {SIGTERM, SIGINT, SIGQUIT, SIGKILL}
PATIENCE = 20.0
"""Seconds that it may take to tidy up behind a command that was killed."""


def stop(store: Store, operands: Sequence[str], options: Options) -> int:
    """Ask containers to end, and kill those that don't."""
    text, grace = last(options, "--signal"), last(options, "--time")
    signum = signal_number(text) if text else 0
    seconds = whole("--time", grace) if grace else None
    # All at once, so that none waits for another's end.
    asked = time.monotonic()
    for word in operands:
        with contextlib.suppress(OSError):  # it is said below
            ask(find(store, word), signum)
    return each(operands, lambda word: see_end(find(store, word), seconds, asked))


def end(state: State, grace: int | None = None) -> None:
    """End a container's command, softly first; return when it is tidied up behind."""
    asked = time.monotonic()
    ask(state)
    see_end(state, grace, asked)


def ask(state: State, signum: int = 0) -> None:
    """Ask a container's command to end, and have nobody start it again."""
    usual = made_again(state).signal_to_stop()
    if state.facts()["status"] not in LIVE:
        return
    state.want(False)
    facts = state.facts()
    if facts["status"] == "restarting":
        send(facts, SIGTERM, "monitor")
    else:
        send(facts, signum or stop_signal(state, usual))
    if frozen(facts):
        thaw(facts)  # or it can't hear


def see_end(state: State, grace: int | None, asked: float) -> None:
    """Wait until it has ended and all is tidy; kill it so many seconds after it was asked."""
    facts = state.facts()
    seconds = made_again(state).grace if grace is None else grace
    if seconds < 0:
        wait_for_end(facts)
    elif not wait_for_end(facts, max(asked + seconds - time.monotonic(), 0)):
        send(state.facts(), SIGKILL)
        if not wait_for_end(facts, PATIENCE):
            send(facts, SIGKILL, "monitor")
            wait_for_end(facts)


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
