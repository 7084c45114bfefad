"""The command `stage2`."""

from __future__ import annotations

import os
import sys

from stages.command_line import serve
from stages.stage2_namespaces.options import OPTIONS, Isolated
from stages.stage2_namespaces.runtime import run


def main() -> None:
    """Run `stage2` with this process's arguments, and end it."""
    status = serve("stage2", OPTIONS, run, sys.argv[1:], Isolated)
    # Nothing is left to flush or close, and taking an interpreter down in order costs 2 ms.
    os._exit(status)
