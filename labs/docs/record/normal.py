"""What differs from run to run, and from machine to machine, made the same everywhere.

Only names and numbers that mean nothing by themselves: canaries' names, numbers of namespaces and
devices, where this checkout lies, the kernel's release. What was measured is never touched.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from checks.bench import Bench
from checks.model import Finding
from checks.trial import Ended
from labs.demo.picture import Networks
from labs.demo.played import Played
from labs.demo.stack import Stack
from labs.demo.trace import Call
from labs.docs.record import labhost
from labs.paths import CHECKOUT

LIVING = "stage5"
"""From this stage on containers live by themselves, on a throw-away host."""
HOME = "/home/you/labrun"
"""Where a reader's checkout may lie."""
KERNEL = "6.12.0"
"""A kernel's release."""
MACHINE = {
    r"(?m)^\d+(?=\nMemTotal:)": "2",
    r"(?m)^MemTotal: +\d+ kB\n\d+$": "MemTotal:        2030120 kB\n4",
    r"\b\d+(?= instructions\b)": "1252",
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b": (
        "0f4c1d2e-5b6a-4798-8a1b-c2d3e4f50617"
    ),
}
"""A machine's CPUs, memory, disks, the length of a filter that its libseccomp makes, and the number
of its start."""
PORT = "40917"
"""A port that was free."""
NONCE = re.compile(r"\b(labrun|canary|secret|name|domain|one|two)-([0-9a-f]{12})\b")
NAMESPACE = re.compile(r"\b([a-z_]+):\[(\d{10})\]")
DEVICE = re.compile(r"(device|设备) (\d+:\d+)")
PROCESS = re.compile(r"(/proc/|kill -0 |kill\(|I am )(\d+)\b")
NESTED = re.compile(r"\b(\d+)(?=, 1 ?[(（]/proc/\d+/status)")
"""A process that has a second number, 1, in a pid namespace of its own."""
LISTED = re.compile(r"^( *\d+)(?= (?:root|init|python|\{|/))", re.MULTILINE)
"""A process in the output of `ps`."""
TRACED = re.compile(r"(?m)(^\[|fork\(\) = |clone3\(.*\) = |getppid\(\) = |P_PID, )(\d+)\b")
GROUP = re.compile(
    r"(/sys/fs/cgroup(?:/(?:cpu|cpuacct|cpu,cpuacct|cpuset|memory|pids|blkio|freezer|devices|unified)\b)?)"
    r"(?:/[^/\s\"]+)*?/labrun-run-[0-9a-f]{8}"
)
"""A container's group, below wherever this program was put."""
RUN = re.compile(r"labrun-run-[0-9a-f]{8}")
NEW = {
    "stage3": re.compile(
        r"(mkdir|write|rmdir)\(\"/sys/fs|fork\(|clone3\(|QDISC|execve\(|kill\(|P_PID"
    ),
    "stage4": re.compile(
        r"unshare\(|(mknod|rename|chdir|mount|umount2)\(\"/[^\"]"
        r"|mount\(\"overlay\"|clone3\(|pivot_root\(|execve\(|P_PID"
    ),
    "stage5": re.compile(
        r"rename\(\"\S*state\.json|bind\(|signalfd\(|nft|clone3\(|pivot_root\(|setsid\(|keyctl\("
        r"|PR_SET_SECCOMP|setresuid\(|capset\(|execve\(|umount2\(\"/"
        r"|(?P<once>write\(\"\S*devices\.\w+|bpf\(|mount\(\"tmpfs\", \"/proc|mount\(\"/proc/self/fd"
        r"|mount_setattr\(|PR_CAPBSET_DROP)"
    ),
}
"""The calls that a stage makes and the one before doesn't, and what they stand between; of those
that come many times in a row the first."""
WAITS = {"stage5": re.compile(r"write\(\d+, \"10\.88\.")}
"""The last call before a runtime waits for its child, where it doesn't say that it waits."""
STATE = re.compile(r"(?<=state\.json\.)\d+\b")
"""A draft of what is noted of a container: its writer's pid is in its name."""
DIGEST = re.compile(r"\b([0-9a-f]{64})\b|(?<=sha256:)([0-9a-f]{12})(?![0-9a-f])")
"""The digest of a blob, or how it begins: on every machine it is of other files."""
LOWER = re.compile(r"(?<=lowerdir=)[0-9a-f]{6,}(?::[0-9a-f]{6,})*")
"""The short names of layers, which are made from their digests."""
CONTAINER = re.compile(r"(?<=containers/)[0-9a-f]{12}\b|(?<=\tweb )[0-9a-f]{12}\b")
CALLER = re.compile(r"(?<=\]:)\d+(?=: response)|(?<=:)\d{5}(?=/(?:tcp|udp))")
"""A port that the kernel chose: of whom a server has answered, or that a probe has published."""
BENCH = re.compile(r"(?<=/bench-)[a-z0-9_]{8}\b")
"""A throw-away host's folder."""
FILTER = re.compile(r"\d+(?= instructions| 条指令)")
"""How long a filter is: another libseccomp makes another one."""
WHOLE = re.compile(r"(?<=CapEff:\t)000001f\w{9}")
"""All capabilities: of how many a machine's root has one or two less is its own affair."""
COVERED = re.compile(r"(?:/(?:proc|sys)/[\w/]+ )+/(?:proc|sys)/[\w/]+")
HIDDEN = "/proc/acpi /proc/kcore /proc/keys /proc/timer_list /sys/firmware"
READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys/kernel"
"""What a container has covered of the kernel's files: on each machine, those that are there."""
TOP = re.compile(r"(?m)^\d+ \d+(?= httpd$)")
"""A server and its monitor, as the host numbers them."""
DRAFT = re.compile(r"(?<=/overlay-)[0-9a-f]{16}\b")
"""What is being made in a store, before it has its name."""
LOOP = re.compile(r"(/dev/loop|\b7:)\d+")
"""A loop device, by its name or its number."""
FIRST_NONCE = 0x51B9C40D7E23
HOSTS = {"time": 4026531834, "cgroup": 4026531835, "pid": 4026531836, "user": 4026531837}
HOSTS |= {"uts": 4026531838, "ipc": 4026531839, "net": 4026531840, "mnt": 4026531841}
"""The numbers of a machine's first namespaces (linux/proc_ns.h; net and mnt as they come)."""
OTHERS = 500
"""How far above are those of a container's. The kernel gives a number out again once it is free."""


