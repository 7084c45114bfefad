"""A container's own life: begun, entered, heard, stopped, started again, and told of."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checks import archives, cgroup, kernel, visitor
from checks.background import HOLD, SOON, Detached, detached, entered, named, removed, within
from checks.bench import argv_of
from checks.canaries import nonce
from checks.images import Images, NoImages, Refused
from checks.model import Finding
from checks.probes import engine, probe, promise
from checks.probes.img import root_layer
from checks.probes.net import interfaces
from checks.probes.sec import ALLOWED, ARCHITECTURE, LEADER, answer, terminal
from checks.runtimes import Request
from checks.trial import PATIENCE, NotStarted, Trial, alive, find, let_go, status_of
from checks.visitor import Hindered, link, status_fields
from checks.words import say

# ---- begun


@probe("run.detach")
@engine
def detach(trial: Trial) -> Finding:
    """`run -d` comes back with an ID; its command lives on, and nobody holds what was ours."""
    faults: list[str] = []
    leader = [sys.executable, "-c", LEADER]
    with (
        terminal() as (slave, _),
        detached(trial, HOLD, before=leader, stdin=slave) as begun,
    ):
        pid = begun.first()
        # Whoever looks after it may need a moment to let go.
        within(SOON / 4, lambda: not _held(trial, begun, slave))
        faults += _held(trial, begun, slave)
        time.sleep(0.3)  # who dies with the runtime does so now
        if not alive(pid):
            raise NotStarted(say("life.dies"))
        parent = int(status_fields(pid)["PPid"])
        lives = say("life.lives", pid=pid, parent=parent, words=_words(parent))
        said = begun.ended.stdout.decode(errors="replace")
        identity = said.removesuffix("\n")
        if len(said.split()) != 1 or said != f"{identity}\n":
            faults.append(say("life.no_id", said=said[-200:]))
        else:
            # It is the ID of this one: it goes by it.
            status = Images(trial).ask("rm", "--force", identity).status
            if status or not within(SOON, begun.gone):
                faults.append(say("life.not_its_id", id=identity, status=status))
    none = nonce("none")
    missing = [f"/bin/{none}"]
    options = ("--detach", "--name", none)
    with removed(trial, none, missing):
        status = trial.run(Request(missing, options=options)).status
    if status != 127:
        faults.append(say("life.missing_other", status=status))
    return promise(faults, lives, say("life.id", id=identity), say("life.missing"))


def _held(trial: Trial, begun: Detached, slave: int) -> list[str]:
    """Return as faults which processes have the streams of whoever began it, or are in its group.

    What comes from the terminal, Ctrl-C or a hang-up, is for all of the group. See setpgid(2).
    """
    process = begun.process
    assert process.stdout
    assert process.stderr
    streams = {
        "stdin": os.fstat(slave),
        "stdout": os.fstat(process.stdout.fileno()),
        "stderr": os.fstat(process.stderr.fileno()),
    }
    wanted = {(facts.st_dev, facts.st_ino): name for name, facts in streams.items()}
    faults = []
    for pid in trial.bench.processes():
        with contextlib.suppress(OSError):
            if pid == os.getpid():
                continue
            held = {wanted.get(place) for place in _open_files(pid)} - {None}
            if os.getpgid(pid) == process.pid:
                held.add(say("life.group"))
            if held:
                names = ", ".join(sorted(filter(None, held)))
                faults.append(say("life.held", pid=pid, words=_words(pid), names=names))
    return faults


def _open_files(pid: int) -> Iterator[tuple[int, int]]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            facts = os.stat(f"/proc/{pid}/fd/{fd}")
            yield facts.st_dev, facts.st_ino


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return " ".join(argv_of(Path(f"/proc/{pid}")))[:60] or "-"
    return "-"


# ---- entered

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
ALIKE = ("Uid", "Gid", "NoNewPrivs", "Seccomp", "Seccomp_filters")
NNP = ("--security-opt", "no-new-privileges")


@probe("run.exec")
@engine
def enter(trial: Trial) -> Finding:
    """What `exec` starts is as closed in as the first command; its status and streams are ours."""
    with named(trial, "", *NNP) as (container, name):
        script = 'echo "$0"; echo "err $0" >&2; read word; echo "$word"; read wait; exit 7'
        with entered(trial, name, script) as second:
            first, pid = container.pid, second.pid
            faults = [*_elsewhere(first, pid), *_freer(first, pid)]
            numbers = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")} - {0, 1, 2}
            if numbers:
                faults.append(say("life.more_files", numbers=", ".join(map(str, sorted(numbers)))))
            mark = argv_of(Path(f"/proc/{pid}"))[-1]
            said, word = second.process, nonce("word")
            assert said.stdin
            assert said.stdout
            assert said.stderr
            said.stdin.write(f"{word}\n".encode())
            said.stdin.flush()
            second.hears(f"{word}\n".encode(), SOON)
            second.end()
            status = status_of(said)
            out = bytes(second.heard) + said.stdout.read()
            told = {
                "stdout": (out, f"{mark}\n{word}\n"),
                "stderr": (said.stderr.read(), f"err {mark}\n"),
            }
        for stream, (got, wanted) in told.items():
            if got != wanted.encode():
                faults.append(say("life.exec_stream", stream=stream, wanted=wanted, got=got[-200:]))
        killed = Images(trial).ask("exec", name, "/bin/sh", "-c", "kill -KILL $$").status
        if (status, killed) != (7, 137):
            faults.append(say("life.exec_status", status=status, killed=killed))
        if not container.alive():
            faults.append(say("life.exec_ends_it"))
    own = say("life.exec_inside", pid=pid, first=first)
    return promise(faults, own, say("life.exec_ended", status=status, killed=killed))


def _elsewhere(first: int, second: int) -> list[str]:
    """Return as faults where a second command is in another place than the first."""
    faults = []
    there = [name for name in kernel.NAMESPACES if os.path.exists(f"/proc/self/ns/{name}")]
    for name in there:
        if (wanted := link(first, name)) != (found := link(second, name)):
            faults.append(say("life.exec_namespace", wanted=wanted, found=found))
    ours, its = (os.stat(f"/proc/{pid}/root/") for pid in (first, second))
    if (ours.st_dev, ours.st_ino) != (its.st_dev, its.st_ino):
        faults.append(say("life.exec_root"))
    groups = cgroup.places(second)
    for controllers, wanted_group in cgroup.places(first).items():
        group = groups.get(controllers, Path("/"))
        if wanted_group not in (group, *group.parents):
            faults.append(say("life.exec_group", wanted=wanted_group, found=group))
    return faults


def _freer(first: int, second: int) -> list[str]:
    """Return as faults what a second command may do that the first may not."""
    ours, its = status_fields(first), status_fields(second)
    faults = [
        say("life.exec_more", field=name, wanted=ours[name], found=its[name])
        for name in SETS
        if int(its[name], 16) & ~int(ours[name], 16)
    ]
    faults += [
        say("life.exec_other", field=name, wanted=ours.get(name, "-"), found=its.get(name, "-"))
        for name in ALIKE
        if ours.get(name) != its.get(name)
    ]
    # Where a filter can be read: it need not be the same one, but not let more pass.
    with contextlib.suppress(OSError):
        if ours["Seccomp"] == "2" == its["Seccomp"] and os.uname().machine in ARCHITECTURE:
            passed = [_passed(kernel.seccomp_filter(pid)) for pid in (first, second)]
            if more := passed[1] - passed[0]:
                faults.append(say("life.exec_filter", numbers=", ".join(map(str, sorted(more)))))
    return faults


def _passed(program: bytes) -> set[int]:
    """Return the numbers of the system calls that a filter lets pass, without arguments."""
    return {number for number in range(512) if answer(program, number) in ALLOWED}


# ---- heard

LINES, LONG = 60, 20_000
WRITES = f"""trap 'printf "%s end" "$0"; printf "%s error" "$0" >&2; exit 0' TERM
i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "$0 out $i 金丝雀"; echo "$0 err $i" >&2; done
echo; printf "%0{LONG}d\\n" 7; echo "$0 written"; {HOLD}"""
"""Many lines to both streams, an empty one, a long one; at the end two that don't end."""


