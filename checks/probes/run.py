"""The promises of `run`: exit status, signals, streams."""

import json
import os
import signal
import time
from pathlib import Path

from checks.bench import tree
from checks.canaries import nonce
from checks.model import Finding
from checks.probes import probe, promise
from checks.runtimes import (
    PATIENCE,
    Container,
    NotStarted,
    Request,
    Trial,
    Unsupported,
    status_of,
)
from checks.words import say

PASSED_ON = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH")
ARGUMENTS = ("", "two words", "--", "-e", "$HOME", 'a"b', "line\nbreak", "\udcff\udce4")
"""Arguments that a careless runtime splits, expands, takes for its own, or can't decode."""


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
        say("run.case_exit"): (7, Request(["/bin/sh", "-c", "exit 7"])),
        say("run.case_missing"): (127, Request([f"/bin/{nonce('none')}"])),
        say("run.case_path"): (127, Request([nonce("none")])),
        say("run.case_mode"): (126, Request([not_executable(trial)])),
        say("run.case_workdir"): (125, Request(["/bin/true"], workdir=f"/{nonce()}")),
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
    note(say("run.case_killed"), _status_when_killed(trial), 137)
    return promise(faults, *seen)


def _status_when_killed(trial: Trial) -> int:
    """Return a runtime's exit status after its command was killed from outside.

    From there SIGKILL gets through to every process, pid 1 of a namespace too.
    """
    with trial.started() as container:
        os.kill(container.pid, signal.SIGKILL)
        container.process.wait(PATIENCE)
        return status_of(container.process)


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
        if _ends(container, 5):
            evidence.append(say("run.insist_ended"))
        else:
            faults.append(say("run.insist_alive"))
    with trial.started() as container:
        container.process.kill()
        if _ends(container, 5):
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
        until = time.monotonic() + 5
        return [
            name
            for name in PASSED_ON
            if not container.hears(f"{mark}-{name}\n".encode(), until - time.monotonic())
        ]


def _ends(container: Container, patience: float) -> bool:
    """Say whether the command ends within `patience` seconds."""
    until = time.monotonic() + patience
    while container.alive():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


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


@probe("host.failclosed")
def failclosed(trial: Trial) -> Finding:
    """Where a step fails, the command does not run, and the status is 125."""
    mark = nonce("ran")
    command = ["/bin/sh", "-c", f"echo {mark}"]
    folder = Path(trial.bench.path(trial.bench.scratch))
    (folder / "file").write_text("not a directory\n", encoding="ascii")
    cases = {
        say("host.case_no_root"): f"{trial.bench.scratch}/{nonce()}",
        say("host.case_file_root"): f"{trial.bench.scratch}/file",
    }
    faults, seen = [], []
    for case, root in cases.items():
        ended = trial.run(Request(command, root=root))
        if mark.encode() in ended.stdout:
            faults.append(say("host.ran", case=case))
        else:
            seen.append(say("host.refused", case=case, said=ended.said()))
    return promise(faults, *seen)


def _everything(trial: Trial) -> dict[str, list[str]]:
    """Return all that a run could leave on the bench, by its kind in the language in use."""
    bench = trial.bench
    root = Path(bench.path(bench.root))
    # What a device has counted is no residue.
    devices = _lines(f"/proc/{bench.pid}/net/dev")[2:]
    return {
        say("host.mounts"): _lines(f"/proc/{bench.pid}/mountinfo"),
        say("host.processes"): [json.dumps(argv) for argv in bench.processes().values()],
        say("host.groups"): bench.groups(),
        say("host.links"): [row.partition(":")[0].strip() for row in devices],
        say("host.routes"): _lines(f"/proc/{bench.pid}/net/route")[1:],
        say("host.files"): bench.files(),
        say("host.root_files"): [_described(root / name) for name in tree(str(root))],
        say("host.name"): [bench.see(lambda: os.uname().nodename)],
        say("host.segments"): _segments(trial),
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _described(path: Path) -> str:
    facts = path.lstat()
    places = {"mode": facts.st_mode, "size": facts.st_size, "changed": facts.st_mtime_ns}
    return say("host.file", path=path, **places)


def _segments(trial: Trial) -> list[str]:
    """Return the ids of the bench's System V segments, by the judge's /proc. See sysvipc(7)."""
    proc = os.open("/proc", os.O_PATH)

    def look() -> list[str]:
        # The file shows the ipc namespace of whoever opens it.
        with open(os.open("sysvipc/shm", os.O_RDONLY, dir_fd=proc), encoding="ascii") as file:
            return [row.split()[1] for row in file.read().splitlines()[1:]]

    try:
        return trial.bench.see(look)
    finally:
        os.close(proc)


def _run_and_end(trial: Trial) -> None:
    """Have a command end in each of four ways: success, failure, SIGTERM, SIGKILL."""
    trial.run(Request(["/bin/true"]))
    trial.run(Request([f"/bin/{nonce('none')}"]))
    for number in (signal.SIGTERM, signal.SIGKILL):
        with trial.started() as container:
            container.process.send_signal(number)
            # A command that outlives its runtime is judged by run.signals; leaving, we kill it.
            _ends(container, 3)


@probe("host.residue")
def residue(trial: Trial) -> Finding:
    """Nothing of the runtime's is left: after success, failure, SIGTERM and SIGKILL."""
    before = _everything(trial)
    faults = []
    try:
        _run_and_end(trial)
    except NotStarted as error:
        faults.append(str(error))
    until = time.monotonic() + 5
    while (after := _everything(trial)) != before and time.monotonic() < until:
        time.sleep(0.1)  # the kernel takes namespaces down in the background
    for kind, facts in before.items():
        new = [row for row in after[kind] if row not in facts]
        gone = [row for row in facts if row not in after[kind]]
        faults += [say("host.left", kind=kind, row=row) for row in new]
        faults += [say("host.gone", kind=kind, row=row) for row in gone]
    counts = [say("host.counted", kind=kind, count=len(facts)) for kind, facts in before.items()]
    return promise(faults, say("host.as_before", counts=", ".join(counts)))
