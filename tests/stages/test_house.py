"""The house stays one that you'd live in: what is read aloud is short, and the way is marked."""

import ast
import re
from pathlib import Path

import pytest

from labs.paths import CHECKOUT

# A stage is there when it has a command; until then its folder is a building site.
STAGES = sorted(cli.parent for cli in (CHECKOUT / "stages").glob("stage?_*/cli.py"))
SCREEN = 40
"""Lines that run() may have, so that it can be read aloud."""
EVENING = 400
"""Lines that a stage's reading path may have."""


def functions(file: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_run_is_short_enough_to_be_read_aloud(stage: Path) -> None:
    for name, node in functions(stage / "runtime.py").items():
        assert node.end_lineno
        assert node.end_lineno - node.lineno < SCREEN, name


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_reading_path_is_there_and_short_enough(stage: Path) -> None:
    readme = (stage / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\d\. \[[\w.]+\]\(([\w./]+)\):", readme, re.MULTILINE)
    assert named[0] == "runtime.py"
    own = [stage / name for name in named if "/" not in name]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in own) <= EVENING
    for name in re.findall(r"`(\w+)\(\)`", readme):
        assert any(name in functions((stage / file).resolve()) for file in named), name


def test_every_function_of_the_kernels_door_names_its_man_page() -> None:
    for name, node in functions(CHECKOUT / "stages" / "linux.py").items():
        text = ast.get_docstring(node) or ""
        if not name.startswith("_") and "(" in text:
            assert re.search(r"See [^\n]*\(\d\w*\)[^\n]*\.$", text), name


def test_nothing_in_stages_is_imported_late() -> None:
    # After chroot(2) an import would look for its file in the container. Only the parent, which
    # keeps the host's root, asks systemd.
    for file in (CHECKOUT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                late = [
                    alias.name
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Import | ast.ImportFrom)
                    for alias in inner.names
                ]
                assert late in ([], ["traceback"], ["_socket"]), (
                    f"{file.name}: {node.name} imports {late}"
                )
