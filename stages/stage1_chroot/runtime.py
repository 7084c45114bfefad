"""The runtime of stage 1: COMMAND runs with ROOT as its root directory."""

from __future__ import annotations

import os

from stages import linux
from stages.command_line import FAILED, Container, failed
from stages.stage1_chroot.process import (
    become_command,
    close_descriptors,
    die_with,
    hold_signals,
    release_signals,
    wait_for,
)
from stages.stage1_chroot.rootfs import enter_root, enter_workdir


def run(container: Container) -> int:
    """Run the container's command in its root; return the command's exit status."""
    runtime = os.getpid()
    signals = hold_signals()
    child = linux.fork()
    if child == 0:
        contain(container, signals, runtime)
    return wait_for(child)


def contain(container: Container, signals: set[int], runtime: int) -> None:
    """Be the child: give up the host's view step by step, then become the command."""
    try:
        die_with(runtime)
        close_descriptors()
        enter_root(container.root)
        if container.workdir:
            enter_workdir(container.workdir)
        release_signals(signals)
        become_command(container.command, container.environment)
    except OSError as error:
        failed(error, container)
    finally:
        # Whatever went wrong, this process must never go on as the parent.
        os._exit(FAILED)
