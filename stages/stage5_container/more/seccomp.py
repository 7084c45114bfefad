"""From rules to a program that the kernel asks about each system call: a seccomp filter.

libseccomp compiles it, which knows the number of each call on each machine. Its library is called
by ctypes, as linux.py calls the kernel: the project's own binding for Python is in no registry,
pyseccomp's last release is of January 2021, and the wheels of others are for some machines only.

Compiling takes 15 ms, as long as all the rest of a start. So the program is kept in the store,
under the digest of all that went into it. Everything here is the parent's to do: inside the
container the library would be the container's. See seccomp(2), seccomp_init(3).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from stages.light import later, sha256, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stages.stage5_container.more import profile as docker
    from stages.stage5_container.more.profile import Argument, Rule

    Choice = tuple[int, list[tuple[str, int, tuple[Argument, ...]]]]
    """The action for what isn't listed; then names, actions and conditions."""
else:
    docker = later("stages.stage5_container.more.profile")

LIBRARY = "libseccomp.so.2"
ALLOW, REFUSE = "allow", "errno"
ACTIONS = {
    # linux/seccomp.h: SECCOMP_RET_…
    ALLOW: 0x7FFF0000,
    "log": 0x7FFC0000,
    REFUSE: 0x00050000,
    "trap": 0x00030000,
    "kill_thread": 0x00000000,
    "kill_process": 0x80000000,
}
COMPARED = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
"""seccomp.h of libseccomp: enum scmp_compare."""
OPTIMIZE, TREE, UNKNOWN = 8, 2, -1
"""Its attribute SCMP_FLTATR_CTL_OPTIMIZE, with a search tree in the place of a list: each call is
found in nine steps instead of hundreds. And the number of a name that it doesn't know."""
MACHINES = {
    # uname(2): AUDIT_ARCH_… of linux/audit.h, its own, then those whose programs it runs as well
    "x86_64": (0xC000003E, 0x40000003, 0x4000003E),
    "aarch64": (0xC00000B7, 0x40000028),
    "riscv64": (0xC00000F3,),
}
X32 = 0x40000000
"""From here on the calls of x32 are numbered, a second set on x86-64."""


class Profile:
    """Rules, and what is done with a call that none of them is about."""

    def __init__(
        self, rules: Sequence[Rule] = (), action: str = REFUSE, errno: int = errno.EPERM
    ) -> None:
        """Take them; without rules they are Docker's."""
        self.own, self.action, self.errno = rules, action, errno

    @property
    def rules(self) -> Sequence[Rule]:
        """Return the rules. Docker's are long, and loaded where they are to be compiled."""
        return docker.RULES if self is DOCKER else self.own

    def mark(self, capabilities: Sequence[str], machine: str) -> str:
        """Return what another set of rules for this container wouldn't have."""
        if self is not DOCKER:
            return repr(choose(self, capabilities, machine))
        status = os.stat(f"{os.path.dirname(__file__)}/profile.py")
        return repr((status.st_mtime_ns, status.st_size, capabilities))


DOCKER = Profile()


def choose(profile: Profile, capabilities: Sequence[str], machine: str) -> Choice:
    """Return what is done by default, and what with each call, for this container here."""
    there = {*capabilities}
    calls = []
    for rule in profile.rules:
        fits = there >= {*rule.having} and there.isdisjoint(rule.lacking)
        if fits and machine in (rule.machines or (machine,)) and machine not in rule.others:
            action = encoded(rule.action, rule.errno)
            calls += [(name, action, rule.arguments) for name in rule.names]
    return encoded(profile.action, profile.errno), calls


def encoded(action: str, number: int) -> int:
    """Return an action as the kernel has it; the error is in its lower half."""
    return ACTIONS[action] | (number if action == REFUSE else 0)


def filter_for(profile: Profile, capabilities: Sequence[str], store: str) -> bytes:
    """Return the program for a container, from the store if it was compiled before.

    Raises OSError: ENOENT without libseccomp, EINVAL for rules that it can't compile.
    """
    library = Library()
    machine = os.uname().machine
    told = profile.mark(capabilities, machine), machine, library.version
    key = sha256(repr(told).encode()).hexdigest()
    file = f"{store}/seccomp/{key}"
    if kept := read(file):
        return kept
    program = library.compile(choose(profile, capabilities, machine), machine)
    keep(file, program)
    return program


