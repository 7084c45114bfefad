"""The judges' own door to the kernel: what a judge must do that Python's `os` cannot yet do.

The judges know nothing of stages/, and a judge that shared the accused's tools would share its
mistakes. `os.setns` and `os.unshare` exist only from Python 3.12.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

# namespaces(7), unshare(2), setns(2)
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = {
    # the name in /proc/PID/ns, and the flag, in the order in which root joins them: user is last,
    # for whoever joins it may no longer join what belongs to a user namespace outside of it
    "cgroup": CLONE_NEWCGROUP,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "net": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "time": CLONE_NEWTIME,
    "mnt": CLONE_NEWNS,
    "user": CLONE_NEWUSER,
}

# mount(2), umount2(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_MOVE, MS_REC = 4096, 8192, 16384
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2

# prctl(2)
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 8, 24

# keyctl(2), whose number x86-64 has for itself
KEYCTL_JOIN_SESSION_KEYRING = 1
_SYS_keyctl = 250 if os.uname().machine == "x86_64" else 219

# ptrace(2)
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_SECCOMP_GET_FILTER = (
    17,
    0x4206,
    0x4207,
    0x420C,
)

# capabilities(7): read now, for a visitor has another /proc or none
CAP_LAST_CAP = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))

# shmget(2), shmctl(2), semctl(2), msgop(2)
IPC_PRIVATE, IPC_CREAT, IPC_RMID, IPC_NOWAIT = 0, 0o1000, 0, 0o4000
SHM_RDONLY = 0o10000
GETVAL, SETVAL = 12, 16
MSG_NOERROR, MSG_COPY = 0o10000, 0o40000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.msgrcv.restype = ctypes.c_ssize_t
# Before glibc 2.34 message queues have a library of their own.
_queues = _libc if hasattr(_libc, "mq_open") else ctypes.CDLL("librt.so.1", use_errno=True)


def _call(name: str, *arguments: Any) -> int:
    result: int = getattr(_queues if name.startswith("mq_") else _libc, name)(*arguments)
    if result in (-1, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_* `flags` for new ones. See unshare(2)."""
    _call("unshare", flags)


def setns(fd: int, nstype: int) -> None:
    """Join the namespace that the descriptor `fd` stands for. See setns(2)."""
    _call("setns", fd, nstype)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """Mount `source` on `target`, or change a mount's flags. See mount(2)."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, fstype)]
    _call("mount", *words, ctypes.c_ulong(flags), None if data is None else os.fsencode(data))


def umount(target: str) -> None:
    """Take away the mount on `target`, even one that is in use. See umount2(2)."""
    _call("umount2", os.fsencode(target), MNT_DETACH)


def die_with_parent(signum: int = 9) -> None:
    """Have the kernel send us `signum` when our parent dies. See prctl(2)."""
    _call("prctl", PR_SET_PDEATHSIG, signum, 0, 0, 0)


def keep_capabilities() -> None:
    """Keep the permitted capabilities over a change of user. See PR_SET_KEEPCAPS(2const)."""
    _call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)


def sethostname(name: str) -> None:
    """Set the host name of this uts namespace. See sethostname(2)."""
    _call("sethostname", name.encode(), len(name))


def setdomainname(name: str) -> None:
    """Set the NIS domain name of this uts namespace. See setdomainname(2)."""
    _call("setdomainname", name.encode(), len(name))


def getdomainname() -> str:
    """Return the NIS domain name of this uts namespace. See getdomainname(2)."""
    name = ctypes.create_string_buffer(65)
    _call("getdomainname", name, len(name))
    return os.fsdecode(name.value)


def shm_create(content: bytes) -> int:
    """Make a System V segment that holds `content`; return its id.

    It is marked for removal at once: it lives as long as this process, which stays attached, and
    can still be reached by its id, as is Linux' custom. So not even SIGKILL leaves it behind.
    See shmctl(2).
    """
    identifier = _call("shmget", IPC_PRIVATE, ctypes.c_size_t(4096), IPC_CREAT | 0o666)
    ctypes.memmove(_call("shmat", identifier, None, 0), content, len(content))
    _call("shmctl", identifier, IPC_RMID, None)
    return identifier


def shm_read(identifier: int, size: int) -> bytes:
    """Return the first `size` bytes of a System V segment. See shmat(2)."""
    address = _call("shmat", identifier, None, SHM_RDONLY)
    content = ctypes.string_at(address, size)
    _call("shmdt", ctypes.c_void_p(address))
    return content


def sem_create(value: int) -> int:
    """Make a System V semaphore of that value; return its id. It outlives us. See semctl(2)."""
    identifier = _call("semget", IPC_PRIVATE, 1, IPC_CREAT | 0o666)
    _call("semctl", identifier, 0, SETVAL, value)
    return identifier


def sem_value(identifier: int) -> int:
    """Return the value of a System V semaphore. See semctl(2)."""
    return _call("semctl", identifier, 0, GETVAL)


def msg_create(content: bytes) -> int:
    """Make a System V queue with one message in it; return its id. It outlives us. See msgop(2)."""
    identifier = _call("msgget", IPC_PRIVATE, IPC_CREAT | 0o666)
    message = ctypes.c_long(1)
    buffer = bytes(message) + content
    _call("msgsnd", identifier, buffer, ctypes.c_size_t(len(content)), IPC_NOWAIT)
    return identifier


def msg_peek(identifier: int, size: int) -> bytes:
    """Return the first `size` bytes of a queue's first message, which stays. See msgop(2)."""
    head = ctypes.sizeof(ctypes.c_long)
    buffer = ctypes.create_string_buffer(head + size)
    flags = IPC_NOWAIT | MSG_COPY | MSG_NOERROR
    first = ctypes.c_long(0)
    length = _call("msgrcv", identifier, buffer, ctypes.c_size_t(size), first, flags)
    return buffer.raw[head : head + length]


