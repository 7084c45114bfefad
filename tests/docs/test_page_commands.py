"""Every command on every page is typed, in a copy of this checkout, and ends as the page says."""

from pathlib import Path

import pytest

from tests.docs.pages import names, page
from tests.docs.typed import own_checkout, type_all

BUILDS = "docs --build"
"""Needs the site's tools, as the tests in a browser do."""
RECORDS = "sudo ./labrun docs --refresh"
"""Takes minutes: typed by test_fresh.py, once, which looks at what it wrote, too."""

PAGES = [
    pytest.param(name, marks=[pytest.mark.browser] if builds else [])
    for name in names("en")
    for commands in [page("en", name).commands]
    for builds in [any(BUILDS in command for command, _ in commands)]
    if commands
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return own_checkout(tmp_path / "labrun")


@pytest.mark.once
@pytest.mark.usefixtures("as_root")
@pytest.mark.xdist_group("reader")
@pytest.mark.parametrize("name", PAGES)
# A page's checks and demos one after the other, perhaps beside the virtual machine.
@pytest.mark.timeout(900)
def test_every_command_of_a_page_ends_as_it_says(checkout: Path, name: str) -> None:
    asked = [
        (command, status) for command, status in page("en", name).commands if command != RECORDS
    ]
    assert type_all(checkout, asked) == []


@pytest.mark.usefixtures("as_root")
@pytest.mark.xdist_group("reader")
def test_a_command_that_ends_otherwise_is_found(checkout: Path) -> None:
    commands = [("sudo .venv/bin/stage1 run /no/such/root /bin/true", 0), ("./labrun no-such", 2)]
    assert [line.partition(":")[0] for line in type_all(checkout, commands)] == [commands[0][0]]


def test_there_are_commands_to_type() -> None:
    assert {"index.md", "stage1.md", "lesson-template.md"} <= {param.values[0] for param in PAGES}
    assert (RECORDS, 0) in page("en", "lesson-template.md").commands
