"""What proves that containers live as they should: read from their processes, while they do.

Nothing here believes what a container prints where the host can look for itself.
"""

import json
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks import kernel, mounts, visitor
from checks.bench import Bench
from checks.beyond import socket_of
from checks.canaries import nonce
from checks.model import Finding, Verdict
from checks.trial import Ended, NotStarted, find
from labs.demo.lab import PAGE, Lab
from labs.demo.quantity import told
from labs.texts import say

SERVER, CLIENT, COMMIT = "web", "client", "web2"
"""Containers, and an image, as the steps call them."""
DOOR, LOOPBACK = 8080, "127.0.0.1"
MEMORY = 64 << 20
"""Bytes that the server may use."""
SHARED = ("pid", "net", "mnt", "ipc", "uts", "cgroup")
RIGHTS = ("CapBnd", "CapEff", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp")
"""What /proc/PID/status tells of a process's rights. See proc_pid_status(5)."""
KILLED, TERMINATED = 137, 143


@dataclass
class Scene:
    """What there is to look at once a step's scripts have run."""

    bench: Bench
    lab: Lab
    ended: Sequence[Ended]
    peer: Sequence[str] = ()
    """How Docker's client is called, where the step compares with it."""

    @property
    def store(self) -> dict[str, str]:
        """Return the variable that says where the store is."""
        return {"LABRUN_STORE": self.lab.store}

    def inspect(self, name: str, engine: Sequence[str] = ()) -> dict[str, object]:
        """Return what `inspect` says of a container. Raises NotStarted."""
        argv = [*(engine or self.lab.words), "inspect", name]
        ended = self.lab.run(argv, self.store)
        if ended.status:
            raise NotStarted(ended.said())
        found: dict[str, object] = json.loads(ended.stdout)[0]
        return found

    def state(self, name: str, engine: Sequence[str] = ()) -> dict[str, object]:
        """Return how a container is."""
        found = self.inspect(name, engine)["State"]
        assert isinstance(found, dict)
        return found

    def pid(self, name: str, engine: Sequence[str] = ()) -> int:
        """Return a container's process as labrun numbers it. Raises LookupError for none."""
        number = str(self.state(name, engine)["Pid"])
        for pid in self.bench.processes():
            # One number for each namespace, ours first, then the bench's. See proc_pid_status(5).
            if visitor.status_fields(pid)["NSpid"].split()[1:2] == [number]:
                return pid
        raise LookupError(say("living.no_process", name=name))


def prove(looks: str, scene: Scene) -> Finding:
    """Return what was found in a step; what isn't there to be read is a fault."""
    try:
        evidence, faults = PROOFS[looks](scene)
    except (OSError, tarfile.TarError, ValueError, LookupError, NotStarted) as error:
        evidence, faults = [], [say("proof.unreadable", reason=error)]
    return Finding(Verdict.BROKEN if faults else Verdict.KEPT, (*faults, *evidence))


def served(scene: Scene) -> tuple[list[str], list[str]]:
    """The server is nobody's foreground, answers at the host's port, and has its limit."""
    pid = scene.pid(SERVER)
    monitor = int(visitor.status_fields(pid)["PPid"])
    evidence: list[str] = []
    faults: list[str] = []
    named = scene.inspect(SERVER)["MonitorPid"]
    if visitor.status_fields(monitor)["NSpid"].split()[1:2] != [str(named)]:
        faults.append(say("living.no_monitor"))
    else:
        evidence.append(say("living.monitor"))
    asked = _answered(scene)
    evidence += asked[0]
    faults += asked[1]
    most, file = scene.bench.control(pid, "memory").smallest("memory.limit_in_bytes", "memory.max")
    limit = say("living.limit", most=told("memory", most or 0), file=os.path.basename(file))
    (evidence if most == MEMORY else faults).append(limit)
    return evidence, faults


def _answered(scene: Scene) -> tuple[list[str], list[str]]:
    """Ask the host's port for the page, and compare it with the file in the volume."""
    with socket_of(scene.bench.see_network, socket.SOCK_STREAM) as client:
        client.connect((LOOPBACK, DOOR))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := client.recv(4096):
            answer += part
    page = answer.partition(b"\r\n\r\n")[2]
    said = say("living.answered", port=DOOR, bytes=len(page))
    return ([said], []) if page == PAGE else ([], [say("living.unanswered", port=DOOR)])


def visited(scene: Scene) -> tuple[list[str], list[str]]:
    """A command that `exec` starts is in the server's namespaces, and no child of the server's."""
    pid = scene.pid(SERVER)
    command = ["/bin/sh", "-c", 'echo "$0"; read wait', nonce("visit")]
    argv = [*scene.lab.words, "exec", "-i", SERVER, *command]
    pipe = subprocess.PIPE
    process = scene.bench.popen(argv, environment=scene.store, stdin=pipe, stdout=pipe)
    with process:
        try:
            assert process.stdout
            if not process.stdout.readline():
                raise NotStarted(say("living.no_visit"))
            visit = find(command)
            alike = [kind for kind in SHARED if _same(kind, visit, pid)]
            parent = int(visitor.status_fields(visit)["PPid"])
        finally:
            process.kill()
    evidence = [say("living.entered", kinds=" ".join(alike))]
    faults = [] if alike == [*SHARED] else [say("living.elsewhere")]
    faults += [say("living.child")] if parent == pid else []
    said = b"".join(ended.stdout + ended.stderr for ended in scene.ended)
    logged = scene.lab.run([*scene.lab.words, "logs", SERVER], scene.store)
    lines = (logged.stdout + logged.stderr).count(b"response:200")
    if lines and b"response:200" in said:
        evidence.append(say("living.logged", count=lines))
    else:
        faults.append(say("living.unlogged"))
    return evidence, faults


def _same(kind: str, one: int, other: int) -> bool:
    return visitor.link(one, kind) == visitor.link(other, kind)


def again(scene: Scene) -> tuple[list[str], list[str]]:
    """A server that was killed runs again, as another process with the same files."""
    restarts = scene.inspect(SERVER)["RestartCount"]
    note = Path(f"/proc/{scene.pid(SERVER)}/root/note").read_bytes()
    evidence, faults = _answered(scene)
    (evidence if restarts == 1 else faults).append(say("living.restarts", count=restarts))
    (evidence if note else faults).append(say("living.note", bytes=len(note)))
    return evidence, faults


def named(scene: Scene) -> tuple[list[str], list[str]]:
    """One container's /etc/hosts has the other's name, with the address that it has."""
    hosts = Path(f"/proc/{scene.pid(CLIENT)}/root/etc/hosts").read_text(encoding="utf-8")
    known = {name: line.split()[0] for line in hosts.splitlines() for name in line.split()[1:]}
    settings = scene.inspect(SERVER)["NetworkSettings"]
    assert isinstance(settings, dict)
    addresses = [each["IPAddress"] for each in settings["Networks"].values()]
    found = known.get(SERVER, "-")
    evidence = [say("living.named", name=SERVER, address=found)]
    faults = [] if found in addresses else [say("living.misnamed", name=SERVER, found=found)]
    if PAGE not in scene.ended[-1].stdout:
        faults.append(say("living.unanswered", port=80))
    return evidence, faults


def stopped(scene: Scene) -> tuple[list[str], list[str]]:
    """A server that is pid 1 had to be killed; one with a parent there ended when it was told."""
    deaf, polite = (scene.state(name)["ExitCode"] for name in ("deaf", "polite"))
    evidence = [say("living.stopped", deaf=deaf, polite=polite)]
    return evidence, [] if (deaf, polite) == (KILLED, TERMINATED) else [say("living.not_stopped")]


def committed(scene: Scene) -> tuple[list[str], list[str]]:
    """The image's last layer has what was written to the root, and nothing of the volume's."""
    file = f"{scene.lab.folder}/commit.tar"
    scene.lab.made(["image", "export", COMMIT, file], scene.lab.store)
    with tarfile.open(scene.bench.path(file)) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest
        layers = json.load(manifest)[0]["Layers"]
        with tarfile.open(fileobj=tar.extractfile(layers[-1])) as layer:
            names = [row.name.removeprefix("./") for row in layer if row.isreg()]
    volume = os.listdir(scene.bench.path(f"{scene.lab.store}/volumes/pages/_data"))
    evidence = [
        say("living.layer", names=" ".join(names), count=len(layers)),
        say("living.volume", names=" ".join(sorted(volume))),
    ]
    kept = "note" in names and "news" in volume and not any(n.endswith("news") for n in names)
    return evidence, [] if kept else [say("living.not_committed")]


CHOICES = {"cgroup"}
"""Namespaces that Docker gives on cgroup v2 (`--cgroupns private`) and not on v1 (`host`)."""


def compared(scene: Scene) -> tuple[list[str], list[str]]:
    """The kernel says the same of both containers, in rights, namespaces and limit."""
    ours, theirs = (_facts(scene.bench, scene.pid(SERVER, engine)) for engine in ((), scene.peer))
    shown = ("masked", *CHOICES)
    alike = [name for name in ours if ours[name] == theirs[name] and name not in shown]
    differing = [name for name in ours if name not in alike and name not in shown]
    evidence = [
        say("living.alike", facts=", ".join(f"{name} {ours[name]}" for name in alike)),
    ]
    faults = [
        say("living.differs", fact=name, ours=ours[name], theirs=theirs[name]) for name in differing
    ]
    for engine, one, other in (("Docker", theirs, ours), ("stage 5", ours, theirs)):
        if names := " ".join(name for name in CHOICES if one[name] and not other[name]):
            evidence.append(say("living.more_namespaces", engine=engine, names=names))
        more = _topmost(set(one["masked"].split()) - set(other["masked"].split()))
        if more:
            evidence.append(say("living.more_mounts", engine=engine, names=" ".join(more)))
    return evidence, faults


def _topmost(paths: set[str]) -> list[str]:
    """Return those paths that aren't below another of them, sorted."""
    return sorted(p for p in paths if not any(p.startswith(f"{other}/") for other in paths))


def _facts(bench: Bench, pid: int) -> dict[str, str]:
    """Return what the kernel says of a container's process, in words."""
    fields = visitor.status_fields(pid)
    new = [kind for kind in kernel.NAMESPACES if visitor.link(pid, kind) != bench.link(kind)]
    most, _ = bench.control(pid, "memory").smallest("memory.limit_in_bytes", "memory.max")
    text = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8")
    points = [mount.point for mount in mounts.parse(text)]
    return {
        **{name: fields[name].lstrip("0") or "0" for name in RIGHTS},
        "namespaces": " ".join(sorted({*new} - CHOICES)),
        **{name: name if name in new else "" for name in CHOICES},
        "memory": told("memory", most or 0),
        "masked": " ".join(sorted(p for p in points if p.startswith(("/proc/", "/sys/")))),
    }


PROOFS: Mapping[str, Callable[[Scene], tuple[list[str], list[str]]]] = {
    "served": served,
    "visited": visited,
    "again": again,
    "named": named,
    "stopped": stopped,
    "committed": committed,
    "compared": compared,
}
"""What a step of living containers looks for."""
