"""The ledger: what a run makes on the machine is written down first, so that it can be found again.

A run that is killed cannot tidy up. Its page in the ledger says what was its own: nothing is ever
removed because of how it is called. The page is locked while the run lives; the kernel drops the
lock with the process, however it ends.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/run/labrun")


class Page:
    """What one run has made, or is about to make."""

    def __init__(self, file: Path, entries: list[tuple[str, str]]) -> None:
        """Keep `entries`, each a kind and a path, in `file`."""
        self.file, self.entries = file, entries

    def add(self, kind: str, path: Path) -> None:
        """Write down a thing before it is made."""
        self.entries.append((kind, str(path)))
        # Pages only grow, and one write(2) carries the whole: none is ever found half written.
        with open(self.file, "r+", encoding="utf-8") as file:
            file.write(json.dumps(self.entries))

    def left(self) -> list[tuple[str, Path]]:
        """Return what is still there, the last made first."""
        there = [(kind, Path(path)) for kind, path in reversed(self.entries)]
        return [(kind, path) for kind, path in there if os.path.lexists(path)]

    def remove(self) -> None:
        """Remove what is still there, and the page. Raises OSError where something can't go."""
        for kind, path in self.left():
            if kind == "cgroup":
                # Deepest first.
                for group in [*sorted((p for p in path.rglob("*/")), reverse=True), path]:
                    remove_group(group)
            elif not path.is_symlink():
                shutil.rmtree(path)
        self.file.unlink()


def remove_group(path: Path) -> None:
    """Remove a control group, unless it has gone by itself: its keeper may come first.

    Raises OSError, EBUSY, where it still has processes. See rmdir(2).
    """
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """Open a page for this run, and take it out at the end."""
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    file = FOLDER / f"{os.getpid()}-{os.urandom(4).hex()}.json"
    draft = file.with_suffix(".draft")
    with open(draft, "w", encoding="utf-8") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        locked.write("[]")
        locked.flush()
        try:
            # It gets its name only now: a page is never found without its lock.
            draft.rename(file)
            yield Page(file, [])
        finally:
            file.unlink(missing_ok=True)
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def abandoned() -> Iterator[list[Page]]:
    """Give the pages whose run is dead, and keep others from taking them up meanwhile."""
    with contextlib.ExitStack() as stack:
        pages = []
        for file in sorted(FOLDER.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                held = stack.enter_context(open(file, encoding="utf-8"))
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its run lives
                pages.append(Page(file, [(kind, path) for kind, path in json.load(held)]))
        yield pages
