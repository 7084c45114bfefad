"""The kernel's door: every system call that the runtimes make passes through this room.

A call has its man page's name and argument order. One that fails raises OSError, whose `filename`
is the call in words, such as `chroot("/srv/rootfs")`. `watch` sees each call: `--trace` prints
there, and a test makes a call fail there.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps it in enums, which costs 5 ms a run
import ctypes
import errno
import fcntl
import os

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what importing typing costs: 3 ms a run
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn

    StrPath = str | bytes | os.PathLike[str]

# prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 22, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL, SECCOMP_MODE_FILTER = 4, 2

# clone(2), unshare(2), setns(2)
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP = 0x80, 0x20000, 0x2000000
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_STRICTATIME = 0x1000, 0x4000, 0x40000, 0x1000000

# mount_setattr(2)
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

# umount(2)
MNT_DETACH = 2

# open(2)
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT
O_PATH, O_DIRECTORY, O_NOFOLLOW = os.O_PATH, os.O_DIRECTORY, os.O_NOFOLLOW
O_CLOEXEC = os.O_CLOEXEC

# openat2(2)
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 1, 2, 4, 8
RESOLVE_IN_ROOT = 16

# inode(7)
S_IFCHR = 0o020000

# capget(2)
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# keyctl(2)
KEYCTL_JOIN_SESSION_KEYRING = 1

# bpf(2)
BPF_PROG_LOAD, BPF_PROG_ATTACH = 5, 8
BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI = 15, 6, 2

# flock(2)
LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN = 1, 2, 4, 8

# socket(2), netlink(7)
AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC, NETLINK_ROUTE = 16, 3, 0o2000000, 0

# waitid(2)
P_PID, WEXITED, WNOHANG = os.P_PID, os.WEXITED, os.WNOHANG

# signal(7)
SIGHUP, SIGINT, SIGQUIT, SIGKILL = 1, 2, 3, 9
SIGUSR1, SIGUSR2 = _signal.SIGUSR1, _signal.SIGUSR2
SIGPIPE, SIGTERM, SIGCHLD = _signal.SIGPIPE, _signal.SIGTERM, _signal.SIGCHLD
SIGXFSZ, SIGWINCH = _signal.SIGXFSZ, _signal.SIGWINCH
SIGSTOP, SIGCONT, SIGTTOU = _signal.SIGSTOP, _signal.SIGCONT, _signal.SIGTTOU

# sigaction(2)
SIG_DFL, SIG_IGN = _signal.SIG_DFL, _signal.SIG_IGN
SI_KERNEL = 0x80

# signalfd(2)
SFD_CLOEXEC, SFD_NONBLOCK = 0o2000000, 0o4000

# ioctl_tty(2)
TIOCSCTTY, TIOCSWINSZ, TIOCSPTLCK, TIOCGPTPEER = 0x540E, 0x5414, 0x40045431, 0x5441

# sigprocmask(2)
SIG_BLOCK, SIG_SETMASK = _signal.SIG_BLOCK, _signal.SIG_SETMASK

_libc = ctypes.CDLL(None, use_errno=True)
# A PyDLL keeps Python's lock during the call: who forks must hold it, as os.fork does.
_locked = ctypes.PyDLL(None, use_errno=True)


def _declare(name: str, *argtypes: Any) -> Callable[..., int]:
    """Return libc's wrapper of one system call, which raises OSError where it returns -1."""

    def errcheck(result: int, function: object, arguments: object) -> int:
        if result == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    function: Any = getattr(_libc, name)
    function.argtypes, function.restype, function.errcheck = argtypes, ctypes.c_int, errcheck
    return function  # type: ignore[no-any-return]  # ctypes knows no more of it than we do


