"""What is kept beside the upper directory so that hard links survive a copy-up.

A lower file with several names that is copied up under one of them gets an entry in an index, named
after what the lower file system calls the file. Under its other names the mount then shows the
copy, though the upper directory doesn't have those names. Overlay with `index=on` has the index in
its work directory; AUFS calls the entries pseudo-links, and has them in `.wh..wh.plnk`.
"""

from __future__ import annotations

import os

from stages import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage4_overlayfs.more.branches import Marks


class Index:
    """The files of one container that were copied up under one of several names."""

    def __init__(self, folder: str) -> None:
        """Read the index that is in the directory `folder`, if it is there."""
        self.folder = folder
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            names = []  # not mounted yet, or without
        # Others begin with #: overlay has them on their way in or out.
        self.names = {name for name in names if not name.startswith("#")}

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return bool(self.names)

    def find(self, lower: str) -> str:
        """Return where a lower file's bytes are now: itself, or its copy."""
        if not self.names:
            return lower
        # Overlay's names are a header with the file system's UUID, then the handle (ovl_fh).
        handle = linux.name_to_handle_at(lower).hex()
        found = next((name for name in self.names if name.endswith(handle)), None)
        return f"{self.folder}/{found}" if found else lower

    def add(self, lower: str, copy: str) -> None:
        """Note that the lower file was copied."""
        name = linux.name_to_handle_at(lower).hex()
        os.link(copy, f"{self.folder}/{name}", follow_symlinks=False)
        self.names.add(name)


def has_redirect(folder: str, marks: Marks) -> bool:
    """Say whether a directory was renamed, so that part of it is under another name below."""
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                if marks.redirect(entry.path):
                    return True
                waiting.append(entry.path)
    return False