def mq_create(name: str) -> None:
    """Make a POSIX queue; it lives as long as its ipc namespace. See mq_open(3)."""
    _call("mq_open", name.encode(), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666, None)


def mq_open(name: str) -> None:
    """Open a POSIX queue for reading. See mq_open(3)."""
    _call("mq_open", name.encode(), os.O_RDONLY | os.O_NONBLOCK)


def join_session_keyring() -> int:
    """Have a new session keyring in the place of our own; return its serial number. See keyctl(2).

    Whoever is started from here on has it, too, unless somebody sees to that.
    """
    return _call("syscall", ctypes.c_long(_SYS_keyctl), KEYCTL_JOIN_SESSION_KEYRING, None)


def seccomp_filter(pid: int) -> bytes:
    """Return the newest filter for system calls of a process, as the kernel keeps it.

    The process is stopped for it, and goes on. See PTRACE_SECCOMP_GET_FILTER, ptrace(2).
    """
    none = ctypes.c_void_p(None)
    _ptrace(PTRACE_SEIZE, pid, none, none)
    try:
        _ptrace(PTRACE_INTERRUPT, pid, none, none)
        _wait_stopped(pid)
        count = _ptrace(PTRACE_SECCOMP_GET_FILTER, pid, none, none)
        program = ctypes.create_string_buffer(8 * count)
        _ptrace(PTRACE_SECCOMP_GET_FILTER, pid, none, ctypes.byref(program))
        return program.raw
    finally:
        _ptrace(PTRACE_DETACH, pid, none, none)


def _ptrace(request: int, pid: int, address: Any, data: Any) -> int:
    return _call("ptrace", ctypes.c_long(request), ctypes.c_int(pid), address, data)


def _wait_stopped(pid: int) -> None:
    """Wait for a process that we trace. See waitpid(2), __WALL."""
    os.waitpid(pid, 0x40000000)


def limit_capabilities(effective: int, permitted: int, bounding: int) -> None:
    """Keep of this thread's capabilities those in the masks, as /proc/PID/status spells them.

    See capset(2), capabilities(7).
    """
    for capability in range(CAP_LAST_CAP + 1):
        if not bounding >> capability & 1:
            _call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    version_3, this_thread = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, this_thread)
    low, high = 0xFFFFFFFF, 32
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, 0, effective >> high, permitted >> high, 0
    )
    _call("capset", header, data)
