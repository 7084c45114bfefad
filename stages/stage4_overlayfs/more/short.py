"""Short names for directories: the options of one mount(2) have to fit into a page."""

from __future__ import annotations

import os

from stages.light import sha256

SHORTEST = 6
"""Digits: with these, all 500 layers that overlay takes fit into 4096 bytes."""


def shorten(folder: str, links: str) -> str:
    """Return the name of a link to a directory, in the folder `links`; made where there is none."""
    target = os.path.relpath(folder, links)
    name = sha256(os.fsencode(target)).hexdigest()
    for length in range(SHORTEST, len(name) + 1):
        link = f"{links}/{name[:length]}"
        try:
            os.symlink(target, link)
        except FileExistsError:
            if os.readlink(link) != target:
                continue  # another's name begins alike: take a digit more
        return name[:length]
    raise AssertionError("two directories have the same digest")
