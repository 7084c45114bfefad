"""A container's stack of layers, as its mount and the files in it say, and a picture of that.

Everything is read on the host: the mount's options in /proc/PID/mountinfo, and what lies in the
directories that they name. See the kernel's filesystems/overlayfs.rst.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from checks import mounts
from checks.bench import Bench
from labs.demo.wrap import wrap
from labs.texts import say

WIDEST = 92
MARKS = ("redirect", "opaque")
"""The attributes, behind `trusted.overlay.`, by which overlay notes what it did to a directory."""
PLAIN = str.maketrans("┌┐└┘├┤─│…·", "++++++-|~-")
"""What stands for the lines where they can't be spelled."""
DEEP = 3
"""How far below the store a directory may be that an option's relative path starts from."""


@dataclass(frozen=True)
class Entry:
    """A file in one directory of the stack, as lstat(2) tells it."""

    kind: str
    """`file`, `directory`, `whiteout` (a character device 0/0), or `other`."""
    size: int
    allocated: int
    """Bytes that it takes."""
    mode: int
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def told(self) -> bool:
        """Say whether it is there for itself, and not for what is in it."""
        return self.kind != "directory" or bool(self.marks)


Entries = Mapping[str, Entry]
"""Files by their path below the directory."""


@dataclass(frozen=True)
class Stack:
    """What a container's root is."""

    type: str
    """The file system's: `overlay`, or another."""
    options: str = ""
    """As the kernel shows them."""
    upper: str = ""
    lower: Sequence[str] = ()
    """The directories below, from the top down."""
    written: Entries = field(default_factory=dict)
    """What is in the upper directory."""
    below: Sequence[Entries] = ()
    """What is in each one below, of the folders that the upper one has, too."""
    merged: Sequence[str] = ()
    """What the container sees in these folders."""

    def option(self, name: str) -> str:
        """Return an option's value, as the kernel shows it; "" for none."""
        values = [word.partition("=") for word in self.options.split(",")]
        return next((value for key, _, value in values if key == name), "")

    @property
    def lowers(self) -> list[str]:
        """Return the directories below as the kernel shows them, from the top down."""
        words = [word.partition("=") for word in self.options.split(",")]
        # Those that fsconfig(2) was told one by one are shown so.
        added = [value for key, _, value in words if key == "lowerdir+"]
        return added or self.option("lowerdir").split(":")

    @property
    def folder(self) -> str:
        """Return the folder in which the container has changed most, "" for the top."""
        folders = [os.path.dirname(path) for path, entry in self.written.items() if entry.told]
        return max(sorted(set(folders)), key=folders.count, default="")


def look(bench: Bench, pid: int, store: str) -> Stack:
    """Return the stack of a container whose command is `pid`. Raises OSError and Hindered."""
    read = bench.see(lambda: _read(pid, store))
    below = [{path: Entry(**row) for path, row in rows.items()} for rows in read.pop("below")]
    written = {path: Entry(**row) for path, row in read.pop("written").items()}
    return Stack(**read, written=written, below=below)


def _read(pid: int, store: str) -> dict[str, Any]:
    table = mounts.parse(os.fsdecode(Path(f"/proc/{pid}/mountinfo").read_bytes()))
    root = next(mount for mount in reversed(table) if mount.point == "/")
    options = root.line.partition(" - ")[2].split(" ")[2]
    found: dict[str, Any] = {"type": root.type, "options": options}
    bare = Stack(root.type, options)
    upper, lower = bare.option("upperdir"), bare.lowers
    # Relative to where the runtime was when it called mount(2), which nobody noted.
    start = next((place for place in _folders(store) if _all_there(place, [upper, *lower])), "")
    if root.type != "overlay" or not upper or not start:
        return {**found, "written": {}, "below": []}
    top = os.path.realpath(os.path.join(start, upper))
    layers = [os.path.realpath(os.path.join(start, word)) for word in lower]
    written = dict(_entries(top))
    folders = [path for path, row in written.items() if row["kind"] == "directory"]
    inside = [
        os.path.join(folder, name)
        for folder in folders
        for name in os.listdir(f"/proc/{pid}/root/{folder}")
    ]
    return {
        **found,
        "upper": top,
        "lower": layers,
        "written": written,
        "below": [{p: r for f in folders for p, r in _entries(layer, f)} for layer in layers],
        "merged": sorted(inside),
    }


def _folders(store: str) -> Iterator[str]:
    """Yield the directories that an option's path may start from: the store's, and no link."""
    yield "/"
    for folder, names, _ in os.walk(store):
        yield folder
        if folder.removeprefix(store).count("/") >= DEEP:
            names.clear()


def _all_there(start: str, paths: Sequence[str]) -> bool:
    return all(os.path.isdir(os.path.join(start, path)) for path in paths)


