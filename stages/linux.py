"""The kernel's door: every system call that the runtimes make passes through this room.

A call has its man page's name and argument order. One that fails raises OSError, whose `filename`
is the call in words, such as `chroot("/srv/rootfs")`. `watch` sees each call: `--trace` prints
there, and a test makes a call fail there.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps it in enums, which costs 5 ms a run
import ctypes
import errno
import os

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what importing typing costs: 3 ms a run
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn

    StrPath = str | bytes | os.PathLike[str]

# prctl(2)
PR_SET_PDEATHSIG = 1

# waitid(2)
P_PID, WEXITED, WNOHANG = os.P_PID, os.WEXITED, os.WNOHANG

# signal(7)
SIGHUP, SIGINT, SIGQUIT, SIGKILL = 1, 2, 3, 9
SIGUSR1, SIGUSR2 = _signal.SIGUSR1, _signal.SIGUSR2
SIGPIPE, SIGTERM, SIGCHLD = _signal.SIGPIPE, _signal.SIGTERM, _signal.SIGCHLD
SIGXFSZ, SIGWINCH = _signal.SIGXFSZ, _signal.SIGWINCH

# sigaction(2)
SIG_DFL, SIG_IGN = _signal.SIG_DFL, _signal.SIG_IGN
SI_KERNEL = 0x80

# sigprocmask(2)
SIG_BLOCK, SIG_SETMASK = _signal.SIG_BLOCK, _signal.SIG_SETMASK

_libc = ctypes.CDLL(None, use_errno=True)


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


def signal_name(signum: int) -> str:
    """Return a signal's name, such as SIGTERM.

    See signal(7).
    """
    # The table also holds SIGCLD, the old name of SIGCHLD.
    names = {v: k for k, v in vars(_signal).items() if k[:3] == "SIG" and k[3:4] != "_"}
    return {SIGCHLD: "SIGCHLD"}.get(signum) or str(names.get(signum, signum))


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