_long = ctypes.c_ulong
_chroot = _declare("chroot", ctypes.c_char_p)
_prctl = _declare("prctl", ctypes.c_int, _long, _long, _long, _long)
_close_range = _declare("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_int)
_unshare = _declare("unshare", ctypes.c_int)
_setns = _declare("setns", ctypes.c_int, ctypes.c_int)
_mount = _declare(
    "mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, _long, ctypes.c_char_p
)
_umount2 = _declare("umount2", ctypes.c_char_p, ctypes.c_int)
_pivot_root = _declare("pivot_root", ctypes.c_char_p, ctypes.c_char_p)
_sethostname = _declare("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_signalfd = _declare("signalfd", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_flock = _declare("flock", ctypes.c_int, ctypes.c_int)
_capget = _declare("capget", ctypes.c_void_p, ctypes.c_void_p)
_capset = _declare("capset", ctypes.c_void_p, ctypes.c_void_p)
_setrlimit = _declare("setrlimit", ctypes.c_int, ctypes.c_void_p)
_socket = _declare("socket", ctypes.c_int, ctypes.c_int, ctypes.c_int)
_syncfs = _declare("syncfs", ctypes.c_int)
_name_to_handle_at = _declare(
    "name_to_handle_at",
    *(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.c_int),
)

# libc has no clone3 and no openat2, and mount_setattr only since glibc 2.36. Newer calls have the
# same number on every machine that labrun runs on.
_SYS_clone3, _SYS_openat2, _SYS_mount_setattr = 435, 437, 442
# Older ones that libc leaves out have two: x86-64's own, and that of all later machines.
_SYS_keyctl, _SYS_bpf = (250, 321) if os.uname().machine == "x86_64" else (219, 280)

watch: Callable[[str, object], None] | None = None
"""Called with a call's words and PENDING before it is made, then with its result or OSError."""
PENDING = object()


def _call(function: Callable[..., Any], words: str, *arguments: object) -> Any:
    """Make one call, show it to `watch`, and put it in words where it fails."""
    try:
        if watch:
            watch(words, PENDING)
        result = function(*arguments)
    except OSError as error:
        if watch:
            watch(words, error)
        raise OSError(error.errno, error.strerror, words) from None
    if watch:
        watch(words, result)
    return result


def _quoted(path: StrPath) -> str:
    """Return a string as C and strace spell it, whatever its bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return '"' + text.replace('"', '\\"').replace("\n", "\\n") + '"'


_spelt: dict[str, list[tuple[str, int]]] = {}
"""The names and values of flags, by how their names begin."""


def _ored(value: int, prefix: str) -> str:
    """Return the names of the flags that are set, as C spells them: MS_BIND|MS_REC."""
    flags = _spelt.get(prefix) or [
        (k, v) for k, v in globals().items() if k.startswith(prefix) and v and v > 0
    ]
    _spelt[prefix] = flags
    return "|".join([name for name, flag in flags if value & flag == flag]) or "0"


def chroot(path: StrPath) -> None:
    """Make the directory `path` what `/` means to this process and its children.

    See chroot(2).
    """
    _call(_chroot, f"chroot({_quoted(path)})", os.fsencode(path))


def chdir(path: StrPath) -> None:
    """Make `path` the working directory.

    See chdir(2).
    """
    _call(os.chdir, f"chdir({_quoted(path)})", path)


def getcwd() -> str:
    """Return the path of the working directory; ENOENT where it is not below this root.

    See getcwd(3).
    """
    return str(_call(os.getcwd, "getcwd()"))


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close the descriptors from `first` to `last`, both included.

    See close_range(2).
    """
    _call(_close_range, f"close_range({first}, {last}, {flags})", first, last, flags)


def set_pdeathsig(signum: int) -> None:
    """Have the kernel send this process `signum` when the thread that forked it ends.

    See PR_SET_PDEATHSIG(2const), prctl(2).
    """
    words = f"prctl(PR_SET_PDEATHSIG, {signal_name(signum)})"
    _call(_prctl, words, PR_SET_PDEATHSIG, signum, 0, 0, 0)


def set_dumpable(value: int) -> None:
    """Say whether others of the same user may look into this process: /proc/PID/exe, fd, root.

    With 0 that takes CAP_SYS_PTRACE. It is 1 again behind execve(2).

    See PR_SET_DUMPABLE(2const), prctl(2).
    """
    _call(_prctl, f"prctl(PR_SET_DUMPABLE, {value})", PR_SET_DUMPABLE, value, 0, 0, 0)


def fork() -> int:
    """Return the child's pid in the parent, 0 in the child.

    See fork(2).
    """
    return int(_call(os.fork, "fork()"))


def getppid() -> int:
    """Return the parent's pid; 0 where the parent is in another pid namespace.

    See getppid(2).
    """
    return int(_call(os.getppid, "getppid()"))


def setpgid(pid: int, pgid: int) -> None:
    """Move the process `pid`, ourselves or a child, into the process group `pgid`.

    See setpgid(2).
    """
    _call(os.setpgid, f"setpgid({pid}, {pgid})", pid, pgid)


def setsid() -> None:
    """Begin a session of this process's own, without a terminal.

    See setsid(2).
    """
    _call(os.setsid, "setsid()")


def dup(fd: int) -> int:
    """Return another descriptor of the same open file, which execve(2) closes.

    See dup(2).
    """
    return int(_call(os.dup, f"dup({fd})", fd))


def dup2(fd: int, fd2: int) -> None:
    """Have the descriptor `fd2` be the open file of `fd`, also behind execve(2).

    See dup(2).
    """
    _call(os.dup2, f"dup2({fd}, {fd2})", fd, fd2)


def ioctl(fd: int, operation: int, argument: int | bytes) -> int:
    """Ask a device for something of its own.

    See ioctl(2).
    """
    names = {v: k for k, v in globals().items() if k.startswith("TIOC")}
    words = f"ioctl({fd}, {names.get(operation, hex(operation))})"
    result = _call(fcntl.ioctl, words, fd, operation, argument)
    return result if isinstance(result, int) else 0


def execve(path: str, arguments: Sequence[str], environment: Mapping[bytes, bytes]) -> NoReturn:
    """Become the program `path`; return only by raising OSError.

    See execve(2).
    """
    argv = ", ".join(map(_quoted, arguments))
    words = f"execve({_quoted(path)}, [{argv}], {len(environment)} variables)"
    try:
        _call(os.execve, words, path, arguments, environment)
    except OSError as error:
        # The words are for people; whoever looks for the cause needs the path itself.
        error.filename2 = path
        raise
    raise AssertionError("execve(2) doesn't return")


def kill(pid: int, signum: int) -> None:
    """Send `signum` to the process `pid`.

    See kill(2).
    """
    _call(os.kill, f"kill({pid}, {signal_name(signum)})", pid, signum)


def waitid(pid: int, options: int) -> os.waitid_result | None:
    """Return how the child `pid` ended; None with WNOHANG where it has not.

    See waitid(2).
    """
    words = f"waitid(P_PID, {pid})"
    result: os.waitid_result | None = _call(os.waitid, words, P_PID, pid, options)
    return result


_signals: dict[int, str] = {}


def signal_name(signum: int) -> str:
    """Return a signal's name, such as SIGTERM.

    See signal(7).
    """
    if not _signals:
        for name, number in vars(_signal).items():
            # The table also holds SIGCLD, the old name of SIGCHLD.
            if name[:3] == "SIG" and name[3:4] != "_" and name != "SIGCLD":
                _signals.setdefault(number, name)
    return _signals.get(signum, str(signum))


def sigaction(signum: int, handler: object) -> None:
    """Set what a signal does to this process: SIG_DFL or SIG_IGN.

    See sigaction(2).
    """
    spelt = "SIG_IGN" if handler == SIG_IGN else "SIG_DFL"
    words = f"sigaction({signal_name(signum)}, {spelt})"
    _call(lambda: _signal.signal(signum, handler) and None, words)


def sigprocmask(how: int, signals: Iterable[int]) -> set[int]:
    """Change the set of blocked signals; return the set as it was.

    See sigprocmask(2).
    """
    names = ", ".join(map(signal_name, sorted(signals)))
    words = f"sigprocmask({('SIG_BLOCK', 'SIG_UNBLOCK', 'SIG_SETMASK')[how]}, [{names}])"
    return set(_call(_signal.pthread_sigmask, words, how, signals))


def sigwaitinfo(signals: Iterable[int]) -> tuple[int, int]:
    """Wait for the next of the blocked `signals`; return it and its si_code: who sent it.

    See sigwaitinfo(2).
    """
    info = _call(_signal.sigwaitinfo, "sigwaitinfo()", signals)
    return int(info.si_signo), int(info.si_code)


def signalfd(signals: Iterable[int]) -> int:
    """Return a descriptor that can be read once one of the blocked `signals` is there.

    See signalfd(2).
    """
    mask = sum(1 << (signum - 1) for signum in signals)
    # sigset_t has room for 1024 signals.
    set_of_them = (ctypes.c_uint64 * 16)(mask)
    flags = SFD_CLOEXEC | SFD_NONBLOCK
    return int(_call(_signalfd, "signalfd(-1)", -1, ctypes.byref(set_of_them), flags))


def read_signal(fd: int) -> int:
    """Return the next signal of a signalfd.

    See signalfd(2).
    """
    return int.from_bytes(read(fd, 128)[:4], "little")


def pidfd_open(pid: int) -> int:
    """Return a descriptor of the process `pid`, which stays that one's whoever has the number next.

    See pidfd_open(2).
    """
    return int(_call(os.pidfd_open, f"pidfd_open({pid})", pid))


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    """Send a signal to the process of a descriptor.

    See pidfd_send_signal(2).
    """
    words = f"pidfd_send_signal({pidfd}, {signal_name(signum)})"
    _call(_signal.pidfd_send_signal, words, pidfd, signum)


def clone3(flags: int, cgroup: int | None = None) -> int:
    """Fork a child into the new namespaces that the CLONE_NEW… `flags` name.

    `cgroup` is the open directory of a control group (v2) that the child is born in; it takes
    Linux 5.7. Returns the child's pid in the parent, 0 in the child. See clone(2), namespaces(7).
    """
    if cgroup is not None:
        flags |= CLONE_INTO_CGROUP
    words = f"clone3({_ored(flags, 'CLONE_')}, exit_signal SIGCHLD"
    words += ")" if cgroup is None else f", cgroup {cgroup})"
    return int(_call(_clone3, words, flags, cgroup))


def _clone3(flags: int, cgroup: int | None) -> int:
    # struct clone_args, first version: flags, pidfd, child_tid, parent_tid, exit_signal, and the
    # stack, its size and the TLS, which 0 leaves as fork(2) does. The third version goes on with
    # set_tid, its size, and the cgroup; a kernel without that knows a shorter struct only.
    first = (flags, 0, 0, 0, SIGCHLD, 0, 0, 0)
    values = first if cgroup is None else (*first, 0, 0, cgroup)
    arguments = (ctypes.c_uint64 * len(values))(*values)
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    # Python is to be told of a fork that it doesn't make itself.
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _locked.syscall(ctypes.c_long(_SYS_clone3), ctypes.byref(arguments), size)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    failure = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(failure, os.strerror(failure))
    return int(pid)


def unshare(flags: int) -> None:
    """Leave a namespace of this process for a new one.

    See unshare(2).
    """
    _call(_unshare, f"unshare({_ored(flags, 'CLONE_')})", flags)


def setns(fd: int, nstype: int) -> None:
    """Join the namespace that `fd`, an open link such as /proc/PID/ns/net, stands for.

    See setns(2).
    """
    _call(_setns, f"setns({fd}, {_ored(nstype, 'CLONE_')})", fd, nstype)


def mount(
    source: StrPath | None, target: StrPath, fstype: str | None, flags: int, data: str | None = None
) -> None:
    """Attach a file system, or with MS_BIND a part of one, at `target`; or change what is there.

    See mount(2).
    """
    strings = [None if text is None else os.fsencode(text) for text in (source, target, fstype)]
    spelt = ["NULL" if text is None else _quoted(text) for text in strings]
    options = "NULL" if data is None else _quoted(data)
    words = f"mount({', '.join(spelt)}, {_ored(flags, 'MS_')}, {options})"
    _call(_mount, words, *strings, flags, data and data.encode())


def mount_setattr(path: StrPath, flags: int, attr_set: int) -> None:
    """Set attributes of the mount at `path`, with AT_RECURSIVE also of all that is mounted below.

    See mount_setattr(2).
    """
    words = f"mount_setattr({_quoted(path)}, {_ored(flags, 'AT_')}, "
    words += f"{_ored(attr_set, 'MOUNT_ATTR_')})"
    _call(_mount_setattr, words, os.fsencode(path), flags, attr_set)


def _mount_setattr(path: bytes, flags: int, attr_set: int) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    attributes = (ctypes.c_uint64 * 4)(attr_set, 0, 0, 0)
    call = _libc.syscall
    number, size = ctypes.c_long(_SYS_mount_setattr), ctypes.c_size_t(ctypes.sizeof(attributes))
    result = call(number, AT_FDCWD, path, ctypes.c_uint(flags), ctypes.byref(attributes), size)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def umount2(target: StrPath, flags: int) -> None:
    """Take away the topmost mount at `target`.

    See umount(2).
    """
    words = f"umount2({_quoted(target)}, {_ored(flags, 'MNT_')})"
    _call(_umount2, words, os.fsencode(target), flags)


def pivot_root(new_root: StrPath, put_old: StrPath) -> None:
    """Make the mount `new_root` the root of this mount namespace; the old one moves to `put_old`.

    See pivot_root(2).
    """
    words = f"pivot_root({_quoted(new_root)}, {_quoted(put_old)})"
    _call(_pivot_root, words, os.fsencode(new_root), os.fsencode(put_old))


def sethostname(name: str) -> None:
    """Set the host name of this uts namespace.

    See sethostname(2).
    """
    text = os.fsencode(name)
    _call(_sethostname, f"sethostname({_quoted(name)})", text, len(text))


def setgroups(groups: Sequence[int]) -> None:
    """Set the supplementary groups of this process.

    See setgroups(2).
    """
    _call(os.setgroups, f"setgroups({list(groups)})", groups)


def setresgid(rgid: int, egid: int, sgid: int) -> None:
    """Set the real, effective and saved group of this process.

    See setresgid(2).
    """
    _call(os.setresgid, f"setresgid({rgid}, {egid}, {sgid})", rgid, egid, sgid)


def setresuid(ruid: int, euid: int, suid: int) -> None:
    """Set the real, effective and saved user of this process.

    See setresuid(2).
    """
    _call(os.setresuid, f"setresuid({ruid}, {euid}, {suid})", ruid, euid, suid)


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this process, as bits.

    See capget(2), capabilities(7).
    """
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _call(_capget, "capget()", header, data)
    effective, permitted, inheritable = (data[i] | data[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capabilities of this process, as bits; what is not permitted never comes back.

    See capget(2), capabilities(7).
    """
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    low, high = [bits & 0xFFFFFFFF for bits in sets], [bits >> 32 for bits in sets]
    words = f"capset({effective:#x}, {permitted:#x}, {inheritable:#x})"
    _call(_capset, words, header, (ctypes.c_uint32 * 6)(*low, *high))


def capbset_drop(capability: int) -> None:
    """Take a capability out of the bounding set: no program that is executed can get it again.

    See PR_CAPBSET_DROP(2const), capabilities(7).
    """
    words = f"prctl(PR_CAPBSET_DROP, {capability})"
    _call(_prctl, words, PR_CAPBSET_DROP, capability, 0, 0, 0)


def clear_ambient() -> None:
    """Empty the ambient set: what a program gets that is executed by somebody other than root.

    See PR_CAP_AMBIENT(2const), capabilities(7).
    """
    words = "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)"
    _call(_prctl, words, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def set_no_new_privs() -> None:
    """Have execve(2) give no more rights from now on: a setuid program runs as its caller.

    See PR_SET_NO_NEW_PRIVS(2const).
    """
    _call(_prctl, "prctl(PR_SET_NO_NEW_PRIVS, 1)", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def set_seccomp_filter(program: bytes) -> None:
    """Have the kernel ask a program of classic BPF about each system call from now on.

    It takes CAP_SYS_ADMIN, or no_new_privs. See PR_SET_SECCOMP(2const), seccomp(2).
    """
    # struct sock_fprog: the number of instructions, of 8 bytes each, and where they are.
    code = ctypes.create_string_buffer(program, len(program))
    fields = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(code))
    words = f"prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, {len(program) // 8} instructions)"
    address = ctypes.addressof(fields)
    _call(_prctl, words, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address, 0, 0)


def join_session_keyring() -> None:
    """Have a new session keyring, empty and without a name, in the place of the caller's.

    See keyctl(2), KEYCTL_JOIN_SESSION_KEYRING(2const), session-keyring(7).
    """
    _call(_join_session_keyring, "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)")


def _join_session_keyring() -> None:
    number = ctypes.c_long(_SYS_keyctl)
    if _libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, ctypes.c_void_p(None)) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def setrlimit(resource: int, soft: int, hard: int) -> None:
    """Set a limit of this process's, by its number; -1 is RLIM_INFINITY.

    See getrlimit(2).
    """
    limits = (ctypes.c_uint64 * 2)(soft & (1 << 64) - 1, hard & (1 << 64) - 1)
    _call(_setrlimit, f"setrlimit({resource}, {soft}, {hard})", resource, limits)


def bpf_prog_load(program: bytes, kind: int) -> int:
    """Have the kernel check a program of eBPF, and keep it; return its descriptor.

    See bpf(2).
    """
    count = len(program) // 8
    code = ctypes.create_string_buffer(program, len(program))
    # It matters to programs that call functions of the kernel's which are for the GPL only.
    licence = ctypes.create_string_buffer(b"MIT")
    # union bpf_attr: prog_type, insn_cnt; insns, license; log_level, log_size; log_buf.
    fields = (ctypes.c_uint64 * 6)(
        kind | count << 32, ctypes.addressof(code), ctypes.addressof(licence)
    )
    words = f"bpf(BPF_PROG_LOAD, BPF_PROG_TYPE_CGROUP_DEVICE, {count} instructions)"
    return int(_call(_bpf, words, BPF_PROG_LOAD, fields))


def bpf_prog_attach(target: int, program: int, kind: int, flags: int) -> None:
    """Have the kernel ask a program on behalf of the open control group `target`.

    See bpf(2).
    """
    # union bpf_attr: target_fd, attach_bpf_fd; attach_type, attach_flags.
    fields = (ctypes.c_uint64 * 2)(target | program << 32, kind | flags << 32)
    words = f"bpf(BPF_PROG_ATTACH, {target}, {program}, BPF_CGROUP_DEVICE)"
    _call(_bpf, words, BPF_PROG_ATTACH, fields)


def _bpf(command: int, fields: ctypes.Array[ctypes.c_uint64]) -> int:
    size = ctypes.c_uint(ctypes.sizeof(fields))
    result = _libc.syscall(ctypes.c_long(_SYS_bpf), command, ctypes.byref(fields), size)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def mkdir(path: StrPath, mode: int) -> None:
    """Make a directory.

    See mkdir(2).
    """
    _call(os.mkdir, f"mkdir({_quoted(path)}, 0{mode:o})", path, mode)


def unlink(path: StrPath) -> None:
    """Remove a name of a file.

    See unlink(2).
    """
    _call(os.unlink, f"unlink({_quoted(path)})", path)


def rmdir(path: StrPath) -> None:
    """Remove an empty directory; a control group is one when it has no process and no group.

    See rmdir(2), cgroups(7).
    """
    _call(os.rmdir, f"rmdir({_quoted(path)})", path)


def symlink(target: str, linkpath: StrPath) -> None:
    """Make the link `linkpath`, which leads to `target`.

    See symlink(2).
    """
    _call(os.symlink, f"symlink({_quoted(target)}, {_quoted(linkpath)})", target, linkpath)


def mknod(path: StrPath, mode: int, major: int, minor: int, dirfd: int | None = None) -> None:
    """Make a device node or a FIFO; `path` begins at the directory `dirfd`, where that is given.

    See mknod(2).
    """
    words = f"mknod({_quoted(path)}, 0{mode:o}, makedev({major}, {minor}))"
    device = os.makedev(major, minor)
    _call(lambda: os.mknod(path, mode, device, dir_fd=dirfd), words)


def setxattr(path: StrPath | int, name: str, value: bytes, flags: int = 0) -> None:
    """Set an extended attribute of a file, itself where it is a link; or of an open one.

    See setxattr(2), xattr(7).
    """
    opened = isinstance(path, int)
    file = str(path) if isinstance(path, int) else _quoted(path)
    words = f"setxattr({file}, {_quoted(name)}, {len(value)} bytes, {flags})"
    _call(lambda: os.setxattr(path, name, value, flags, follow_symlinks=opened), words)


def removexattr(path: StrPath | int, name: str) -> None:
    """Remove an extended attribute of a file, itself where it is a link; or of an open one.

    See removexattr(2).
    """
    opened = isinstance(path, int)
    file = str(path) if isinstance(path, int) else _quoted(path)
    words = f"removexattr({file}, {_quoted(name)})"
    _call(lambda: os.removexattr(path, name, follow_symlinks=opened), words)


def umask(mask: int) -> int:
    """Set which permissions new files never get; return the mask as it was.

    See umask(2).
    """
    return int(_call(os.umask, f"umask(0{mask:o})", mask))


def getxattr(path: StrPath, name: str) -> bytes | None:
    """Return an extended attribute of a file, itself where it is a link; None where it has none.

    See getxattr(2), xattr(7).
    """
    words = f"getxattr({_quoted(path)}, {_quoted(name)})"
    try:
        return bytes(_call(lambda: os.getxattr(path, name, follow_symlinks=False), words))
    except OSError as error:
        # A file system that has no attributes at all has not this one either.
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def name_to_handle_at(path: StrPath) -> bytes:
    """Return what the file system itself calls a file, whatever names it has.

    See name_to_handle_at(2).
    """
    return bytes(_call(_handle, f"name_to_handle_at({_quoted(path)})", os.fsencode(path)))


def _handle(path: bytes) -> bytes:
    # struct file_handle: the size of f_handle, its type, then at most MAX_HANDLE_SZ bytes of it.
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.c_uint.from_buffer(handle).value = 128
    _name_to_handle_at(AT_FDCWD, path, handle, ctypes.byref(ctypes.c_int()), 0)
    return handle.raw[8 : 8 + ctypes.c_uint.from_buffer(handle).value]


def rename(old: StrPath, new: StrPath) -> None:
    """Give a file or a directory another name, at once; a file or an empty directory makes way.

    See rename(2).
    """
    _call(os.rename, f"rename({_quoted(old)}, {_quoted(new)})", old, new)


def syncfs(path: StrPath) -> None:
    """Wait until all that was written to the file system that holds `path` is on its disk.

    See syncfs(2).
    """
    fd = open_file(path, O_RDONLY | O_CLOEXEC)
    try:
        _call(_syncfs, f"syncfs({_quoted(path)})", fd)
    finally:
        os.close(fd)


def fsync(path: StrPath) -> None:
    """Wait until a file, or the names that a directory holds, are on the disk.

    See fsync(2).
    """
    fd = open_file(path, O_RDONLY | O_CLOEXEC)
    try:
        _call(os.fsync, f"fsync({_quoted(path)})", fd)
    finally:
        os.close(fd)


def open_file(path: StrPath, flags: int, mode: int = 0) -> int:
    """Open a file; return its descriptor.

    See open(2).
    """
    return int(_call(os.open, f"open({_quoted(path)}, {_ored(flags, 'O_')})", path, flags, mode))


RETRIES = 100
"""How often a call is made that the kernel can't answer. Beside a process that does nothing but
rename, one in ten is such a call: a hundred in a row are no accident."""


def openat2(dirfd: int, path: StrPath, flags: int, resolve: int) -> int:
    """Open a file below the directory `dirfd`, on a way that `resolve` bounds: Linux 5.6.

    The kernel holds that bound while it walks, whatever others rename meanwhile. Returns a
    descriptor. See openat2(2).
    """
    words = f"openat2({dirfd}, {_quoted(path)}, {_ored(flags, 'O_')}, {_ored(resolve, 'RESOLVE_')})"
    tries = 1
    while True:
        try:
            return int(_call(_openat2, words, dirfd, os.fsencode(path), flags, resolve))
        except BlockingIOError:
            # EAGAIN: anywhere on the machine something was renamed or mounted just when the way led
            # through a `..`. Whether it stayed inside the kernel can't tell, and is asked again.
            if tries == RETRIES:
                raise
            tries += 1


def _openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> int:
    # struct open_how: flags, mode, resolve.
    how = (ctypes.c_uint64 * 3)(flags, 0, resolve)
    number, size = ctypes.c_long(_SYS_openat2), ctypes.c_size_t(ctypes.sizeof(how))
    fd = _libc.syscall(number, ctypes.c_int(dirfd), path, ctypes.byref(how), size)
    if fd == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(fd)


def write_file(path: StrPath, text: str) -> None:
    """Write one line into a file of the kernel's, with one write(2), as such files want it.

    See write(2), proc(5).
    """
    fd = open_file(path, O_WRONLY | O_CLOEXEC)
    try:
        _call(os.write, f"write({_quoted(path)}, {_quoted(text)})", fd, text.encode())
    finally:
        os.close(fd)


def pipe2(flags: int) -> tuple[int, int]:
    """Make a pipe; return its reading and its writing end.

    See pipe(2).
    """
    ends: tuple[int, int] = _call(os.pipe2, f"pipe2({_ored(flags, 'O_')})", flags)
    return ends


def read(fd: int, count: int) -> bytes:
    """Read up to `count` bytes; none where there are no more to come.

    See read(2).
    """
    return bytes(_call(os.read, f"read({fd})", fd, count))


def write(fd: int, data: bytes) -> int:
    """Write `data` to a descriptor; return how many bytes went.

    See write(2).
    """
    return int(_call(os.write, f"write({fd}, {_quoted(data)})", fd, data))


def flock(fd: int, operation: int) -> None:
    """Lock an open file, LOCK_SH with others or LOCK_EX alone; or LOCK_UN, give the lock back.

    Without that it ends when the last descriptor is closed, also those of forked children.

    See flock(2).
    """
    _call(_flock, f"flock({fd}, {_ored(operation, 'LOCK_')})", fd, operation)


def socket(domain: int, type: int, protocol: int) -> int:
    """Open a socket; return its descriptor.

    See socket(2).
    """
    words = "socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)"
    return int(_call(_socket, words, domain, type, protocol))


def netlink(fd: int, words: str, exchange: Callable[[int, bytes], Any], message: bytes) -> Any:
    """Send one request to the kernel's network and return its answer; `words` say what it asks.

    See netlink(7), rtnetlink(7).
    """
    return _call(exchange, words, fd, message)


def request(words: str, exchange: Callable[..., Any], *arguments: object) -> Any:
    """Ask a service, over a socket of its own, and return its answer; `words` say what is asked.

    See unix(7).
    """
    return _call(exchange, words, *arguments)


def caller_environment() -> dict[bytes, bytes]:
    """Return the environment as the caller gave it.

    Python itself adds LC_CTYPE where the locale is C (PEP 538), so `os.environb` is not what the
    caller said; /proc/self/environ still is. Without a /proc, Python's own copy has to do.

    See proc_pid_environ(5).
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries)
    return {name: value for name, _, value in pairs if name}


def trace(words: str, result: object) -> None:
    """Print a call as it is made: what `--trace` puts in `watch`."""
    # A call that succeeds by never returning is shown before it is made.
    if result is PENDING:
        if words.startswith("execve("):
            write_stderr(f"[{os.getpid()}] {words}\n")
        return
    if words.startswith("execve("):
        words = "execve(…)"
    if isinstance(result, OSError):
        ending = f" = -1 {errno.errorcode[result.errno or 0]} ({result.strerror})"
    elif isinstance(result, int | str):
        ending = f" = {result}"
    else:
        # A call that returns nothing returns 0 in C; one that returns more says more than we need.
        ending = " = 0"
    write_stderr(f"[{os.getpid()}] {words}{ending}\n")


def write_stderr(text: str) -> None:
    """Write to descriptor 2, in one piece; a caller who closed it wants to hear nothing."""
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return
