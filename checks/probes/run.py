"""The promises of `run`: exit status, signals, streams."""

import os
import signal
import time
from pathlib import Path

from checks.canaries import nonce
from checks.model import Finding
from checks.probes import probe, promise
from checks.runtimes import Request, Unsupported
from checks.trial import HOLD, Trial
from checks.visitor import is_init
from checks.words import say

PASSED_ON = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH")
ARGUMENTS = ("", "two words", "--", "-e", "$HOME", 'a"b', "line\nbreak", "\udcff\udce4")
"""Arguments that a careless runtime splits, expands, takes for its own, or can't decode."""
TOLD_WITHIN = 15.0
"""Seconds within which a command must have said that it had the signals. It takes milliseconds; on
a busy machine, seconds."""


def not_executable(trial: Trial) -> str:
    """Return a file in ROOT that nobody may execute, as a path inside; a directory if none is."""
    root = Path(trial.bench.path(trial.bench.root))
    for path in sorted((root / "etc").glob("*")):
        if path.is_file() and not path.is_symlink() and not path.stat().st_mode & 0o111:
            return f"/etc/{path.name}"
    return "/etc"


@probe("run.status")
def status(trial: Trial) -> Finding:
    """The exit status is the command's own, 128+N, 125, 126, 127 or 2."""
    cases = {
        say("run.case_exit", code=7): (7, Request(["/bin/sh", "-c", "exit 7"])),
        say("run.case_exit", code=200): (200, Request(["/bin/sh", "-c", "exit 200"])),
        say("run.case_missing"): (127, Request([f"/bin/{nonce('none')}"])),
        say("run.case_path"): (127, Request([nonce("none")])),
        say("run.case_mode"): (126, Request([not_executable(trial)])),
        say("run.case_option"): (2, Request(["/bin/true"], options=[f"--{nonce('no')}"])),
    }
    faults: list[str] = []
    seen: list[str] = []

    def note(case: str, got: int, wanted: int) -> None:
        if got == wanted:
            seen.append(say("run.status", case=case, got=got))
        else:
            faults.append(say("run.status_other", case=case, got=got, wanted=wanted))

    for case, (wanted, request) in cases.items():
        try:
            note(case, trial.run(request).status, wanted)
        except Unsupported as error:
            seen.append(say("run.not_asked", case=case, reason=error))
    for signum in (signal.SIGKILL, signal.SIGTERM):
        got = _status_when_killed(trial, signum)
        if got is not None:
            note(say("run.case_killed", signal=signum.name), got, 128 + signum)
    got = _status_without_root(trial)
    if got is not None:
        note(say("run.case_root"), got, 125)
    try:
        # Stage 5 makes the directory, as Docker does (CONTRACT): then that is where one stands.
        missing = f"/{nonce()}"
        ended = trial.run(Request(["/bin/sh", "-c", "pwd -P"], workdir=missing))
        made = ended.stdout.decode(errors="replace").strip() == missing
        note(say("run.case_workdir"), ended.status, 0 if made else 125)
    except Unsupported as error:
        seen.append(say("run.not_asked", case=say("run.case_workdir"), reason=error))
    return promise(faults, *seen)


def _status_when_killed(trial: Trial, signum: signal.Signals) -> int | None:
    """Return a runtime's exit status after its command was killed from outside.

    From there SIGKILL gets through to every process. Of other signals pid 1 of a namespace gets
    only those that it has a handler for: None there. See pid_namespaces(7).
    """
    with trial.started() as container:
        if is_init(container.pid) and signum != signal.SIGKILL:
            return None
        os.kill(container.pid, signum)
        return container.status()


def _status_without_root(trial: Trial) -> int | None:
    """Return the exit status where ROOT is missing; None where the command ran all the same.

    That is another promise, and judged by host.failclosed.
    """
    mark = nonce("ran")
    request = Request(["/bin/sh", "-c", f"echo {mark}"], root=f"{trial.bench.scratch}/{nonce()}")
    try:
        ended = trial.run(request)
    except Unsupported:
        return None
    return None if mark.encode() in ended.stdout else ended.status


