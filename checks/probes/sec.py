"""What a container can do to the one kernel that all share: calls, files, devices, keys, terminals.

Nothing is tried that would do harm: a filter is read out and asked, a mount's flags are looked at,
a device is opened and never read.
"""

import contextlib
import errno
import json
import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checks import cgroup, kernel, visitor
from checks.canaries import nonce
from checks.model import Finding
from checks.probes import asked, built, probe, wall
from checks.trial import Container, Trial
from checks.visitor import Hindered, status_fields
from checks.words import say

# ---- no new privileges


@probe("sec.nnp")
def nnp(trial: Trial) -> Finding:
    """Where it is asked for, no program that is executed gains privileges."""
    with asked(trial, "--security-opt", "no-new-privileges") as (container, notes):
        value = status_fields(container.pid).get("NoNewPrivs", "0")
    read = say("sec.nnp", pid=container.pid, value=value)
    return wall(value == "1", read, *notes)


# ---- system calls

CALLS = {
    # calls that Docker's profile refuses, and Podman's, and the number of each
    "x86_64": {"kexec_load": 246, "open_by_handle_at": 304, "bpf": 321, "perf_event_open": 298},
    "aarch64": {"kexec_load": 104, "open_by_handle_at": 265, "bpf": 280, "perf_event_open": 241},
}
GETPID = {"x86_64": 39, "aarch64": 172}
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_… of linux/audit.h."""
ALLOWED = (0x7FFF0000, 0x7FFC0000)
"""SECCOMP_RET_ALLOW, and SECCOMP_RET_LOG, which allows, too."""


@probe("sec.seccomp")
def seccomp(trial: Trial) -> Finding:
    """The command runs under a filter, and the filter refuses what no container needs."""
    machine = os.uname().machine
    with trial.started() as container:
        mode = status_fields(container.pid).get("Seccomp", "0")
        read = say("sec.seccomp", pid=container.pid, mode=mode)
        if mode != "2":
            return wall(False, read)
        if machine not in CALLS:
            return wall(True, read)
        try:
            program = kernel.seccomp_filter(container.pid)
        except OSError as error:
            # Without CONFIG_CHECKPOINT_RESTORE a filter can't be read.
            return wall(True, read, say("sec.unreadable", reason=error.strerror))
    passed = [n for n, number in CALLS[machine].items() if answer(program, number) in ALLOWED]
    if passed:
        return wall(False, read, say("sec.passed", calls=", ".join(passed)))
    faults = []
    if answer(program, GETPID[machine]) not in ALLOWED:
        faults.append(say("sec.nothing_passes"))
    refused = say("sec.refused", count=len(program) // 8, calls=", ".join(CALLS[machine]))
    return built(False, faults, read, refused)


def answer(program: bytes, number: int) -> int:
    """Return what a filter says of a call without arguments: the action, without its data.

    The kernel's classic BPF, as far as filters for system calls may use it: see seccomp(2), and
    the kernel's networking/filter.
    """
    # struct seccomp_data: nr, arch, the instruction's address, six arguments.
    data = struct.pack("<iIQ6Q", number, ARCHITECTURE[os.uname().machine], 0, *[0] * 6)
    accumulator = index = at = 0
    memory = [0] * 16
    tests: dict[int, Callable[[int, int], int]] = {
        0x00: lambda a, b: 1,
        0x10: lambda a, b: a == b,
        0x20: lambda a, b: a > b,
        0x30: lambda a, b: a >= b,
        0x40: lambda a, b: a & b,
    }
    sums: dict[int, Callable[[int, int], int]] = {
        0x00: lambda a, b: a + b,
        0x10: lambda a, b: a - b,
        0x40: lambda a, b: a | b,
        0x50: lambda a, b: a & b,
        0x60: lambda a, b: a << b,
        0x70: lambda a, b: a >> b,
        0xA0: lambda a, b: a ^ b,
    }
    while True:
        code, yes, no, operand = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        kind, other = code & 7, index if code & 8 else operand
        if kind == 6:
            return (accumulator if code & 0x10 else operand) & 0xFFFF0000
        if kind == 5:
            held = tests[code & 0xF0](accumulator, other)
            at += (operand if code & 0xF0 == 0 else yes) if held else no
        elif kind == 4 and code & 0xF0 == 0x80:
            accumulator = -accumulator & 0xFFFFFFFF
        elif kind == 4:
            accumulator = sums[code & 0xF0](accumulator, other) & 0xFFFFFFFF
        elif kind in (0, 1):
            loaded = operand
            if code & 0xE0 == 0x20:
                (loaded,) = struct.unpack_from("<I", data, operand)
            elif code & 0xE0 == 0x60:
                loaded = memory[operand]
            accumulator, index = (loaded, index) if kind == 0 else (accumulator, loaded)
        elif kind in (2, 3):
            memory[operand] = accumulator if kind == 2 else index
        elif code & 0xF8:
            accumulator = index
        else:
            index = accumulator


# ---- files of the kernel's

MASKED = (
    # those that Docker, containerd, Podman and runc's own proposal all hide
    *("proc/acpi", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list"),
    *("proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware"),
)
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger", "sys/kernel")


@probe("sec.masked")
def masked(trial: Trial) -> Finding:
    """Files that tell of the whole machine are the null device there, or an empty directory."""
    with trial.started() as container:
        root = f"/proc/{container.pid}/root"
        faults = [] if os.path.isdir(f"{root}/proc/1") else [say("sec.no_proc")]
        there = [name for name in MASKED if os.path.exists(trial.bench.path(f"/{name}"))]
        told = [name for name in there if _tells(f"{root}/{name}")]
    if not there:
        raise Hindered(say("sec.nothing_to_mask"))
    names = " ".join(f"/{name}" for name in told or there)
    if told:
        return wall(False, say("sec.told", names=names))
    return built(False, faults, say("sec.hidden", names=names))


def _tells(path: str) -> bool:
    """Say whether a file or a directory has anything to tell."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return bool(os.listdir(path))
    except OSError:
        return False
    return status.st_rdev != os.makedev(1, 3)


