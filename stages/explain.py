"""Why the kernel said no: from a failed call and the state around it to a cause and a remedy.

It runs inside the container's root, so all that it needs is loaded before the root changes: a
later import would look for its file in there (the class of CVE-2019-14271).
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.command_line import Container

CAUSES = {
    # call, errno: what it means here, and the remedy
    ("chroot", errno.ENOENT): "there is no such directory: `labrun rootfs DIR` makes one",
    ("chroot", errno.ENOTDIR): "ROOT has to be a directory: `labrun rootfs DIR --from TAR` makes "
    "one from a tarball",
    ("chroot", errno.EPERM): "a new root takes CAP_SYS_CHROOT, which root has: run it with sudo",
    ("chroot", errno.EACCES): "this user may not search a directory on the way: run it with sudo",
    ("chdir", errno.ENOENT): "ROOT has no such directory: make it, or name another --workdir",
    ("chdir", errno.ENOTDIR): "it is not a directory: name another --workdir",
    ("chdir", errno.EACCES): "this user may not enter it: name another --workdir",
    ("getcwd", errno.ENOENT): "--workdir leads out of ROOT: name a directory inside",
    ("fork", errno.EAGAIN): "no more processes are allowed here: see `ulimit -u` and pids.max",
    ("execve", errno.E2BIG): "arguments and environment are longer than the stack limit allows",
    ("execve", errno.ETXTBSY): "somebody has the file open for writing: close it first",
    ("execve", errno.ELOOP): "too many links, or a loop of them, on the way to it",
}

MACHINES = {3: "i386", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V"}
"""The commonest e_machine values of elf(5)."""
USUAL = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin")


def explain(error: OSError, container: Container) -> str:
    """Return the cause of a failed call and what to do about it, or "" where we know no more."""
    call = str(error.filename).partition("(")[0]
    if cause := CAUSES.get((call, error.errno or 0)):
        return cause
    if call == "execve":
        return why_not_executed(error, container)
    return ""


def why_not_executed(error: OSError, container: Container) -> str:
    """Return why execve(2) refused the command: looked up in the files of this root."""
    name = container.command[0]
    if "/" not in name and error.errno != errno.EACCES:
        return why_not_on_path(name, container)
    path = str(error.filename2)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return why_missing(path)
    if error.errno == errno.EACCES:
        return why_denied(path)
    if error.errno == errno.ENOEXEC:
        return why_no_format(path)
    return ""


def why_not_on_path(name: str, container: Container) -> str:
    """Return where along PATH it was looked for, and where it is instead."""
    path = os.fsdecode(container.environment.get(b"PATH", b"unset"))
    why = f"no directory of PATH ({path}) has it inside ROOT"
    found = [place for place in USUAL if os.path.lexists(f"{place}/{name}")]
    return f"{why}: call it {found[0]}/{name}, or say --env PATH={found[0]}" if found else why


def why_missing(path: str) -> str:
    """Return what is missing: the file, what it links to, or the program that should load it."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which is not in ROOT"
    if not os.path.exists(path):
        if not os.listdir("/"):
            return "ROOT is empty: `labrun rootfs DIR` makes a root file system"
        return "ROOT has no such file: is it a root file system? `labrun rootfs DIR` makes one"
    if loader := interpreter(path):
        return f"the file is there; {loader}, which the kernel starts it with, is not in ROOT"
    return "the file is there; the program that should start it is not in ROOT"


def why_denied(path: str) -> str:
    """Return which of the reasons of execve(2) for EACCES it was."""
    if os.path.isdir(path):
        return "it is a directory"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec: `mount -o remount,exec`, or use another place"
    if not os.stat(path).st_mode & 0o111:
        return "it has no execute permission: chmod +x makes it a program"
    if loader := interpreter(path):
        return f"{loader}, which the kernel starts it with, cannot be executed"
    return "this user may not execute it, or not search a directory on the way"


def why_no_format(path: str) -> str:
    """Return what the file is instead of a program for this machine."""
    with open(path, "rb") as file:
        head = file.read(20)
    if head[:2] == b"#!":
        return "its first line, #!, names no program that should run it"
    if head[:4] != b"\x7fELF":
        return "it is neither a program (ELF) nor a script that begins with #!"
    machine = int.from_bytes(head[18:20], "big" if head[5] == 2 else "little")
    built_for = MACHINES.get(machine, f"machine type {machine}")
    if built_for.lower().replace("-", "_") == os.uname().machine:
        return "it is a damaged program: the kernel can't make sense of its ELF headers"
    return f"it was built for {built_for}, this machine is {os.uname().machine}: use a ROOT for it"


def interpreter(path: str) -> str:
    """Return the program that the kernel starts a file with: a script's `#!`, an ELF's PT_INTERP.

    "" for a file that has none or that is neither. See execve(2), elf(5).
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:2] == b"#!":
        return os.fsdecode((head[2:].split(b"\n")[0].split() or [b""])[0])
    order = "big" if head[5:6] == b"\x02" else "little"
    wide = head[4:5] == b"\x02"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(head[offset : offset + size], order)  # type: ignore[arg-type]

    start, size, count = (
        (number(32, 8), number(54, 2), number(56, 2))
        if wide
        else (number(28, 4), number(42, 2), number(44, 2))
    )
    for header in range(start, start + size * count, size or 1):
        if number(header, 4) == 3:
            text = number(header + 8, 8) if wide else number(header + 4, 4)
            return os.fsdecode(head[text:].split(b"\0")[0])
    return ""
