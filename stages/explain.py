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
    ("clone3", errno.EAGAIN): "no more processes are allowed here: see `ulimit -u` and pids.max",
    ("clone3", errno.EINVAL): "this kernel lacks one of the namespaces: leave it out of "
    "--namespaces; /proc/self/ns lists those that it has",
    ("clone3", errno.ENOSYS): "the kernel is older than 5.3, or a container's seccomp filter "
    "refuses it: run it on the machine itself",
    ("unshare", errno.EINVAL): "this kernel has no time namespaces (CONFIG_TIME_NS, Linux 5.6): "
    "leave time out of --namespaces",
    ("unshare", errno.EPERM): "a time namespace takes CAP_SYS_ADMIN: run it with sudo, or add user "
    "to --namespaces",
    ("sethostname", errno.EINVAL): "a host name has at most 64 bytes: choose a shorter --hostname",
    ("sethostname", errno.EPERM): "it takes CAP_SYS_ADMIN over the host name",
    ("umount2", errno.EINVAL): "it is no mount of this namespace",
    ("pivot_root", errno.EBUSY): "ROOT can't be the host's own /: `labrun rootfs DIR` makes "
    "another",
    ("mknod", errno.EPERM): "making devices takes CAP_MKNOD, and a devices cgroup may forbid it: "
    "with user in --namespaces the host's are mounted instead",
    ("bridge", errno.EEXIST): "the host has a link of that name that isn't ours: rename it with "
    "`ip link set labrun0 name OTHER`, or say --net none",
    ("address", errno.EADDRINUSE): "another container has it: end one, or name another --ip",
    ("address", errno.EADDRNOTAVAIL): "it is not on the containers' network, whose .1 is the "
    "bridge",
    ("subnet", errno.EADDRNOTAVAIL): "the host has routes to all networks that the bridge could "
    "have: say --net none, or --net host",
    ("RTM_NEWLINK", errno.EPERM): "changing a network takes CAP_NET_ADMIN: say --net host",
    ("RTM_NEWLINK", errno.EOPNOTSUPP): "the kernel has no such kind of link: `modprobe veth bridge`"
    ", or say --net none",
    ("execve", errno.E2BIG): "arguments and environment are longer than the stack limit allows",
    ("execve", errno.ETXTBSY): "somebody has the file open for writing: close it first",
    ("execve", errno.ELOOP): "too many links, or a loop of them, on the way to it",
}

MACHINES = {3: "i386", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V"}
"""The commonest e_machine values of elf(5)."""
USUAL = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin")


def explain(error: OSError, container: Container) -> str:
    """Return the cause of a failed call and what to do about it, or "" where we know no more."""
    if why := container.why(error):
        return why
    call = str(error.filename).partition("(")[0]
    if call == "chdir" and f'"{container.root}"' in str(error.filename) and not container.workdir:
        call = "chroot"  # a later stage steps into ROOT before it makes it the root
    if cause := CAUSES.get((call, error.errno or 0)):
        return cause
    if call == "execve":
        return why_not_executed(error, container)
    if why := why_no_namespace(call, error):
        return why
    return why_not_mounted(call, error, container) or why_not_written(call, error)


SYSCTLS = (
    # file below /proc/sys, the value that forbids it, what it is about
    ("kernel/unprivileged_userns_clone", "0", "user namespaces for ordinary users"),
    ("user/max_user_namespaces", "0", "user namespaces"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "what ordinary users may do in theirs"),
)
"""What a distribution forbids user namespaces with. The first is Debian's, the last Ubuntu's."""


def why_no_namespace(call: str, error: OSError) -> str:
    """Return which setting of this system forbids a namespace, or what it takes to have one."""
    if call == "clone3" and error.errno == errno.ENOSPC:
        full = [limit for limit in sorted(os.listdir("/proc/sys/user")) if "_namespaces" in limit]
        low = [limit for limit in full if sysctl(f"user/{limit}") == "0"] or ["max_*_namespaces"]
        return f"no more of them are allowed: sysctl user.{low[0]} decides"
    if error.errno not in (errno.EPERM, errno.EACCES):
        return ""
    wants_user = "CLONE_NEWUSER" in str(error.filename)
    if os.geteuid() != 0 or wants_user or call != "clone3":
        for name, forbidden, what in SYSCTLS:
            if sysctl(name) == forbidden and (call != "clone3" or wants_user):
                return f"this system forbids {what}: sysctl {name.replace('/', '.')} decides"
    if call == "clone3" and not wants_user:
        return (
            "namespaces take CAP_SYS_ADMIN, which root has: run it with sudo, or add user to "
            "--namespaces and say --net none"
        )
    return ""


def sysctl(name: str) -> str:
    """Return a setting of the kernel's, or "" where it has none of that name. See proc_sys(5)."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def why_not_mounted(call: str, error: OSError, container: Container) -> str:
    """Return why a root of its own, or what is mounted there, was refused. See mount(2)."""
    words = str(error.filename)
    place = words.partition('("')[2].partition('"')[0]
    if call == "open" and place in ("proc", "sys", "dev"):
        if error.errno == errno.ENOENT:
            return f"ROOT has no /{place} to mount it on: `mkdir {container.root}/{place}`"
        return f"ROOT's /{place} is not a directory: a link would lead the mount elsewhere"
    if call == "mount" and error.errno == errno.ENODEV:
        return "this kernel hasn't that file system: see /proc/filesystems"
    if call == "mount" and "MS_BIND|MS_REC" in words and place == container.root:
        return CAUSES.get(("chroot", error.errno or 0), "")
    if call == "mount" and error.errno in (errno.EPERM, errno.EACCES):
        if place in ("proc", "sysfs"):
            return (
                f"parts of the host's {place} are hidden under other mounts, and a whole one would "
                "be too revealing for a user namespace: run it where nothing is mounted over them"
            )
        return "mounting takes CAP_SYS_ADMIN: run it with sudo, or add user to --namespaces"
    if call == "pivot_root" and error.errno == errno.EINVAL:
        return why_not_pivoted()
    return ""


def why_not_pivoted() -> str:
    """Return which of the reasons of pivot_root(2) for EINVAL it was."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split() for line in file]
    roots = [row for row in rows if row[4] == "/"]
    if any("shared:" in word for row in roots for word in row[6 : row.index("-")]):
        return "the mount of / is shared: make it private first, MS_REC|MS_PRIVATE"
    if any(row[row.index("-") + 1] == "rootfs" for row in roots):
        return "the host's root is the boot loader's ramfs, which can't be moved: boot from a disk"
    return "where we stand is no mount of its own"


def why_not_written(call: str, error: OSError) -> str:
    """Return why a file of the kernel's was not to be written. See user_namespaces(7)."""
    words = str(error.filename)
    if call == "write" and "id_map" in words:
        return "those users are not the caller's to lend: /proc/self/uid_map lists who is"
    if "timens_offsets" in words and error.errno == errno.ERANGE:
        return "no clock goes that far: choose another --boottime"
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
