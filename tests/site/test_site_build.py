"""Both tools build the same whole site, and `labrun docs` writes and serves it."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from labs.docs.build import MARK
from labs.errors import FAILED
from labs.paths import CHECKOUT
from labs.texts import LANGUAGES
from tests.running import LABRUN, run
from tests.site import website

pytestmark = pytest.mark.browser


def words(site: Path, page: str, pattern: str) -> list[str]:
    return re.findall(pattern, (site / page).read_text(encoding="utf-8"))


# ---- what is built ------------------------------------------------------------------------------


def test_every_source_is_a_page(site: Path) -> None:
    for language in LANGUAGES:
        folder = CHECKOUT / "docs" / language
        sources = sorted(
            str(path.relative_to(folder).with_suffix(".html")) for path in folder.rglob("*.md")
        )
        assert website.names(site, language) == sources


def test_both_tools_build_the_same_pages(material: Path, zensical: Path) -> None:
    assert website.pages(material)
    for language in LANGUAGES:
        assert website.names(material, language) == website.names(zensical, language)


def test_both_trees_have_the_same_navigation(site: Path) -> None:
    entry = r'<a href="(?:\./)?([\w-]+\.html)?" class="md-nav__link'
    english, chinese = (words(site, f"{language}/index.html", entry) for language in LANGUAGES)
    assert english == chinese
    assert {link or "index.html" for link in english} == set(website.names(site, "en"))


# ---- what is in it ------------------------------------------------------------------------------


def test_links_and_anchors_are_whole(site: Path) -> None:
    assert website.broken_links(site) == []


def test_each_page_has_its_language_a_title_one_heading_and_no_id_twice(site: Path) -> None:
    found = [
        fault
        for language in LANGUAGES
        for page in website.tree(site, language)
        for fault in website.faults(page, language)
    ]
    assert found == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert website.remote_loads(site) == []


@pytest.fixture
def spoilt(material: Path, tmp_path: Path) -> Path:
    """Return a copy of the site, for a test to spoil."""
    return shutil.copytree(material, tmp_path / "spoilt")


def spoil(page: Path, text: str) -> None:
    said = page.read_text(encoding="utf-8")
    assert "</article>" in said
    page.write_text(said.replace("</article>", f"{text}</article>"), encoding="utf-8")


@pytest.mark.parametrize(
    ("link", "what"),
    [
        ('<a href="nowhere.html">', "does not exist"),
        ('<a href="index.html#nowhere">', "has no such anchor"),
        ('<a href="#nowhere">', "has no such anchor"),
        ('<img src="nowhere.svg">', "does not exist"),
        ('<a href="/en/index.html">', "leads out of the site"),
        ('<a href="../../index.html">', "leads out of the site"),
    ],
)
def test_a_broken_link_is_found(spoilt: Path, link: str, what: str) -> None:
    spoil(spoilt / "en" / "index.html", link)
    (found,) = website.broken_links(spoilt)
    assert what in found


@pytest.mark.parametrize(
    "load",
    [
        '<img src="https://example.org/a.png">',
        '<img srcset="a.png 1x, //example.org/a.png 2x">',
        '<script src="//example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<p style="background: url(https://example.org/a.png)"></p>',
        "<style>@import 'https://example.org/a.css'</style>",
        '<pre class="mermaid"></pre>',
    ],
)
def test_a_load_from_elsewhere_is_found(spoilt: Path, load: str) -> None:
    spoil(spoilt / "en" / "index.html", load)
    assert len(website.remote_loads(spoilt)) == 1


def test_a_font_from_elsewhere_is_found(spoilt: Path) -> None:
    sheet = spoilt / "en" / "assets" / "stylesheets" / "labrun.css"
    sheet.write_text("@import url(https://fonts.googleapis.com/css?family=Roboto)")
    assert website.remote_loads(spoilt) != []


def test_a_link_to_elsewhere_is_no_load(spoilt: Path) -> None:
    spoil(spoilt / "en" / "index.html", '<a href="https://example.org/">elsewhere</a>')
    assert website.remote_loads(spoilt) == []
    assert website.broken_links(spoilt) == []


def test_a_fault_of_a_page_is_found(spoilt: Path) -> None:
    page = spoilt / "zh" / "index.html"
    spoil(page, '<h1 id="one">1</h1><h2 id="one">2</h2>')
    second, twice = website.faults(page, "zh")
    assert "first headings" in second
    assert "'one'" in twice
    assert "its language is 'zh'" in website.faults(page, "en")[0]


# ---- labrun docs --------------------------------------------------------------------------------


def test_docs_builds_a_site_where_nothing_was(tmp_path: Path) -> None:
    target = tmp_path / "new" / "site"
    done = run([LABRUN, "docs", "--build", str(target)])
    assert done.returncode == 0, done.stderr.decode()
    assert str(target / "index.html") in done.stdout.decode()
    assert website.broken_links(target) == []
    assert website.pages(target)
    assert [path.name for path in target.parent.iterdir()] == ["site"]


def test_docs_replaces_a_former_site(material: Path, tmp_path: Path) -> None:
    target = shutil.copytree(material, tmp_path / "site")
    (target / "en" / "former.html").touch()
    done = run([LABRUN, "docs", "--build", str(target)])
    assert done.returncode == 0, done.stderr.decode()
    assert not (target / "en" / "former.html").exists()
    assert website.names(target, "en") == website.names(material, "en")
    assert list(tmp_path.iterdir()) == [target]


def test_docs_leaves_a_folder_alone_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = run([LABRUN, "docs", "--build", str(tmp_path)])
    assert done.returncode == FAILED
    assert str(tmp_path) in done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / MARK).exists()


def test_docs_serves_both_trees_until_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [LABRUN, "docs", "--port", "0"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        said = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address, said
        for page in ("", "en/index.html", "zh/index.html"):
            with urlopen(address[0] + page) as answer:
                assert answer.status == 200
        assert list(tmp_path.iterdir()) != []
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate()
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
