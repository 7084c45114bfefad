"""Where labrun keeps things."""

import os
import shutil
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

MADE = (".git", ".venv", "__pycache__", ".*_cache", "/rootfs", "/site")
"""What a copy of the checkout goes without: its history, and what was made in it."""


def cache() -> Path:
    """Return the folder for what can be made again: root file systems, downloads.

    `LABRUN_CACHE` if set; for root the system's own cache, since a folder of root's in a user's
    home is one that the user can't remove; else the XDG Base Directory Specification's place.
    """
    if chosen := os.environ.get("LABRUN_CACHE"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/cache/labrun")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labrun"


def state(home: Path) -> Path:
    """Return the folder for what can't be made again: how far a student has come.

    `home` is the student's; see the XDG Base Directory Specification, which has a relative
    XDG_STATE_HOME ignored.
    """
    chosen = os.environ.get("XDG_STATE_HOME", "")
    return (Path(chosen) if chosen.startswith("/") else home / ".local/state") / "labrun"


def copy_checkout(target: Path) -> None:
    """Copy the checkout to `target`, without what is MADE."""
    anywhere = shutil.ignore_patterns(*(name for name in MADE if "/" not in name))
    at_the_top = {name.removeprefix("/") for name in MADE if name.startswith("/")}

    def made(folder: str, names: list[str]) -> set[str]:
        top = at_the_top if Path(folder) == CHECKOUT else set()
        return {*anywhere(folder, names), *(top & {*names})}

    shutil.copytree(CHECKOUT, target, symlinks=True, ignore=made)
