"""The command `stage4`."""

from __future__ import annotations

from stages.stage4_overlayfs.commands import main
from stages.stage4_overlayfs.options import OPTIONS

__all__ = ["OPTIONS", "main"]