@probe("run.logs")
@engine
def logs(trial: Trial) -> Finding:
    """`logs` gives both streams as they were written, while it runs and afterwards; no more."""
    with detached(trial, WRITES) as begun:
        mark = begun.mark
        numbers = range(1, LINES + 1)
        out = "".join(f"{mark} out {n} 金丝雀\n" for n in numbers)
        out += f"\n{7:0{LONG}}\n{mark} written\n"
        err = "".join(f"{mark} err {n}\n" for n in numbers)
        pid = begun.first()
        faults = _differs(trial, begun, out.encode(), err.encode(), say("life.while_running"))
        if faults:
            return promise(faults)
        # What somebody else says inside was not said by the command.
        with contextlib.suppress(NoImages, NotStarted):
            Images(trial).ask("exec", begun.name, "/bin/echo", nonce("other"))
        os.kill(pid, signal.SIGTERM)
        if not within(SOON, begun.gone):
            raise NotStarted(say("life.deaf"))
        out, err = f"{out}{mark} end", f"{err}{mark} error"
        when = say("life.when_ended")
        faults += _differs(trial, begun, out.encode(), err.encode(), when)
    lengths = {"out": len(out.encode()), "err": len(err.encode())}
    return promise(faults, say("life.logged", **lengths))


def _differs(trial: Trial, begun: Detached, out: bytes, err: bytes, when: str) -> list[str]:
    """Return as faults where the logs are not what was written, once they had time to be."""
    asked, found = Images(trial), dict[str, bytes]()

    def same() -> bool:
        ended = asked.must("logs", begun.name)
        found.update(stdout=ended.stdout, stderr=ended.stderr)
        return found == {"stdout": out, "stderr": err}

    if within(SOON / 2, same):
        return []
    return [
        _first_difference(stream, when, wanted, found[stream])
        for stream, wanted in (("stdout", out), ("stderr", err))
        if found[stream] != wanted
    ]


