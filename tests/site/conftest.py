"""The site, built once by each of its tools, and a browser; once for each worker."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from labs.docs.build import CONFIGS, build
from labs.paths import CHECKOUT
from tests.site import website

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOOLS = ("material", "zensical")


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site as MkDocs and Material build it: a warning fails the build."""
    site = tmp_path_factory.mktemp("material")
    with warnings.catch_warnings():
        # jieba leaves the file of our words open.
        warnings.simplefilter("ignore", ResourceWarning)
        build(site)
    return site


@pytest.fixture(scope="session")
def zensical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site as Zensical builds it, from a copy: it writes into the folder it reads."""
    folder = tmp_path_factory.mktemp("zensical")
    shutil.copytree(CHECKOUT / "docs", folder / "docs")
    for config in CONFIGS.values():
        shutil.copy(CHECKOUT / config, folder)
    for config in CONFIGS.values():
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", config],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "No issues found" in said, said
        assert "warning" not in said.lower(), said
    shutil.copy(folder / "docs" / "index.html", folder / "site")
    return folder / "site"


@pytest.fixture(params=TOOLS)
def site(request: pytest.FixtureRequest) -> Path:
    """Return the site as each of its tools builds it."""
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="session")
def http(material: Path) -> Iterator[str]:
    """Return the address of the site, served below a path."""
    with website.served(material) as url:
        yield url


@pytest.fixture(params=["http", "file"])
def home(request: pytest.FixtureRequest, material: Path) -> str:
    """Return the address of the site: on a server, and in a folder."""
    if request.param == "file":
        return material.as_uri()
    url: str = request.getfixturevalue("http")
    return url


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Return a browser that nobody else uses."""
    from playwright.sync_api import sync_playwright

    from tests.site.reading import chromium

    with sync_playwright() as playwright, chromium(playwright) as started:
        yield started
