"""The runtimes' modules in one file, compiled: a start takes them from there.

To look for 90 modules one by one takes Python as long as a container takes. A module whose source
has changed since is found the usual way, so a student's own change counts at once.

Called by the starters that labs/starters.py writes.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    Row = tuple[str, str, tuple[int, int], int, int]
    """Source file; a package's folder, else ""; when the source changed, in ns, and its bytes;
    where in the file its code begins and ends."""

LENGTH = 8
"""Bytes in front that say how long the table of rows is."""


class Bundle:
    """Finds modules in the file, and loads them."""

    def __init__(self, rows: dict[str, Row], code: memoryview) -> None:
        """Take the rows by module, and what they are about."""
        self.rows, self.code = rows, code

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module is loaded; None where it isn't here, or no longer as it is here."""
        if (row := self.rows.get(name)) is None:
            return None
        file, folder, known, _, _ = row
        try:
            status = posix.stat(file)
        except OSError:
            return None
        if (status.st_mtime_ns, status.st_size) != known:
            return None
        loader: Any = self  # for typeshed a loader has a base class
        spec = ModuleSpec(name, loader, origin=file, is_package=bool(folder))
        spec.has_location = True
        if folder:
            spec.submodule_search_locations = [folder]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code."""
        *_, start, end = self.rows[module.__name__]
        exec(marshal.loads(self.code[start:end]), module.__dict__)


def use(file: str) -> None:
    """Have modules taken from a bundle; where there is none for this Python, all is as usual."""
    try:
        fd = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    try:
        data = memoryview(posix.read(fd, posix.fstat(fd).st_size))
    finally:
        posix.close(fd)
    length = int.from_bytes(data[:LENGTH], "little")
    magic, rows = marshal.loads(data[LENGTH : LENGTH + length])
    if magic == MAGIC_NUMBER:
        sys.meta_path.insert(0, Bundle(rows, data[LENGTH + length :]))


def write(file: Path, names: Iterable[str]) -> None:
    """Write a bundle of modules that this process has loaded."""
    rows: dict[str, Row] = {}
    code = b""
    for name in names:
        source = str(sys.modules[name].__file__)
        status = posix.stat(source)
        with open(source, "rb") as opened:
            compiled = compile(opened.read(), source, "exec", dont_inherit=True)
        package = hasattr(sys.modules[name], "__path__")
        folder = source.rpartition("/")[0] if package else ""
        known, start = (status.st_mtime_ns, status.st_size), len(code)
        code += marshal.dumps(compiled)
        rows[name] = (source, folder, known, start, len(code))
    table = marshal.dumps((MAGIC_NUMBER, rows))
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(len(table).to_bytes(LENGTH, "little") + table + code)
    new.replace(file)
