"""The command `stage5`."""

from __future__ import annotations

from stages.stage5_container.commands import main
from stages.stage5_container.options import OPTIONS

__all__ = ["OPTIONS", "main"]