@probe("run.signals")
def signals(trial: Trial) -> Finding:
    """Signals reach the command; a second SIGINT kills it; it doesn't outlive its runtime."""
    faults = [say("run.signal_lost", signal=f"SIG{name}") for name in lost(trial)]
    evidence = [say("run.signals_reach", signals=", ".join(f"SIG{name}" for name in PASSED_ON))]
    with trial.started(script='trap "" INT; echo trapped') as container:
        container.hears(b"trapped")
        container.process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals in one breath are one signal: the first must be taken first
        container.process.send_signal(signal.SIGINT)
        if container.ends(5):
            evidence.append(say("run.insist_ended"))
        else:
            faults.append(say("run.insist_alive"))
    script = f'trap "" TERM HUP INT; echo trapped; {HOLD}'
    with trial.started(script=script) as container, container.holding():
        container.hears(b"trapped")
        container.process.kill()
        if container.ends(5):
            evidence.append(say("run.orphan_ended"))
        else:
            faults.append(say("run.orphan_alive"))
    return promise(faults, *evidence)


def lost(trial: Trial) -> list[str]:
    """Return the signals that, sent to the runtime, don't run the command's handlers for them."""
    mark = nonce("got")
    traps = "; ".join(f'trap "echo {mark}-{name}" {name}' for name in PASSED_ON)
    # `read` is a builtin: a signal interrupts it, the trap runs, and the loop reads again.
    with trial.started(script=f"{traps}; echo trapped; while :; do read line; done") as container:
        container.hears(b"trapped")
        for name in PASSED_ON:
            container.process.send_signal(getattr(signal, f"SIG{name}"))
        until = time.monotonic() + TOLD_WITHIN
        return [
            name
            for name in PASSED_ON
            if not container.hears(f"{mark}-{name}\n".encode(), until - time.monotonic())
        ]


@probe("run.streams")
def streams(trial: Trial) -> Finding:
    """The streams, the arguments and the environment are the command's, byte for byte."""
    faults = [*_changed_streams(trial), *_changed_arguments(trial)]
    evidence = [say("run.streams", count=len(ARGUMENTS))]
    value = f"{nonce('value')} = two words"
    script = 'printf "%s" "$CANARY"'
    try:
        request = Request(["/bin/sh", "-c", script], environment={"CANARY": value})
        got = trial.run(request).stdout
        if got == value.encode():
            evidence.append(say("run.environment", value=value))
        else:
            faults.append(say("run.environment_other", wanted=value, got=got[-200:]))
    except Unsupported as error:
        evidence.append(say("run.environment_not_asked", reason=error))
    return promise(faults, *evidence)


def _changed_streams(trial: Trial) -> list[str]:
    """Return what became of a line from stdin to stdout, and to stderr, where it changed."""
    text = nonce("stdin")
    script = 'read line; echo "out $line"; echo "err $line" >&2'
    ended = trial.run(Request(["/bin/sh", "-c", script]), stdin=f"{text}\n".encode())
    faults = []
    if ended.stdout != (wanted := f"out {text}\n".encode()):
        faults.append(say("run.stdout_other", wanted=wanted, got=ended.stdout[-200:]))
    if ended.stderr != (wanted := f"err {text}\n".encode()):
        faults.append(say("run.stderr_other", wanted=wanted, got=ended.stderr[-200:]))
    return faults


def _changed_arguments(trial: Trial) -> list[str]:
    """Return what became of the command's arguments, where they changed."""
    script = 'for word; do printf "%s|" "$word"; done'
    got = trial.run(Request(["/bin/sh", "-c", script, "sh", *ARGUMENTS])).stdout
    wanted = b"".join(os.fsencode(word) + b"|" for word in ARGUMENTS)
    if got == wanted:
        return []
    return [say("run.arguments_other", wanted=wanted, got=got[-200:])]