def read(file: str) -> bytes:
    """Return a program that was kept; b"" where there is none, or not all of it."""
    try:
        with open(file, "rb") as opened:
            content = opened.read()
    except OSError:
        return b""
    digest, program = content[:32], content[32:]
    return program if digest == sha256(program).digest() else b""


def keep(file: str, program: bytes) -> None:
    """Keep a program for the next container; where that can't be, the next compiles it again."""
    draft = f"{file}.{os.urandom(8).hex()}"
    with suppress(OSError):
        os.makedirs(os.path.dirname(file), 0o700, exist_ok=True)
        with open(draft, "xb") as opened:
            opened.write(sha256(program).digest() + program)
        os.rename(draft, file)


class Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Library:
    """libseccomp, as far as it is used. See seccomp_init(3), seccomp_rule_add(3)."""

    def __init__(self) -> None:
        """Load it; raise OSError, ENOENT, where it isn't installed."""
        try:
            library: Any = ctypes.CDLL(LIBRARY)
        except OSError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), LIBRARY) from None
        context = ctypes.c_void_p
        library.seccomp_init.argtypes, library.seccomp_init.restype = [ctypes.c_uint32], context
        library.seccomp_release.argtypes, library.seccomp_release.restype = [context], None
        library.seccomp_arch_add.argtypes = [context, ctypes.c_uint32]
        library.seccomp_attr_set.argtypes = [context, ctypes.c_int, ctypes.c_uint32]
        library.seccomp_export_bpf.argtypes = [context, ctypes.c_int]
        library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        library.seccomp_rule_add_array.argtypes = [
            *(context, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison)),
        ]
        library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
        self.library = library
        self.version = tuple(library.seccomp_version().contents)

    def compile(self, choice: Choice, machine: str) -> bytes:
        """Return the program; raise OSError where a rule can't be."""
        default, calls = choice
        context = self.library.seccomp_init(default)
        if not context:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), "seccomp_init()")
        try:
            for token in MACHINES.get(machine, ()):
                made = self.library.seccomp_arch_add(context, token)
                self.check(made, f"seccomp_arch_add({token:#x})", errno.EEXIST)
            # Before 2.5 there is no tree.
            self.library.seccomp_attr_set(context, OPTIMIZE, TREE)
            greatest = 0
            for name, action, arguments in calls:
                number = self.library.seccomp_syscall_resolve_name(name.encode())
                greatest = max(greatest, number)
                # It takes no rule that says what is done anyway.
                if number != UNKNOWN and action != default:
                    self.add(context, name, number, action, arguments)
            return newer(MACHINES.get(machine, (0,))[0], greatest) + self.exported(context)
        finally:
            self.library.seccomp_release(context)

    def add(
        self, context: int, name: str, number: int, action: int, arguments: Sequence[Argument]
    ) -> None:
        """Add a rule."""
        comparisons = (Comparison * len(arguments))()
        for at, (position, how, value, other) in enumerate(arguments):
            comparisons[at] = Comparison(position, COMPARED[how], value, other)
        made = self.library.seccomp_rule_add_array(
            context, action, number, len(arguments), comparisons
        )
        self.check(made, f"seccomp_rule_add({name})")

    def exported(self, context: int) -> bytes:
        """Return the compiled program."""
        fd = os.memfd_create("seccomp")
        try:
            self.check(self.library.seccomp_export_bpf(context, fd), "seccomp_export_bpf()")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def check(self, made: int, words: str, *fine: int) -> None:
        """Raise OSError for what one of its functions returns, if that is an error."""
        if made < 0 and -made not in fine:
            raise OSError(-made, os.strerror(-made), words)


def newer(token: int, greatest: int) -> bytes:
    """Return instructions to go first: a call that is newer than all that we know isn't there.

    A program that tries a new call takes an older one for ENOSYS; EPERM it would take for the
    kernel's last word. runc does the same (libcontainer/seccomp/patchbpf).
    """
    if not token:
        return b""
    refused = ACTIONS[REFUSE] | errno.ENOSYS
    steps = (
        # struct sock_filter: code, how far to jump where it holds and where not, operand. The
        # operands of the first and third are offsets into struct seccomp_data: arch, nr.
        (0x20, 0, 0, 4),  # load
        (0x15, 0, 4, token),  # equal? else on to the filter itself
        (0x20, 0, 0, 0),  # load
        (0x35, 2, 0, X32),  # at least? on to the filter
        (0x25, 0, 1, greatest),  # greater? else on to the filter
        (0x06, 0, 0, refused),  # return
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)
