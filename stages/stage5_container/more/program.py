"""Which file the command is: never the host's own, which this process is until it is another.

A container may say `#!/proc/self/exe`, or link to it. The kernel then loads once more what we are,
the host's interpreter, with a dynamic loader of the container's; from there on the container has an
open descriptor of a file of the host's, and waits for the moment to write (CVE-2019-5736). runc
runs from a sealed copy of itself, which would cost us a second start of Python. So we look where
the way leads before the kernel goes it. What runs inside might exchange a file in between; then
the kernel refuses the writing (ETXTBSY), for the monitor runs from the same file.
"""

from __future__ import annotations

import errno
import os
import stat

from stages import linux
from stages.stage1_chroot.process import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SCRIPTS, MOST_BYTES = 6, 256
"""Files that one execve(2) goes through, and how much of each it looks at. See execve(2)."""
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
"""Where no way leads to a file: neither will the kernel find one, and it says so."""
OURS = "execve(by /proc:"


def beware(command: Sequence[str], environment: Mapping[bytes, bytes]) -> None:
    """Raise OSError, ELOOP, where the command, or what its `#!` names, is a link of /proc's."""
    name = command[0]
    path = os.fsdecode(environment.get(b"PATH", DEFAULT_PATH.encode()))
    for place in [""] if "/" in name else [f"{place or '.'}/" for place in path.split(":")]:
        program = place + name
        for _ in range(MOST_SCRIPTS):
            program = script_of(program)
            if not program:
                break


def script_of(path: str) -> str:
    """Return which program the first line of a script names; "" of what is none, or isn't there."""
    flags = linux.O_PATH | linux.O_CLOEXEC
    try:
        found = linux.openat2(linux.AT_FDCWD, path, flags, linux.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.exists(path):  # no mere loop of links
            raise OSError(errno.ELOOP, error.strerror, f"{OURS} {path})") from None
        if error.errno in NOWHERE:
            return ""
        raise
    try:
        # Opened for reading it may be a device, and a pipe would have us wait.
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        reader = linux.open_file(f"/proc/self/fd/{found}", linux.O_RDONLY | linux.O_CLOEXEC)
        with open(reader, "rb", buffering=0) as file:
            first = file.read(MOST_BYTES).partition(b"\n")[0]
    finally:
        os.close(found)
    words = first[2:].split()
    return os.fsdecode(words[0]) if first[:2] == b"#!" and words else ""
