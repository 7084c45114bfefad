"""The command `stage1`."""

from __future__ import annotations

import os
import sys

from stages.command_line import OPTIONS, serve
from stages.stage1_chroot.runtime import run


def main() -> None:
    """Run `stage1` with this process's arguments, and end it."""
    status = serve("stage1", OPTIONS, run, sys.argv[1:])
    # Nothing is left to flush or close, and taking an interpreter down in order costs 2 ms.
    os._exit(status)
