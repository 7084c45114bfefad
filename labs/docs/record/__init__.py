"""`labrun docs --refresh`: run the real thing, and write what the pages show of it.

Everything goes to docs/generated, as plain files that the pages quote, and to docs/LANGUAGE for
pages that are generated whole. A test runs the same and fails where a file differs.
"""

import os
import shutil
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path

from labs import privilege, rootfs
from labs.errors import CANNOT, FAILED, Refused
from labs.paths import CHECKOUT
from labs.stages import BUILT
from labs.texts import LANGUAGES, say

DOCS = CHECKOUT / "docs"
GENERATED = DOCS / "generated"
TRIES = 3
"""How often a stage is recorded: what other loads of the machine disturbed is no recording."""


def command() -> int:
    """Write all of it afresh, and say what changed; return the exit status."""
    privilege.become_root(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="labrun-docs-") as folder:
        fresh = Path(folder)
        record(fresh)
        changed = differing(fresh)
        for name in changed:
            _replace(fresh / name, DOCS / name)
            print(say("docs.written", file=f"docs/{name}"))
    print(say("docs.refreshed", changed=len(changed)))
    return 0


def record(target: Path) -> None:
    """Write every generated file of docs/ below `target`. Raises Refused where it can't be."""
    from labs import diff
    from labs.docs import commands
    from labs.docs.record import code, labhost, pictures, tables
    from labs.docs.record.stage import CHECKED

    for language in LANGUAGES:
        _write(target / language / "commands.md", commands.page(language))
        for name, text in tables.all_of(language).items():
            _write(target / "generated" / language / name, text)
        for name, text in pictures.all_of(DOCS / "pictures", language).items():
            _write(target / "generated" / language / name, text)
    for name, text in code.all_of(DOCS / "code.toml").items():
        _write(target / "generated" / "code" / name, text)
    for older, newer in pairwise(BUILT):
        lines = "\n".join([*diff.unified(older, newer), ""])
        _write(target / "generated" / newer / "diff.txt", lines)
    place = rootfs.default()
    for stage, language in product(BUILT, LANGUAGES):
        # In a process of its own, and on a host of its own, where nothing has happened yet.
        module = [sys.executable, "-m", "labs.docs.record.stage"]
        command = [*module, stage, language, str(target / "generated")]
        environment = {"LABRUN_CACHE": os.environ.get("LABRUN_CACHE", "")}
        for _ in range(TRIES):
            try:
                status = labhost.run(command, place, environment)
            except OSError as error:
                raise Refused(str(error.filename), str(error.strerror), status=CANNOT) from None
            if not status:
                break
            shutil.rmtree(target / "generated" / language / stage, ignore_errors=True)
        else:
            raise Refused(stage, say("docs.not_recorded", status=status), status=FAILED)
    for stage in BUILT:
        (target / "generated" / stage / CHECKED).unlink()


def differing(fresh: Path) -> list[str]:
    """Return the generated files, relative to docs/, that are not as they would be written now.

    Also those that nothing writes any more; not those in which only measured figures differ.
    """
    from labs.docs.record import measured

    made = {str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file()}
    there = {str(path.relative_to(DOCS)) for path in GENERATED.rglob("*") if path.is_file()}
    return sorted(
        name
        for name in made | there
        if measured.comparable(name, fresh, DOCS)
        and (
            name not in made
            or not (DOCS / name).is_file()
            or not measured.alike(DOCS / name, fresh / name)
        )
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _replace(fresh: Path, target: Path) -> None:
    """Write a file as the checkout's owner has its files; one that nobody writes any more goes."""
    if not fresh.exists():
        target.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(fresh.read_bytes())
    owner = CHECKOUT.stat()
    for path in (target, *(p for p in target.parents if p.is_relative_to(DOCS))):
        os.chown(path, owner.st_uid, owner.st_gid)
