"""What a killed `stage4` has left in the store of images: nothing that a name leads to.

The store is the one that `LABRUN_STORE` chooses, or root's own. Who uses one shares its lock.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from stages.stage4_overlayfs.more.leftovers import leftovers, remove_leftovers
from stages.stage4_overlayfs.options import store_folder
from stages.stage4_overlayfs.store import Store


def left() -> list[str]:
    """Return the paths of what is left: containers, and files that were being written."""
    return [path for store in _idle() for path in leftovers(store)]


def remove() -> None:
    """Remove it. Raises OSError."""
    for store in _idle():
        remove_leftovers(store)


def _idle() -> Iterator[Store]:
    """Yield the store, where there is one that nobody is adding to: a build may take long."""
    root = store_folder()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, BlockingIOError):
        with Path(root, "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Store(root)
