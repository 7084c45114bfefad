"""The runtime of stage 5: a container with a life of its own, which others can ask about.

Behind each step is the stage that it came from.
"""

from __future__ import annotations

import os

from stages import linux
from stages.command_line import FAILED, failed
from stages.light import seal
from stages.stage1_chroot.process import become_command, hold_signals, release_signals
from stages.stage1_chroot.rootfs import enter_root
from stages.stage2_namespaces.barrier import Barrier, Waiting
from stages.stage2_namespaces.ids import become_root, map_ids
from stages.stage2_namespaces.mounts import leave_host, stand_in
from stages.stage2_namespaces.namespaces import fork_into, shift_boottime
from stages.stage3_cgroups.cgroup import ControlGroup
from stages.stage3_cgroups.more.usage import Usage
from stages.stage3_cgroups.rate import shape
from stages.stage3_cgroups.report import explain
from stages.stage4_overlayfs.more.aside import step_aside
from stages.stage4_overlayfs.room import cover
from stages.stage5_container.confine import confine, device_rules, furnish
from stages.stage5_container.more.neighbour import other_network
from stages.stage5_container.network import Plug, bring_up, etc_files, share_network
from stages.stage5_container.process import be_first, close_all_but, enter_workdir, hold_sources
from stages.stage5_container.stack import Stack
from stages.stage5_container.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage5_container.monitor import Monitor
    from stages.stage5_container.options import Contained


def live(container: Contained, monitor: Monitor) -> int:
    """Run the container's command, as often as its policy wants; return its last exit status."""
    step_aside(container)  # 4
    with Stack(container) as stack:  # 4, and 5: it can be there again
        container.root = stack.root
        container.rights.prepare(container.store)  # 5
        signals = hold_signals()  # 1
        monitor.look_after(stack.state)  # 5
        status = run_once(container, signals, monitor)
        while monitor.wants_again(status):
            status = run_once(container, signals, monitor)
        stack.state.ended(status)
    monitor.over(status)
    release_signals(signals)
    return status


def run_once(container: Contained, signals: set[int], monitor: Monitor) -> int:
    """Run the command in the directory `root`, which is its own; return its exit status."""
    limited = device_rules(ControlGroup(container.limits))  # 3, 5
    with limited as group, Streams(container, monitor) as streams:  # 5
        barrier, shared = Barrier(), other_network(container)  # 2, 5
        child = fork_into(container.namespaces - container.entered, group.door)  # 2
        if child == 0:
            contain(container, signals, barrier, group, streams, shared)
        with Waiting(child, barrier):
            if "user" in container.namespaces - container.entered:
                map_ids(child)  # 2
            with Plug(child, container) as plug:  # 2, and 5: ports, names, bridges
                if container.net_rate:
                    shape(plug.name, container.net_rate)  # 3
                if plug.address:
                    etc_files(container, plug.address)  # 5
                monitor.made(group, plug)  # 5
                barrier.open(plug.address)
                status = streams.serve(child)
        if shared is not None:
            os.close(shared)
        usage = group.read(Usage())  # 3
        monitor.counted(usage)  # 5
        if container.explain:
            explain(container.limits, usage, status)
    return status


def contain(
    container: Contained,
    signals: set[int],
    barrier: Barrier,
    group: ControlGroup,
    streams: Streams,
    shared: int | None,
) -> None:
    """Be the child: join the group, give up the host's view step by step, become the command."""
    try:
        group.join()  # 3
        address = barrier.wait()  # 2
        isolate(container, address, shared)  # 2
        move_in(container)  # 1, 2, 4
        streams.settle()  # 5: a session of its own, a terminal, or pipes to whoever keeps logs
        close_all_but(barrier.reader, *streams.kept)  # 1
        if container.workdir:
            enter_workdir(container.workdir)  # 1
        confine(container)  # 5: capabilities, system calls, user
        barrier.die_with_runtime()  # 2
        if container.init:
            be_first(streams.kept)  # 5
        release_signals(signals)  # 1
        become_command(container.command, container.environment)  # 1
    except OSError as error:
        streams.fail()
        failed(error, container)
    finally:
        # Whatever went wrong, this process must never go on as the parent.
        os._exit(FAILED)


def isolate(container: Contained, address: str, shared: int | None) -> None:
    """In the child: enter what isn't entered by being born there, and make it one's own."""
    new = container.namespaces
    if "cgroup" in new:
        linux.unshare(linux.CLONE_NEWCGROUP)  # 2
    if "time" in new:
        shift_boottime(container.boottime)  # 2
    if "net" in new:
        bring_up(address)  # 2
    if shared is not None:
        share_network(shared)  # 5
    if container.net_rate:
        shape("eth0", container.net_rate)  # 3
    if container.hostname:
        linux.sethostname(container.hostname)  # 2


def move_in(container: Contained) -> None:
    """In the child: have the container's root, with what is mounted in it, and leave the host's."""
    new = container.namespaces
    seal()  # 5: from here on a module would be looked for in the container
    if "mnt" in new:
        stand_in(container.root)  # 2
    else:
        enter_root(container.root)  # 1
    if "user" in new:
        hold_sources(container)  # 5
        become_root(container.rootless)  # 2
    if "mnt" in new:
        furnish(container)  # 2, and 5: what is masked, what is read-only
        cover(container)  # 4
        leave_host()  # 2
