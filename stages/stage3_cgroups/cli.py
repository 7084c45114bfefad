"""The command `stage3`."""

from __future__ import annotations

import os
import sys

from stages.command_line import serve
from stages.stage3_cgroups.options import OPTIONS, Limited
from stages.stage3_cgroups.runtime import run


def main() -> None:
    """Run `stage3` with this process's arguments, and end it."""
    status = serve("stage3", OPTIONS, run, sys.argv[1:], Limited)
    # Nothing is left to flush or close, and taking an interpreter down in order costs 2 ms.
    os._exit(status)
