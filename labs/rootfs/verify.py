"""Whether a root file system will do: /bin/sh, /bin/ls, /bin/ip and /bin/ps are run in it."""

import errno
import os
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from labs.errors import FAILED, Refused
from labs.rootfs import elf, programs
from labs.rootfs.interrupts import Interrupts
from labs.texts import say

INSIDE = Path(__file__).with_name("inside.py")
PROGRAMS = {"/bin/sh": ["-c", ":"], "/bin/ls": ["/"], "/bin/ip": ["link"], "/bin/ps": []}
SECONDS = 10.0
LINKS_AT_MOST = 40
"""As many symbolic links as the kernel follows: see path_resolution(7)."""
APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
NOT_FOUND = 127


@dataclass
class Verified:
    """`ran` is False if the programs could only be looked at; `lacking` is what doesn't run."""

    ran: bool
    lacking: dict[str, str] = field(default_factory=dict)


def verify(root: Path, interrupts: Interrupts, *, name: str, strict: bool) -> Verified:
    """Run the programs in `root`; without /bin/sh, or any if `strict`, raise Refused."""
    apart = _apart(interrupts)
    verified = Verified(ran=bool(apart))
    for program, arguments in PROGRAMS.items():
        problem = (
            _run(root, [program, *arguments], apart, interrupts, strict=strict)
            if apart
            else look(root, program)
        )
        if problem and (strict or program == "/bin/sh"):
            raise Refused(name, f"{program} {problem}", status=FAILED)
        if problem:
            verified.lacking[program] = problem
    return verified


def look(root: Path, program: str) -> str:
    """Say what is wrong with `program` in `root` as far as its file shows, nothing if all is well.

    The sentence goes on from the program's name: "is not there".
    """
    path = resolve(root, program)
    if path is None:
        return say("rootfs.is_missing")
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
        return say("rootfs.is_not_executable")
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return say("rootfs.is_noexec")
    try:
        header, ours = elf.read(path), elf.ours()
    except PermissionError:
        return ""
    if header is None:
        return "" if _is_script(path) else say("rootfs.is_no_program")
    if header.machine != ours.machine:
        return say("rootfs.is_foreign", machine=header.machine_name, ours=ours.machine_name)
    if header.loader and resolve(root, header.loader) is None:
        return say("rootfs.lacks_loader", loader=header.loader)
    return ""


def resolve(root: Path, name: str) -> Path | None:
    """Return where `name` leads in `root`, its links followed as if `root` were /."""
    done: list[str] = []
    left = name.split("/")
    links = 0
    while left:
        part = left.pop(0)
        if part == "..":
            done = done[:-1]
        elif part not in ("", "."):
            path = root.joinpath(*done, part)
            if path.is_symlink():
                links += 1
                if links > LINKS_AT_MOST:
                    return None
                target = os.readlink(path)
                left = target.split("/") + left
                done = [] if target.startswith("/") else done
            elif os.path.lexists(path):
                done.append(part)
            else:
                return None
    return root.joinpath(*done)


def _apart(interrupts: Interrupts) -> list[str]:
    """Return the command that puts what follows into namespaces; empty if we may not."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = [APART[0], *user, *APART[1:]]
    try:
        done = programs.run(
            [*command, sys.executable, "-I", "-S", "-c", ""], interrupts, seconds=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return command if done.returncode == 0 else []


def _run(
    root: Path, command: list[str], apart: list[str], interrupts: Interrupts, *, strict: bool
) -> str:
    program = command[0]
    reader, writer = os.pipe()
    try:
        user = "nobody" if os.geteuid() == 0 else "same"
        helper = [sys.executable, "-I", "-S", str(INSIDE), str(root), str(writer), user]
        done = programs.run(
            [*apart, *helper, *command], interrupts, seconds=SECONDS, pass_fds=(writer,)
        )
    except subprocess.TimeoutExpired:
        return say("rootfs.takes_long", seconds=int(SECONDS))
    finally:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            number = int(pipe.read() or b"0")
    if number:
        # The kernel's word for a missing loader is ENOENT, for another machine ENOEXEC: the file
        # itself says more.
        known = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ELOOP)
        return (number in known and look(root, program)) or say(
            "rootfs.cannot_be_run", error=os.strerror(number)
        )
    if done.returncode == NOT_FOUND or done.returncode > 128 or (strict and done.returncode):
        cause = programs.last_line(done.stderr) or f"status {done.returncode}"
        return say("rootfs.fails", error=cause)
    return ""


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"
