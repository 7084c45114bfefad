"""The runtime of stage 4: COMMAND runs on an image, and what it writes is in a layer of its own."""

from __future__ import annotations

import os

from stages import linux
from stages.command_line import FAILED, failed
from stages.stage1_chroot.process import (
    become_command,
    hold_signals,
    release_signals,
    wait_for,
)
from stages.stage1_chroot.rootfs import enter_root, enter_workdir
from stages.stage2_namespaces.barrier import Barrier, Waiting
from stages.stage2_namespaces.ids import become_root, map_ids
from stages.stage2_namespaces.mounts import furnish, leave_host, stand_in
from stages.stage2_namespaces.namespaces import fork_into, shift_boottime
from stages.stage2_namespaces.network import Cable, bring_up
from stages.stage3_cgroups.cgroup import ControlGroup
from stages.stage3_cgroups.more.usage import Usage
from stages.stage3_cgroups.rate import shape
from stages.stage3_cgroups.report import explain
from stages.stage4_overlayfs.more.aside import step_aside
from stages.stage4_overlayfs.process import become, close_all_but
from stages.stage4_overlayfs.room import cover
from stages.stage4_overlayfs.stack import Stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.options import Stacked


def run(container: Stacked) -> int:
    """Run the container's command on its image; return the command's exit status."""
    step_aside(container)
    with Stack(container) as stack:
        container.root = stack.root
        return run_on(container)


def run_on(container: Stacked) -> int:
    """Run the command in the directory `root`, which is its own; return its exit status."""
    signals = hold_signals()
    with ControlGroup(container.limits) as group:
        barrier = Barrier()
        child = fork_into(container.namespaces - container.entered, group.door)
        if child == 0:
            contain(container, signals, barrier, group)
        with Waiting(child, barrier):
            if "user" in container.namespaces - container.entered:
                map_ids(child)
            with Cable(child, container) as cable:
                if container.net_rate:
                    shape(cable.name, container.net_rate)
                barrier.open(cable.address)
                status = wait_for(child)
        if container.explain:
            explain(container.limits, group.read(Usage()), status)
    release_signals(signals)
    return status


def contain(container: Stacked, signals: set[int], barrier: Barrier, group: ControlGroup) -> None:
    """Be the child: join the group, give up the host's view step by step, become the command."""
    try:
        group.join()
        address = barrier.wait()
        new = container.namespaces
        if "cgroup" in new:
            linux.unshare(linux.CLONE_NEWCGROUP)
        if "time" in new:
            shift_boottime(container.boottime)
        if "net" in new:
            bring_up(address)
        if container.net_rate:
            shape("eth0", container.net_rate)
        if container.hostname:
            linux.sethostname(container.hostname)
        if "mnt" in new:
            stand_in(container.root)
        else:
            enter_root(container.root)
        if "user" in new:
            become_root(container.rootless)
        if "mnt" in new:
            furnish(container)
            cover(container)
            leave_host()
        close_all_but(barrier.reader)
        if container.workdir:
            enter_workdir(container.workdir)
        if container.user:
            become(*container.user)
        barrier.die_with_runtime()
        release_signals(signals)
        become_command(container.command, container.environment)
    except OSError as error:
        failed(error, container)
    finally:
        # Whatever went wrong, this process must never go on as the parent.
        os._exit(FAILED)
