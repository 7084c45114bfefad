"""The code that a page shows: functions, cut out of the source by name, their lines marked.

docs/code.toml lists them, `function` where two have the same name, or for one of a class
(`Class.function`). A mark is the text of a line
that the page explains: ① stands at the end of the first, ② of the second. A mark that stands
nowhere, or twice, fails the recording.
"""

import ast
import textwrap
import tomllib
from pathlib import Path

from labs.errors import Refused
from labs.paths import CHECKOUT

NUMBERS = "①②③④⑤⑥⑦⑧⑨"
"""As many marks as a function may have."""


def all_of(listed: Path) -> dict[str, str]:
    """Return what each listed function becomes, a fenced block by its file's name.

    Raises Refused for a function or a mark that isn't there.
    """
    rows = tomllib.loads(listed.read_text(encoding="utf-8"))
    return {
        f"{name}.md": _block(row.get("function", name), row["file"], row["marks"])
        for name, row in rows.items()
    }


def _block(name: str, file: str, marks: list[str]) -> str:
    lines = _source(name, file).splitlines()
    for number, mark in enumerate(marks):
        found = [n for n, line in enumerate(lines) if mark in line]
        if len(found) != 1:
            raise Refused(f"{file}, {name}", f"{len(found)} lines have {mark!r}", "docs/code.toml")
        lines[found[0]] += f"  # {NUMBERS[number]}"
    return "\n".join([f'```python title="{file}"', *lines, "```", ""])


def _source(name: str, file: str) -> str:
    """Return a function's source, from the margin on."""
    text = (CHECKOUT / file).read_text(encoding="utf-8")
    body, (*owner, function) = ast.parse(text).body, name.split(".")
    if owner:
        classes = (node for node in body if isinstance(node, ast.ClassDef))
        body = next((node.body for node in classes if node.name == owner[0]), [])
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            # Whole lines: behind the last one there may be a comment.
            return textwrap.dedent("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]))
    raise Refused(f"{file}, {name}", "there is no such function", "docs/code.toml")
