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

PASSED_ON = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH")


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
        "`exit 7`": (7, Request(["/bin/sh", "-c", "exit 7"])),
        "a command that is not there": (127, Request([f"/bin/{nonce('none')}"])),
        "one that is not on PATH": (127, Request([nonce("none")])),
        "a file without execute permission": (126, Request([not_executable(trial)])),
        "a --workdir that is not there": (125, Request(["/bin/true"], workdir=f"/{nonce()}")),
        "an unknown option": (2, Request(["/bin/true"], options=[f"--{nonce('no')}"])),
    }
    faults: list[str] = []
    seen: list[str] = []
    for case, (wanted, request) in cases.items():
        try:
            got = trial.run(request).status
        except Unsupported as error:
            seen.append(f"{case}: not asked, {error}")
            continue
        (seen if got == wanted else faults).append(f"{case}: status {got}, expected {wanted}")
    with trial.started() as container:
        # From outside SIGKILL gets through to every process, pid 1 of a namespace too.
        os.kill(container.pid, signal.SIGKILL)
        container.process.wait(PATIENCE)
        got = status_of(container.process)
        (seen if got == 137 else faults).append(f"killed by SIGKILL: status {got}, expected 137")
    return promise(faults, *seen)


@probe("run.signals")
def signals(trial: Trial) -> Finding:
    """Signals reach the command; a second SIGINT kills it; it doesn't outlive its runtime."""
    faults = [f"SIG{name}, sent to the runtime, did not reach the command" for name in lost(trial)]
    evidence = [f"SIG{', SIG'.join(PASSED_ON)} reach the command"]
    with trial.started(script='trap "" INT; echo trapped') as container:
        container.hears(b"trapped")
        container.process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals in one breath are one signal: the first must be taken first
        container.process.send_signal(signal.SIGINT)
        said = "a second SIGINT within 2 s kills a command that ignores it"
        (evidence if _ends(container, 5) else faults).append(f"{said}: {_word(container)}")
    with trial.started() as container:
        container.process.kill()
        said = "SIGKILL of the runtime ends the command"
        (evidence if _ends(container, 5) else faults).append(f"{said}: {_word(container)}")
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


def _word(container: Container) -> str:
    return "it lives on" if container.alive() else "it ended"


@probe("run.streams")
def streams(trial: Trial) -> Finding:
    """The streams, the arguments and the environment are the command's, byte for byte."""
    faults = []
    text = nonce("stdin")
    ended = trial.run(
        Request(["/bin/sh", "-c", 'read line; echo "out $line"; echo "err $line" >&2']),
        stdin=f"{text}\n".encode(),
    )
    if ended.stdout != f"out {text}\n".encode():
        faults.append(f"stdout is {ended.stdout[-200:]!r}, the command wrote 'out {text}'")
    if ended.stderr != f"err {text}\n".encode():
        faults.append(f"stderr is {ended.stderr[-200:]!r}, the command wrote 'err {text}'")
    arguments = ["", "two words", "--", "-e", "$HOME", 'a"b', "line\nbreak", "\udcff\udce4"]
    script = 'for word; do printf "%s|" "$word"; done'
    ended = trial.run(Request(["/bin/sh", "-c", script, "sh", *arguments]))
    wanted = b"".join(os.fsencode(word) + b"|" for word in arguments)
    if ended.stdout != wanted:
        faults.append(f"arguments arrived as {ended.stdout[-200:]!r}, sent were {wanted!r}")
    value = f"{nonce('value')} = two words"
    script = 'printf "%s" "$CANARY"'
    try:
        request = Request(["/bin/sh", "-c", script], environment={"CANARY": value})
        ended = trial.run(request)
        if ended.stdout != value.encode():
            faults.append(f"--env CANARY={value} arrived as {ended.stdout[-200:]!r}")
    except Unsupported:
        pass
    return promise(
        faults, f"stdin, stdout, stderr and {len(arguments)} odd arguments arrived byte for byte"
    )


@probe("host.failclosed")
def failclosed(trial: Trial) -> Finding:
    """Where a step fails, the command does not run, and the status is 125."""
    mark = nonce("ran")
    command = ["/bin/sh", "-c", f"echo {mark}"]
    folder = Path(trial.bench.path(trial.bench.scratch))
    (folder / "file").write_text("not a directory\n", encoding="ascii")
    cases = {
        "a ROOT that is not there": f"{trial.bench.scratch}/{nonce()}",
        "a ROOT that is a file": f"{trial.bench.scratch}/file",
    }
    faults, seen = [], []
    for case, root in cases.items():
        ended = trial.run(Request(command, root=root))
        if mark.encode() in ended.stdout:
            faults.append(f"{case}: the command ran all the same")
        else:
            seen.append(f"{case}: refused, {ended.said()}")
    return promise(faults, *seen)


def _everything(trial: Trial) -> dict[str, list[str]]:
    """Return all that a run could leave on the bench."""
    bench = trial.bench
    root = Path(bench.path(bench.root))
    facts = {
        "mounts": Path(f"/proc/{bench.pid}/mountinfo").read_text(encoding="utf-8").splitlines(),
        "processes": [json.dumps(argv) for argv in bench.processes().values()],
        "cgroups": bench.groups(),
        "links": Path(f"/proc/{bench.pid}/net/dev").read_text(encoding="ascii").splitlines(),
        "routes": Path(f"/proc/{bench.pid}/net/route").read_text(encoding="ascii").splitlines(),
        "files": bench.files(),
        "files of ROOT": [_described(root / name) for name in tree(str(root))],
        "host name": [bench.see(lambda: os.uname().nodename)],
        "System V segments": _segments(trial),
    }
    # What a device has counted is no residue.
    facts["links"] = [row.partition(":")[0].strip() for row in facts["links"]]
    return facts


def _described(path: Path) -> str:
    facts = path.lstat()
    return f"{path} {facts.st_mode:o} {facts.st_size} bytes, changed {facts.st_mtime_ns}"


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


@probe("host.residue")
def residue(trial: Trial) -> Finding:
    """Nothing of the runtime's is left: after success, failure, SIGTERM and SIGKILL."""
    before = _everything(trial)
    faults = []
    try:
        trial.run(Request(["/bin/true"]))
        trial.run(Request([f"/bin/{nonce('none')}"]))
        for number in (signal.SIGTERM, signal.SIGKILL):
            with trial.started() as container:
                container.process.send_signal(number)
                # A command that outlives its runtime is judged by run.signals; leaving, we kill it.
                _ends(container, 3)
    except NotStarted as error:
        faults.append(f"the command did not run: {error}")
    until = time.monotonic() + 5
    while (after := _everything(trial)) != before and time.monotonic() < until:
        time.sleep(0.1)  # the kernel takes namespaces down in the background
    for name, facts in before.items():
        new = [row for row in after[name] if row not in facts]
        gone = [row for row in facts if row not in after[name]]
        faults += [f"{name}: left behind: {row}" for row in new]
        faults += [f"{name}: gone or changed: {row}" for row in gone]
    counted = ", ".join(f"{len(facts)} {name}" for name, facts in before.items())
    return promise(faults, f"as before after success, failure, SIGTERM and SIGKILL: {counted}")