@probe("sec.readonly")
def readonly(trial: Trial) -> Finding:
    """Files that change the kernel for all lie on mounts that are read-only."""
    with trial.started() as container:
        root = f"/proc/{container.pid}/root"
        faults = [] if os.path.isdir(f"{root}/proc/1") else [say("sec.no_proc")]
        there = [name for name in READ_ONLY if os.path.exists(f"{root}/{name}")]
        # By the flags of the mount: nothing is written, which would be the harm itself.
        open_ = [n for n in there if not os.statvfs(f"{root}/{n}").f_flag & os.ST_RDONLY]
    names = " ".join(f"/{name}" for name in open_ or there)
    if open_:
        return wall(False, say("sec.writable", names=names))
    return built(False, faults, say("sec.read_only", names=names or "-"))


# ---- devices

NODES = {
    # the devices that a container has: see null(4), full(4), random(4), tty(4), ptmx(4), fuse(4)
    *((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)),
}
TERMINALS = range(136, 144)
"""The major numbers of pseudo-terminals."""


@probe("sec.devices")
def devices(trial: Trial) -> Finding:
    """Of all devices, /dev has the standard ones, and the kernel opens no other."""
    name, number = _block_device()
    with trial.started() as container:
        extra = list(_others(f"/proc/{container.pid}/root/dev"))
        null = container.visit(lambda: _opened("/dev/null"))
        tried = _try_node(trial, container, number)
    if extra:
        return wall(False, say("sec.nodes", names=" ".join(extra[:8]), count=len(extra)))
    numbers = f"{os.major(number)}:{os.minor(number)}"
    if tried == 0:
        return wall(False, say("sec.opened", name=name, numbers=numbers))
    if tried not in (errno.EPERM, errno.EACCES):
        raise Hindered(say("sec.not_tried", name=name, reason=os.strerror(tried)))
    faults = [say("sec.no_null", reason=os.strerror(null))] if null else []
    refused = say("sec.not_opened", name=name, numbers=numbers, reason=os.strerror(tried))
    return built(False, faults, refused, say("sec.no_nodes"))


def _block_device() -> tuple[str, int]:
    """Return a block device of this machine's, rather a loop that nothing needs."""
    found = sorted(os.listdir("/sys/block"), key=lambda name: (not name.startswith("loop"), name))
    if not found:
        raise Hindered(say("sec.no_block"))
    numbers = Path("/sys/block", found[0], "dev").read_text(encoding="ascii")
    major, minor = map(int, numbers.split(":"))
    return found[0], os.makedev(major, minor)


def _others(folder: str) -> Iterator[str]:
    """Yield the devices in a /dev that a container doesn't have."""
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from (f"{entry.name}/{name}" for name in _others(entry.path))
            elif stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
                number = os.major(status.st_rdev), os.minor(status.st_rdev)
                standard = number in NODES or number[0] in TERMINALS
                if stat.S_ISBLK(status.st_mode) or not standard:
                    yield entry.name


