"""Files: the root, the working directory, open descriptors, mounts, and the classic way out."""

import os

from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.runtimes import Request, Trial
from checks.visitor import walk_up


def inode(path: str) -> tuple[int, int]:
    """Return the device and inode of what a path leads to: what a directory *is*."""
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


def named(identity: tuple[int, int]) -> str:
    """Return device and inode as evidence."""
    device, number = identity
    return f"device {os.major(device)}:{os.minor(device)} inode {number}"


def reaches(path: str, secret: str) -> bool:
    """Say whether this process can read the secret at `path`."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read() == secret
    except (OSError, UnicodeDecodeError):
        return False


@probe("fs.root")
def root(trial: Trial) -> Finding:
    """A canary outside ROOT cannot be reached, and `/` inside is ROOT itself."""
    bench, canaries = trial.bench, trial.bench.canaries
    with trial.started() as container:
        inside = inode(f"/proc/{container.pid}/root/")
        wanted = inode(bench.path(bench.root))
        paths = [canaries.file, "/" + "../" * 40 + canaries.file.lstrip("/")]
        reached = container.visit(lambda: [p for p in paths if reaches(p, canaries.secret)])
        evidence = [f"/proc/{container.pid}/root is {named(inside)}, ROOT is {named(wanted)}"]
        if reached:
            evidence.append(f"the canary outside ROOT was read inside, as {reached[0]}")
        else:
            evidence.append(f"{canaries.file}, outside ROOT, cannot be opened inside")
        return wall(inside == wanted and not reached, *evidence)


@probe("fs.cwd")
def cwd(trial: Trial) -> Finding:
    """The command starts at `/` of its root, so that no relative path leads out."""
    with trial.started() as container:
        process = f"/proc/{container.pid}"
        here = os.open(f"{process}/cwd", os.O_PATH | os.O_DIRECTORY)
        try:
            way = list(walk_up(here))
        finally:
            os.close(here)
        top = inode(f"{process}/root/")
        if top not in way:
            where = os.readlink(f"{process}/cwd")
            return wall(
                False,
                f"{process}/cwd is {where}, and `..` leads from there to {named(way[-1])}",
                f"without passing {process}/root, {named(top)}",
            )
        return wall(
            way[0] == top, f"{process}/cwd is {named(way[0])}, {process}/root is {named(top)}"
        )


@probe("fs.fds")
def fds(trial: Trial) -> Finding:
    """Nothing above descriptor 2 is inherited, and none is a way to a working directory."""
    canary = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(canary, True)
    try:
        with trial.started(pass_fds=(canary,)) as container:
            directory = f"/proc/{container.pid}/fd"
            extra = {
                fd: os.readlink(f"{directory}/{fd}")
                for fd in sorted(os.listdir(directory), key=int)
                if int(fd) > 2
            }
        if extra:
            shown = ", ".join(f"{fd} -> {target}" for fd, target in extra.items())
            return wall(
                False,
                f"the runtime was started with a host directory open as descriptor {canary}",
                f"{directory} still holds {shown}",
            )
        workdir = f"/proc/self/fd/{canary}"
        request = Request(["/bin/sh", "-c", "echo ran"], workdir=workdir)
        stdout = trial.run(request, pass_fds=(canary,)).stdout
        return wall(
            b"ran" not in stdout,
            f"{directory} holds 0, 1 and 2 only, though descriptor {canary} was a host directory",
            f"--workdir {workdir}: " + ("accepted" if b"ran" in stdout else "refused"),
        )
    finally:
        os.close(canary)


@probe("fs.chroot-escape")
def chroot_escape(trial: Trial) -> Finding:
    """The second chroot, from a directory kept open, leads to no canary."""
    canaries = trial.bench.canaries

    def escape() -> str:
        kept = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        below = next(e.name for e in os.scandir("/") if e.is_dir(follow_symlinks=False))
        try:
            # The root moves below us: we stand outside of it, and `..` has nowhere to stop.
            os.chroot(f"/{below}")
        except PermissionError:
            return "chroot(2) is refused inside: EPERM"
        os.fchdir(kept)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        return "out" if reaches(canaries.file, canaries.secret) else "`..` ends at the same root"

    with trial.started() as container:
        ending = container.visit(escape)
    if ending == "out":
        return wall(False, f"chroot to a subdirectory, `..` 64 times: {canaries.file} was read")
    return wall(True, f"chroot to a subdirectory, `..` 64 times: {ending}")


@probe("fs.mounts")
def mounts(trial: Trial) -> Finding:
    """Neither the host's root nor the canary mount is among the container's mounts."""
    bench = trial.bench
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def table() -> list[str]:
        # Its own mountinfo, by the judge's /proc: inside there may be none, or a false one.
        me = os.readlink("self", dir_fd=proc)
        with open(os.open(f"{me}/mountinfo", os.O_RDONLY, dir_fd=proc), encoding="utf-8") as file:
            return file.read().splitlines()

    try:
        with trial.started() as container:
            shared, evidence = same_namespace(trial, container.pid, "mnt")
            inside = container.visit(table, root=False)
        outside = bench.see(table)
    finally:
        os.close(proc)
    # Device and root of a mount say what is mounted, whoever mounted it where.
    host_root = next(line.split()[2:4] for line in outside if line.split()[4] == "/")
    canary = [line for line in inside if bench.canaries.mount and bench.canaries.mount in line]
    leaks = [line for line in inside if line.split()[2:4] == host_root] + canary
    if leaks:
        evidence += f"; {len(inside)} mounts, among them: {leaks[-1]}"
    return wall(not shared and not leaks, evidence)
