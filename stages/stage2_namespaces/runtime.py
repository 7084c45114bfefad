"""The runtime of stage 2: COMMAND runs in namespaces of its own, with ROOT as its root."""

from __future__ import annotations

import os

from stages import linux
from stages.command_line import FAILED, failed
from stages.stage1_chroot.process import (
    become_command,
    close_descriptors,
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage2_namespaces.options import Isolated


def run(container: Isolated) -> int:
    """Run the container's command in namespaces of its own; return the command's exit status."""
    signals = hold_signals()
    barrier = Barrier()
    child = fork_into(container.namespaces)
    if child == 0:
        contain(container, signals, barrier)
    with Waiting(child, barrier):
        if "user" in container.namespaces:
            map_ids(child)
        with Cable(child, container) as cable:
            barrier.open(cable.address)
            return wait_for(child)


def contain(container: Isolated, signals: set[int], barrier: Barrier) -> None:
    """Be the child: give up the host's view step by step, then become the command."""
    try:
        address = barrier.wait()
        new = container.namespaces
        if "time" in new:
            shift_boottime(container.boottime)
        if "net" in new:
            bring_up(address)
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
            leave_host()
        barrier.die_with_runtime()
        close_descriptors()
        if container.workdir:
            enter_workdir(container.workdir)
        release_signals(signals)
        become_command(container.command, container.environment)
    except OSError as error:
        failed(error, container)
    finally:
        # Whatever went wrong, this process must never go on as the parent.
        os._exit(FAILED)