def _opened(path: str) -> int:
    """Open a file, and close it; return the error, 0 for none."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 0
    return 0


def _try_node(trial: Trial, container: Container, number: int) -> int:
    """Put a node into the container, and open it as a process of its would; return the error."""
    host = trial.bench.path("/")
    for place in ("/dev", "/tmp", ""):
        folder = f"/proc/{container.pid}/root{place}"
        with contextlib.suppress(OSError):
            # Not where the machine's own files are.
            if os.stat(folder).st_dev in (os.stat(host).st_dev, os.stat(f"{host}/dev").st_dev):
                continue
            name = nonce("node")
            at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                os.mknod(name, stat.S_IFBLK | 0o666, number, dir_fd=at)
                try:
                    return _in_groups(container, lambda: _opened(f"{place}/{name}"))  # noqa: B023
                finally:
                    os.unlink(name, dir_fd=at)
            finally:
                os.close(at)
    raise Hindered(say("sec.no_place"))


def _in_groups(container: Container, look: Callable[[], int]) -> int:
    """Return what a visitor finds that is also in the control groups that decide on devices."""
    places = cgroup.places(container.pid)
    own = cgroup.places("self")
    groups = [
        at
        for names, at in places.items()
        if (not names or "devices" in names.split(",")) and at != own.get(names)
    ]
    report, told = os.pipe()
    with visitor.signals_held():
        child = os.fork()
        if child == 0:
            result: dict[str, Any] = {}
            try:
                cgroup.enter(groups)
                result = {"value": container.visit(look)}
            except Exception as error:
                result = {"failed": str(error)}
            finally:
                os.write(told, json.dumps(result).encode())
                os._exit(0)
    os.close(told)
    with os.fdopen(report, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    result = json.loads(text or "{}")
    if "value" not in result:
        raise Hindered(str(result.get("failed", "")))
    value: int = result["value"]
    return value


# ---- keys

CROWD = 32
SCRIPT = "read go; sleep 60 <&- | " + "sleep 60 | " * (CROWD - 2) + "{ echo forked; sleep 60; }"
"""A pipeline: what a shell starts in the background ends at once where there is no /dev/null."""


@probe("sec.keyring")
def keyring(trial: Trial) -> Finding:
    """The command's session keyring is not its caller's.

    No file tells whose keyring a process has. But each process holds on to its own, and the kernel
    counts who does: where the caller's is the command's, too, its children are counted.
    """
    serial = trial.bench.keyring
    if not serial or holders(serial) is None:
        raise Hindered(say("sec.no_keys"))
    with trial.started(SCRIPT) as container:
        before = settled(serial)
        assert container.process.stdin
        container.process.stdin.write(b"\n")
        container.process.stdin.flush()
        if not container.hears(b"forked\n"):
            raise Hindered(say("sec.not_forked"))
        after = settled(serial)
    counted = say("sec.holders", serial=f"{serial:08x}", before=before, after=after, count=CROWD)
    return wall(after - before < CROWD // 2, counted)


def settled(serial: int) -> int:
    """Return how often a key is held once that has stayed so for a while.

    What a process held the kernel lets go of some time after its end (RCU).
    """
    seen, since, until = -1, 0.0, time.monotonic() + 5
    while (now := time.monotonic()) < until:
        if (count := holders(serial) or 0) != seen:
            seen, since = count, now
        elif now - since > 0.4:
            break
        time.sleep(0.05)
    return seen


def holders(serial: int) -> int | None:
    """Return how often a key is held, by processes among others. See proc_keys(5)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/keys").read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if int(words[0], 16) == serial:
                return int(words[2])
    return None


# ---- terminals

LEADER = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""What gives a runtime the terminal that it is started on, as a login does."""


@probe("sec.tty")
def tty(trial: Trial) -> Finding:
    """The caller's terminal doesn't control the command's session; one asked for is another.

    Whoever is controlled by a terminal can put words into it, for a shell outside to execute
    (TIOCSTI, CVE-2017-5226).
    """
    with terminal() as (slave, device):
        with _on(trial, slave) as container:
            leads = _controlling(container.pid)
        plain = say("sec.tty", pid=container.pid, tty=_named(leads), caller=_named(device))
        if leads == device:
            return wall(False, plain)
    with terminal() as (slave, device):
        with contextlib.ExitStack() as stack:
            try:
                container = stack.enter_context(_on(trial, slave, "--tty"))
            except Exception as error:
                return wall(True, plain, say("sec.tty_not_asked", reason=error))
            mine, its = os.fstat(slave), os.stat(f"/proc/{container.pid}/fd/0")
            leads = _controlling(container.pid)
        shared = (mine.st_dev, mine.st_ino) == (its.st_dev, its.st_ino)
        faults = [] if os.major(its.st_rdev) in TERMINALS else [say("sec.tty_none")]
        number = f"{os.major(its.st_rdev)}:{os.minor(its.st_rdev)}"
        own = say("sec.tty_own", number=number, shared="=" if shared else "≠")
        return built(shared, faults, plain, own)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Make a terminal; give its end for a program, and its number as /proc/PID/stat has it."""
    master, slave = os.openpty()
    try:
        yield slave, os.fstat(slave).st_rdev
    finally:
        os.close(master)
        os.close(slave)


@contextlib.contextmanager
def _on(trial: Trial, slave: int, *options: str) -> Iterator[Container]:
    """Start a command by a runtime that has a terminal."""
    before = [sys.executable, "-c", LEADER]
    with trial.started(before=before, stdin=slave, options=options) as container:
        yield container


def _controlling(pid: int) -> int:
    """Return the device number of a process's controlling terminal, 0 for none.

    See proc_pid_stat(5), tty_nr.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    number = int(fields.rpartition(")")[2].split()[4])
    # The minor number is in two pieces.
    return os.makedev(number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00))


def _named(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}" if device else "0"
