"""The command `stage4`."""

from __future__ import annotations

from stages.stage4_overlayfs.commands import main

__all__ = ["main"]