def _first_difference(stream: str, when: str, wanted: bytes, got: bytes) -> str:
    """Say from where on a stream is another than was written."""
    at = next(
        (n for n, (one, other) in enumerate(zip(wanted, got, strict=False)) if one != other),
        min(len(wanted), len(got)),
    )
    around = {"wanted": wanted[at : at + 60], "got": got[at : at + 60]}
    return say("life.log_other", stream=stream, when=when, at=at, **around)


# ---- stopped

GRACE = 2
USUAL = 10
"""Seconds that Docker waits where it isn't told how long."""
SIGKILLED = 128 + signal.SIGKILL
TRAPPED = "trapped"


@probe("run.stop")
@engine
def stop(trial: Trial) -> Finding:
    """`stop` asks by SIGTERM, and kills who doesn't end within the time that it is told."""
    faults = []
    word = nonce("stopped")
    with named(trial, f'trap "echo {word}; exit 7" TERM; echo {TRAPPED}') as (container, name):
        container.hears(f"{TRAPPED}\n".encode())
        Images(trial).must("stop", name)
        if container.alive():
            return promise([say("life.stop_early")])
        asked = container.hears(f"{word}\n".encode(), SOON)
        status = container.status(SOON)
        if not asked:
            faults.append(say("life.stop_unasked", status=status))
        elif status != 7:
            faults.append(say("life.stop_status", status=status, wanted=7))
    goes_on = f'trap "echo {word}" TERM; echo {TRAPPED}; while :; do read wait; done'
    with named(trial, goes_on) as (container, name):
        container.hears(f"{TRAPPED}\n".encode())
        begun = time.monotonic()
        stopping = Images(trial).start("stop", "-t", str(GRACE), name)
        try:
            container.hears(f"{word}\n".encode(), USUAL)
            heard = time.monotonic()
            ends = container.ends(2 * USUAL)
            took, late = time.monotonic() - begun, time.monotonic() - heard
        finally:
            let_go(stopping)
        if not ends:
            return promise([*faults, say("life.stop_never", seconds=2 * USUAL)])
        status = container.status(SOON)
        if took < GRACE:
            faults.append(say("life.stop_hasty", took=took, asked=GRACE))
        elif late > USUAL - 1:
            faults.append(say("life.stop_slow", took=late, asked=GRACE))
        elif status != SIGKILLED:
            faults.append(say("life.stop_status", status=status, wanted=SIGKILLED))
    return promise(
        faults, say("life.stopped", status=7), say("life.killed", took=took, asked=GRACE)
    )


