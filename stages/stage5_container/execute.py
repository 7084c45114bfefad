"""`exec`: one more command in a container that runs, as closed in as the first.

What runs there already may be hostile, and wait for somebody to come in from outside. So whoever
comes in has nothing in its hands: no descriptor of the host's (CVE-2024-21626), no program file
that can be reached through /proc/PID/exe (CVE-2019-5736), and loads nothing more once it is inside.
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.command_line import FAILED, failed
from stages.stage1_chroot.process import become_command, hold_signals, release_signals
from stages.stage2_namespaces.barrier import Barrier, Waiting
from stages.stage2_namespaces.ids import become_root
from stages.stage2_namespaces.namespaces import FLAGS
from stages.stage5_container.confine import confine, identify
from stages.stage5_container.process import close_all_but, enter_workdir, home_of
from stages.stage5_container.state import is_alive
from stages.stage5_container.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stages.stage5_container.monitor import Monitor
    from stages.stage5_container.options import Contained

LINKS = FLAGS | {"time": linux.CLONE_NEWTIME}
"""What the namespaces are called in /proc/PID/ns."""


def execute(container: Contained, facts: dict[str, Any], monitor: Monitor) -> int:
    """Run the container's `command` beside the one that runs; return its exit status."""
    signals = hold_signals()
    # The number may be another process's soon; the descriptor stays this one's.
    pidfd = linux.pidfd_open(facts["pid"])
    if not is_alive(facts):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), container.name)
    wanted = differing(facts["pid"])
    # From before we are seen inside until execve(2): nobody there may look into us by /proc.
    linux.set_dumpable(0)
    monitor.be_ready()
    with Streams(container, monitor) as streams:
        barrier = Barrier()
        # A process stays in its pid namespace for good; its children are born in another.
        first = wanted & (linux.CLONE_NEWPID | (linux.CLONE_NEWUSER if container.rootless else 0))
        if first:
            linux.setns(pidfd, first)
        child = linux.fork()
        if child == 0:
            enter(container, facts, signals, barrier, streams, (pidfd, wanted & ~first))
        with Waiting(child, barrier):
            barrier.open("")
            status = streams.serve(child)
    os.close(pidfd)
    release_signals(signals)
    return status


def differing(pid: int) -> int:
    """Return the CLONE_NEW… flags of the namespaces that a process doesn't share with us."""
    flags = 0
    for name, flag in LINKS.items():
        ours, theirs = (f"/proc/{who}/ns/{name}" for who in ("self", pid))
        if os.path.exists(ours) and os.stat(ours).st_ino != os.stat(theirs).st_ino:
            flags |= flag
    return flags


def enter(
    container: Contained, facts: dict[str, Any], signals: set[int], barrier: Barrier,
    streams: Streams, namespaces: tuple[int, int],
) -> None:  # fmt: skip
    """Be the child: join what the container is made of, step by step, and become the command."""
    try:
        barrier.wait()
        # Groups first: from inside there is no way to them.
        for kind, path in facts["groups"].items():
            linux.write_file(f"{path}/{'tasks' if kind else 'cgroup.procs'}", "0")
        # All at once, and the mounts with them: / and the working directory are the container's.
        if namespaces[1]:
            linux.setns(*namespaces)
        if "user" in container.namespaces:
            become_root(container.rootless)
        container.identity = who(container.user)
        container.environment.setdefault(b"HOME", home_of("/", container.identity[0]))
        streams.settle(first=False)
        close_all_but(barrier.reader, *streams.kept)
        enter_workdir(container.workdir or "/")
        confine(container)
        barrier.die_with_runtime()
        release_signals(signals)
        become_command(container.command, container.environment)
    except OSError as error:
        streams.fail()
        failed(error, container)
    finally:
        # Whatever went wrong, this process must never go on as the parent.
        os._exit(FAILED)


def who(user: str) -> tuple[int, int, list[int]]:
    """Return who a user is, by the files of the container that we are in; or raise OSError."""
    try:
        return identify("/", user)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), "exec") from None