def _entries(top: str, only: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is below a directory, by its path there; `only` what is in one folder of it."""
    for folder, names, files in os.walk(os.path.join(top, only or "")):
        for name in sorted([*names, *files]):
            path = os.path.join(folder, name)
            yield os.path.relpath(path, top), _entry(path)
        if only is not None:
            return


def _entry(path: str) -> dict[str, Any]:
    facts = os.lstat(path)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(facts.st_mode))
    if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0:
        kind = "whiteout"
    names = os.listxattr(path, follow_symlinks=False)
    marks = {
        name: os.fsdecode(os.getxattr(path, f"trusted.overlay.{name}", follow_symlinks=False))
        for name in MARKS
        if f"trusted.overlay.{name}" in names
    }
    return {
        "kind": kind or "other",
        "size": facts.st_size,
        "allocated": facts.st_blocks * 512,
        "mode": facts.st_mode,
        "marks": marks,
    }


def contents(bench: Bench, folder: str) -> dict[str, str]:
    """Return the digest of each file below a folder of the bench's, of its bytes and its mode."""

    def read() -> dict[str, str]:
        found = {}
        for top, _, files in os.walk(folder):
            for name in files:
                path = os.path.join(top, name)
                facts = os.lstat(path)
                told = hashlib.sha256(f"{facts.st_mode} {facts.st_uid} {facts.st_gid} ".encode())
                if stat.S_ISREG(facts.st_mode):
                    _written(path, told.update)
                elif stat.S_ISLNK(facts.st_mode):
                    told.update(os.fsencode(os.readlink(path)))
                found[path] = told.hexdigest()[:16]
        return found

    return bench.see(read)


def _written(path: str, tell: Callable[[bytes], None]) -> None:
    """Tell what was written to a file, and where; a pool's is gigabytes of holes."""
    with open(path, "rb", buffering=0) as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        tell(b"%d " % size)
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole up to the end: lseek(2)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            file.seek(start)
            tell(b"%d " % start + file.read(end - start))


def allocated(folder: str) -> int:
    """Return how many bytes the files below a folder take, each once. See stat(2)."""
    taken = {}
    for top, _, files in os.walk(folder):
        for name in files:
            facts = os.lstat(os.path.join(top, name))
            taken[facts.st_ino] = facts.st_blocks * 512
    return sum(taken.values())


def draw(stack: Stack, width: int, *, spells: bool = True) -> list[str]:
    """Return the picture, line by line, at most `width` columns wide.

    Each directory of the stack is a row, and each name a column: what is in a row is there.
    """
    width = min(width, WIDEST)
    folder = stack.folder
    names = _names(stack, folder, width - 4)
    layers = [stack.written, *stack.below]
    merged = {path for path in stack.merged if os.path.dirname(path) == folder}
    seen = [_seen(n, _at(folder, n), layers) if _at(folder, n) in merged else "" for n in names]
    rows = [(f"merged · /{folder}", seen)]
    rows.append(
        (
            f"upperdir={stack.option('upperdir')}",
            [_cell(n, stack.written.get(_at(folder, n))) for n in names],
        )
    )
    for word, entries in zip(stack.lowers, stack.below, strict=True):
        cells = [_cell(n, entries.get(_at(folder, n))) for n in names]
        rows.append((f"lowerdir={word}", cells if any(cells) else []))
    lines = _table(rows, names, width)
    for text in _notes(stack, folder):
        first, *rest = wrap(text, width - 4)
        lines += [f"  {first}", *(f"    {line}" for line in rest)]
    return lines if spells else [line.translate(PLAIN) for line in lines]


def _at(folder: str, name: str) -> str:
    return os.path.join(folder, name)


def _names(stack: Stack, folder: str, room: int) -> list[str]:
    """Return the names in a folder that fit into a row, those that the container changed first."""
    layers = [stack.written, *stack.below]
    every = {path for layer in layers for path in layer if os.path.dirname(path) == folder}
    ranked = sorted(every, key=lambda path: (path not in stack.written, path))
    kept: list[str] = []
    for path in ranked:
        name = os.path.basename(path)
        if sum(map(_wide, [*kept, name])) <= room:
            kept.append(name)
    return sorted(kept)


def _wide(name: str) -> int:
    return max(cell_len(name) + 1, len("c 0,0")) + 3


def _cell(name: str, entry: Entry | None) -> str:
    """Return how a file is shown in its column."""
    if entry is None:
        return ""
    if entry.kind == "whiteout":
        return "c 0,0"
    return f"{name}/" if entry.kind == "directory" else name


def _seen(name: str, path: str, layers: Sequence[Entries]) -> str:
    """Return how the container sees a name: as the topmost layer has it."""
    return next((_cell(name, layer[path]) for layer in layers if path in layer), name)


def _table(
    rows: Sequence[tuple[str, Sequence[str]]], names: Sequence[str], width: int
) -> list[str]:
    """Return frames on each other, one for each row, with its title in the upper line."""
    inner, lines = width - 2, []
    for number, (title, cells) in enumerate(rows):
        left, right = "┌┐" if number == 0 else "├┤"
        said = f" {title} "
        if cell_len(said) > inner - 1:
            said = set_cell_size(said, inner - 2) + "…"
        lines.append(f"{left}{said}{'─' * (inner - cell_len(said))}{right}")
        shown = "".join(
            set_cell_size(cell, _wide(name)) for cell, name in zip(cells, names, strict=False)
        )
        if not cells:
            shown = say("demo.stack_none")
        lines.append(f"│{set_cell_size(f'  {shown}', inner)}│")
    return [*lines, f"└{'─' * inner}┘"]


def _notes(stack: Stack, folder: str) -> Iterator[str]:
    """Yield what the marks mean."""
    for path, entry in sorted(stack.written.items()):
        name = os.path.basename(path)
        if os.path.dirname(path) != folder:
            continue
        if entry.kind == "whiteout":
            yield say("demo.stack_whiteout", name=name)
        for mark, value in entry.marks.items():
            yield say(f"demo.stack_{mark}", name=name, value=value)
    features = [word for word in stack.options.split(",") if word.startswith(("index", "redirect"))]
    yield say("demo.stack_work", work=stack.option("workdir"), features=" ".join(features))
