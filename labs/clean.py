"""`labrun clean`: remove what a killed run left, and nothing that is not known to be ours.

What a check or a demo makes is in the ledger. What the runtimes share (labs/shared.py) is tagged,
and so is what one was to remove from the store of images (labs/stores.py). Devices of that store
(labs/devices.py) are ours by the files that they are made of.
"""

import os
import sys
from functools import partial
from pathlib import Path

import typer

from checks import ledger
from labs import devices, privilege, shared, stores, texts
from labs.errors import FAILED


def command(*, yes: bool, dry_run: bool) -> int:
    """Show what runs that are dead have left, ask on a terminal, and remove it."""
    if os.geteuid() != 0:
        privilege.become_root(sys.argv[1:])
    with ledger.abandoned() as pages:
        groups = shared.empty_groups()
        left = [str(path) for page in pages for _, path in page.left()] + groups
        left += stores.left() + devices.unused()
        for path in left:
            print(texts.say("clean.would" if dry_run else "clean.left", path=path))
        for thing in shared.unused():
            left.append(thing)
            print(texts.say("clean.would" if dry_run else "clean.shared", path=thing))
        if not left:
            print(texts.say("clean.nothing"))
        if dry_run:
            return 0
        if left and not yes and sys.stdin.isatty():
            typer.confirm(texts.say("clean.ask", count=len(left)), abort=True)
        failed = 0
        # rmdir(2) refuses a group that a container has taken in the meantime.
        removals = [page.remove for page in pages]
        removals += [partial(ledger.remove_group, Path(group)) for group in groups]
        for remove in [*removals, stores.remove, devices.remove, shared.remove]:
            try:
                remove()
            except OSError as error:
                failed += 1
                why = texts.say("clean.busy", path=error.filename, reason=error.strerror)
                print(f"labrun: {why}", file=sys.stderr)
        if left and not failed:
            print(texts.say("clean.done", count=len(left)))
    return FAILED if failed else 0