class Normal:
    """Replaces what differs, and each thing by the same wherever it comes again."""

    def __init__(self, stage: str, bench: Bench | None = None) -> None:
        """Begin with nothing known, but for the bench: its namespaces, and the canary's port.

        Every process up to the canary was started one after the other, and keeps its pid.
        """
        self.stage = stage
        self.kept = bench.canaries.process if bench else 2
        self.hosts = {bench.link(kind) for kind in HOSTS} if bench else set()
        self.known: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        words = [os.fsdecode(w) for w in Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]]
        self.plain = {
            " ".join(words): f"python labrun {stage}",
            labhost.STORE: "/var/lib/labrun/store",
            labhost.TEMPORARY: "/tmp",
            str(Path(sys.executable).parent): f"{HOME}/.venv/bin",
            str(CHECKOUT): HOME,
            os.uname().release: KERNEL,
        }
        if bench:
            self.plain[str(bench.canaries.port)] = PORT

    def _once(self, kind: str, found: str, make: Callable[[int], str]) -> str:
        """Return what stands for `found`: made by its number among its kind, at the first time."""
        if found not in self.known:
            self.counts[kind] = self.counts.get(kind, -1) + 1
            self.known[found] = make(self.counts[kind])
        return self.known[found]

    def __call__(self, text: str) -> str:
        """Return a text as it would be anywhere else."""
        for found, stands in self.plain.items():
            text = text.replace(found, stands)
        for machine, stands in MACHINE.items():
            text = re.sub(machine, stands, text)
        text = RUN.sub("labrun-run-5b1e09c4", GROUP.sub(r"\1/labrun-run-00000000", text))
        text = LOOP.sub(lambda m: f"{m[1]}0", text)
        text = NONCE.sub(
            lambda m: self._once(
                "nonce", m[0], lambda n: f"{m[1]}-{(FIRST_NONCE * (n + 1)) % 16**12:012x}"
            ),
            text,
        )
        text = DIGEST.sub(lambda m: self.digest(m[0]), text)
        text = LOWER.sub(lambda m: ":".join(map(self.short, m[0].split(":"))), text)
        for kind, pattern in (("container", CONTAINER), ("draft", DRAFT)):
            text = pattern.sub(partial(self.same_length, kind), text)
        if self.stage >= LIVING:
            text = BENCH.sub("k3w9x0ad", TOP.sub("53 51", CALLER.sub(PORT, text)))
            text = WHOLE.sub("000001ffffffffff", FILTER.sub("1252", text))
            text = COVERED.sub(lambda m: READ_ONLY if "/proc/sys " in m[0] else HIDDEN, text)
        text = NAMESPACE.sub(lambda m: self.namespace(*m.group(0, 1)), text)
        text = NESTED.sub(lambda m: self.pid(m[1]), text)
        text = PROCESS.sub(lambda m: m[1] + self.pid(m[2]), text)
        text = LISTED.sub(lambda m: self.pid(m[1].strip()).rjust(len(m[1])), text)
        return DEVICE.sub(
            lambda m: f"{m[1]} " + self._once("device", m[2], lambda n: f"0:{40 + n}"), text
        )

    def trace(self, text: str) -> str:
        """Return a trace as it would be anywhere else: the runtime's calls, then its child's.

        The two run side by side, so their lines come in any order: the child's stand where the
        runtime begins to wait for it.
        """
        for found in re.findall(r"^\[(\d+)\]", text, re.MULTILINE):
            self.pid(found)
        lines = self(text).splitlines()
        runtime = lines[0].partition(" ")[0]
        parent = [line for line in lines if line.startswith(runtime)]
        child = [line for line in lines if not line.startswith(runtime)]
        # Whoever stands by to tidy up was there before; the container's child is pid 1 to itself.
        child.sort(key=lambda line: line.startswith("[1]"))
        if last := WAITS.get(self.stage):
            waits = max(n for n, line in enumerate(parent) if last.search(line)) + 1
        else:
            waits = next(n for n, line in enumerate(parent) if "sigwaitinfo()" in line)
        ordered = [*parent[:waits], *child, *parent[waits:]]
        if new := NEW.get(self.stage):
            # Twice as many lines as before; those that the stage before has say nothing new.
            ordered = _first_of_many(new, ordered)
        ordered = [STATE.sub(lambda m: self.pid(m[0]), line) for line in ordered]
        return TRACED.sub(lambda m: m[1] + self.pid(m[2]), "\n".join([*ordered, ""]))

    def digest(self, found: str) -> str:
        """Return what stands for a digest; for how it begins, the same as for the whole."""
        made = self._once("digest", found[:12], lambda n: _hex(f"digest {n}", 64))
        return made[: len(found)]

    def short(self, found: str) -> str:
        """Return what stands for a layer's short name."""
        return self._once("short", f"short {found}", lambda n: _hex(f"short {n}", 6))

    def same_length(self, kind: str, found: re.Match[str]) -> str:
        """Return what stands for a name that was drawn at random."""
        return self._once(kind, found[0], lambda n: _hex(f"{kind} {n}", len(found[0])))

    def namespace(self, link: str, kind: str) -> str:
        """Return what stands for a namespace: the host's own, or one of a container's."""
        return f"{kind}:[{HOSTS[kind] + (0 if link in self.hosts else OTHERS)}]"

    def pid(self, found: str) -> str:
        """Return what stands for a process."""
        if int(found) <= self.kept:
            return found
        return self._once("pid", f"pid {found}", lambda n: str(self.kept + 1 + n))

    def seconds(self, text: str) -> str:
        """Return a text whose times all are the same."""
        return re.sub(r"\d+\.\d s|\d+\.\d 秒", lambda m: f"3.0{m[0][-2:]}", text)

    def ended(self, ended: Ended) -> Ended:
        """Return a command's output as it would be anywhere else."""
        return replace(
            ended,
            stdout=self(ended.stdout.decode("utf-8", "replace")).encode(),
            stderr=self(ended.stderr.decode("utf-8", "replace")).encode(),
        )

    def played(self, done: Played) -> Played:
        """Return a step that was played as it would have been anywhere else."""
        return replace(
            done,
            places={name: self(value) for name, value in done.places.items()},
            sides=[
                replace(
                    side,
                    command=[*map(self, side.command)],
                    options=[*map(self, side.options)],
                    ended=self.ended(side.ended),
                )
                for side in done.sides
            ],
            findings={
                axis: Finding(found.verdict, tuple(map(self, found.evidence)))
                for axis, found in done.findings.items()
            },
            networks=done.networks and self.networks(done.networks),
            layers=done.layers and self.layers(done.layers),
            calls=[
                Call(call.pid, call.name, self(call.arguments), self(call.result))
                for call in done.calls
            ],
        )

    def networks(self, found: Networks) -> Networks:
        """Return networks as they would be anywhere else."""
        return Networks(
            replace(found.host, namespace=self(found.host.namespace)),
            replace(found.container, namespace=self(found.container.namespace)),
        )

    def layers(self, found: Stack) -> Stack:
        """Return a container's stack as it would be anywhere else."""
        return replace(
            found,
            options=self(found.options),
            upper=self(found.upper),
            lower=[*map(self, found.lower)],
        )


def _first_of_many(wanted: re.Pattern[str], lines: Iterable[str]) -> list[str]:
    """Return the lines with what is wanted; of what is wanted `once` only the first."""
    kept: list[str] = []
    seen: set[str] = set()
    for line in lines:
        if found := wanted.search(line):
            once = found.groupdict().get("once") or ""
            if once not in seen:
                kept.append(line)
            seen |= {once} - {""}
    return kept


def _hex(word: str, length: int) -> str:
    """Return so many digits that look like a digest's."""
    return sha256(word.encode()).hexdigest()[:length]