# ---- started again

OBEYS = f"trap 'exit 0' TERM; {HOLD}"
CALM = 2.0
"""Seconds in which who starts again would have done so: the first pause of Docker's is 0.1."""


@probe("run.restart")
@engine
def restart(trial: Trial) -> Finding:
    """A crash is followed by another start, as often as the policy says; a stop is not."""
    faults: list[str] = []
    with (
        detached(trial, HOLD) as plain,
        detached(trial, OBEYS, "--restart", "on-failure") as succeeds,
        detached(trial, HOLD, "--restart", "on-failure:1") as twice,
        detached(trial, OBEYS, "--restart", "always") as always,
    ):
        os.kill(plain.first(), signal.SIGKILL)
        os.kill(_ready(succeeds), signal.SIGTERM)
        if last := _crashed(twice):
            os.kill(last, signal.SIGKILL)
        # While this one comes again, and again, the others would, too.
        if third := _crashed(always):
            third = _crashed(always, third)
        for policy, came in (("on-failure:1", last), ("always", third)):
            if not came:
                faults.append(say("life.not_again", policy=policy, seconds=SOON))
        quiet = {plain: say("life.no_policy"), succeeds: say("life.success")}
        quiet |= {twice: say("life.too_often", count=1)} if last else {}
        faults += [say("life.again", what=quiet[begun]) for begun in _back(*quiet)]
        if last and third:
            faults += _miscounted(trial, {twice: 1, always: 2})
        if third and _stopped_in_vain(trial, always):
            faults.append(say("life.again", what=say("life.by_hand")))
    return promise(faults, say("life.restarted"), say("life.not_restarted"))


def _ready(begun: Detached) -> int:
    """Return the pid of a command that has a handler for SIGTERM, as soon as it has it.

    See proc_pid_status(5), SigCgt.
    """
    pid, bit = begun.first(), 1 << (signal.SIGTERM - 1)
    if not within(SOON, lambda: bool(int(status_fields(pid)["SigCgt"], 16) & bit)):
        raise NotStarted(say("life.deaf"))
    return pid


def _crashed(begun: Detached, pid: int = 0) -> int:
    """Kill a container's first process; return the pid of the next one, 0 where none comes."""
    pid = pid or begun.first()
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(NotStarted):
        return begun.first(but=pid)
    return 0


def _back(*ended: Detached) -> list[Detached]:
    """Return which of the containers that have ended don't stay so."""
    back = [begun for begun in ended if not within(SOON / 4, begun.gone)]
    until = time.monotonic() + CALM
    while time.monotonic() < until:
        back += [begun for begun in ended if begun not in back and not begun.gone()]
        time.sleep(0.05)
    return back


def _stopped_in_vain(trial: Trial, begun: Detached) -> bool:
    """Stop a container; say whether another command of it begins, meanwhile or afterwards."""
    pid = _ready(begun)
    stopping = Images(trial).start("stop", begun.name)
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            if stopping.poll() is not None:
                until = min(until, time.monotonic() + CALM)
            with contextlib.suppress(NotStarted):
                if find(begun.command, forked=True) != pid:
                    return True
            time.sleep(0.05)
    finally:
        let_go(stopping)
    return not begun.gone()


def _miscounted(trial: Trial, wanted: dict[Detached, int]) -> list[str]:
    """Return as faults how often containers are said to have been started again, where untrue."""
    faults = []
    for begun, count in wanted.items():
        words = ("--format", "{{.RestartCount}}", begun.name)
        found = ""

        def told(count: int = count, words: tuple[str, ...] = words) -> bool:
            nonlocal found
            found = Images(trial).must("inspect", *words).stdout.decode(errors="replace").strip()
            return found == str(count)

        if not within(SOON / 4, told):
            faults.append(say("life.count", found=found, wanted=count))
    return faults


# ---- told of

MEMORY, PIDS = 64 << 20, 50
LIMITS = {
    # controller: option, value, field, and the kernel's files of v1 and v2
    "memory": ("--memory", MEMORY, "Memory", "memory.limit_in_bytes", "memory.max"),
    "pids": ("--pids-limit", PIDS, "PidsLimit", "pids.max", "pids.max"),
}


@probe("run.inspect")
@engine
def inspect(trial: Trial) -> Finding:
    """What `inspect` says of a container is what /proc and its control groups say of it."""
    images, image, file = Images(trial), f"{nonce('image')}:1", nonce("file")
    limits = {name: row for name, row in LIMITS.items() if _can_be_limited(trial, name)}
    options = [word for row in limits.values() for word in (row[0], str(row[1]))]
    layers = [root_layer(trial), archives.layer(archives.entry(file, b""))]
    images.take(image, archives.saved(image, layers))
    try:
        script = f"trap 'exit 7' TERM; {HOLD}"
        with detached(trial, script, *options, root=image) as begun:
            pid = _ready(begun)
            if not os.path.exists(f"/proc/{pid}/root/{file}"):
                raise NotStarted(say("life.other_image", image=image))
            told = _told(images, begun)
            true = _true(trial, begun, pid, image) | {
                ("HostConfig", row[2]): trial.bench.control(pid, name).smallest(row[3], row[4])[0]
                for name, row in limits.items()
            }
            faults = _untrue(told, true)
            os.kill(pid, signal.SIGTERM)
            if not within(SOON, begun.gone):
                raise NotStarted(say("life.deaf"))
            state = {"Running": False, "Pid": 0, "ExitCode": 7}
            after: Fields = {("State", key): value for key, value in state.items()}
            after[ADDRESS] = ""
            # It is noted a little later than it is so.
            within(SOON / 4, lambda: not _untrue(_told(images, begun), after))
            faults += _untrue(_told(images, begun), after)
    finally:
        with contextlib.suppress(NoImages, NotStarted):
            images.ask("image rm", image)
    fields = ", ".join(".".join(field) for field in true)
    return promise(faults, say("life.true", pid=pid, fields=fields), say("life.true_after"))


Fields = dict[tuple[str, ...], Any]
ADDRESS = ("NetworkSettings", "IPAddress")


def _can_be_limited(trial: Trial, controller: str) -> bool:
    with contextlib.suppress(Hindered):
        trial.bench.control(trial.bench.pid, controller)
        return True
    return False


def _true(trial: Trial, begun: Detached, pid: int, image: str) -> Fields:
    """Return what is to be said of a container that runs, by field, as it is seen from outside."""
    import pyroute2  # noqa: F401  # the visitor's own imports would be looked for elsewhere

    numbers = status_fields(pid)["NSpid"].split()
    # The runtime is in the bench's namespace, and numbers processes as that does.
    level = len(status_fields(trial.bench.pid)["NSpid"].split()) - 1
    found = visitor.visit(pid, interfaces, root=False, only=("net",))["addresses"]
    argv = argv_of(Path(f"/proc/{pid}"))
    return {
        ("Name",): begun.name,
        ("Path",): argv[0],
        ("Args",): argv[1:],
        ("Config", "Image"): image,
        ("State", "Running"): True,
        ("State", "Pid"): int(numbers[level]),
        ADDRESS: next((address for name, address in found if name != "lo"), ""),
    }


def _told(images: Images, begun: Detached) -> Fields:
    """Return what `inspect` says, by field. Raises Refused."""
    text = images.must("inspect", begun.name).stdout
    try:
        (row,) = json.loads(text)
        settings = row["NetworkSettings"]
        networks = [one["IPAddress"] for one in (settings.get("Networks") or {}).values()]
        return {
            **{(key,): row[key] for key in ("Path", "Args")},
            ("Name",): row["Name"].removeprefix("/"),
            # Podman's short names are of this machine.
            ("Config", "Image"): row["Config"]["Image"].removeprefix("localhost/"),
            **{("State", key): row["State"][key] for key in ("Running", "Pid", "ExitCode")},
            **{("HostConfig", row_[2]): row["HostConfig"][row_[2]] for row_ in LIMITS.values()},
            ADDRESS: next(filter(None, networks), settings.get("IPAddress") or ""),
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refused(say("life.unreadable", reason=repr(error), said=text[:200])) from None


def _untrue(told: Fields, true: Fields) -> list[str]:
    """Return as faults which fields are untrue."""
    return [
        say("life.untrue", field=".".join(field), told=told[field], true=wanted)
        for field, wanted in true.items()
        if told[field] != wanted
    ]
