"""Every page, as a browser shows it: both languages, phone and desktop, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from labs.texts import LANGUAGES
from tests.site import website
from tests.site.reading import SCHEMES, SIZES, Reader, reader

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

OTHER = {"en": "zh", "zh": "en"}


@pytest.fixture
def desk(browser: "Browser", home: str) -> Iterator[Reader]:
    """Return a reader at a desktop, of the site on a server and in a folder."""
    with reader(browser, home) as who:
        yield who


@pytest.fixture
def spoilt(browser: "Browser", http: str) -> Iterator[Reader]:
    """Return a reader at a phone, with a page open that a test may spoil."""
    with reader(browser, http, "phone") as who:
        who.open("en/index.html")
        who.settle()
        yield who


# ---- each page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_loads_fits_and_is_accessible(
    browser: "Browser", material: Path, http: str, language: str, size: str, scheme: str
) -> None:
    found = []
    with reader(browser, http, size, scheme) as who:
        for name in website.names(material, language):
            path = f"{language}/{name}"
            who.open(path)
            assert who.scheme() == SCHEMES[scheme]
            found += [f"{path}: {each}" for each in who.overflow() + who.violations()]
            who.settle()
        found += who.complaints
    assert not found, "\n".join(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_loads_from_a_folder(browser: "Browser", material: Path, language: str) -> None:
    with reader(browser, material.as_uri()) as who:
        for name in website.names(material, language):
            who.open(f"{language}/{name}")
            assert who.page.locator("h1").is_visible()
            who.settle()
        assert who.complaints == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_can_be_read_without_scripts(
    browser: "Browser", material: Path, http: str, language: str, size: str
) -> None:
    with reader(browser, http, size, java_script_enabled=False) as who:
        page = who.page
        for name in website.names(material, language):
            who.open(f"{language}/{name}")
            assert page.locator("h1").is_visible()
            assert page.locator("article p").first.is_visible()
        # The menu leads on, and so does the way to the other language.
        if size == "phone":
            page.locator("label.md-header__button[for=__drawer]").click()
        page.locator(".md-nav--primary a[href='glossary.html']:visible").first.click()
        page.wait_for_url("**/glossary.html")
        switch(who, language)
        page.wait_for_url(f"**/{OTHER[language]}/glossary.html")
        assert who.complaints == []


# ---- the helpers find what is wrong -------------------------------------------------------------


def test_a_picture_from_elsewhere_is_noticed(spoilt: Reader) -> None:
    with spoilt.page.expect_event("requestfailed"):
        spoilt.page.evaluate("void (new Image().src = 'http://a.test/b.png')")
    text = "\n".join(spoilt.complaints)
    assert "asked for http://a.test/b.png" in text
    assert "failed: http://a.test/b.png" in text


def test_a_missing_file_is_noticed(spoilt: Reader) -> None:
    with spoilt.page.expect_event("requestfinished"):
        spoilt.page.evaluate("void fetch('nowhere.json')")
    text = "\n".join(spoilt.complaints)
    assert f"404: {spoilt.home}/en/nowhere.json" in text


def test_an_error_and_a_warning_of_a_script_are_noticed(spoilt: Reader) -> None:
    with spoilt.page.expect_event("pageerror"):
        spoilt.page.evaluate("console.warn('hm'); void setTimeout(() => { throw Error('oh') })")
    text = "\n".join(spoilt.complaints)
    assert "console: warning: hm" in text
    assert "error: oh" in text or "error: Error: oh" in text


@pytest.mark.parametrize(
    "style",
    ["width: 500px", "position: relative; left: 300px; width: 100px", "white-space: nowrap"],
)
def test_what_is_wider_than_the_window_is_found(spoilt: Reader, style: str) -> None:
    before = spoilt.overflow()
    spoilt.page.evaluate(
        "style => document.querySelector('article').insertAdjacentHTML('beforeend',"
        " `<p style='${style}'>${'a long line '.repeat(20)}</p>`)",
        style,
    )
    assert len(spoilt.overflow()) > len(before)


def test_what_scrolls_by_itself_is_no_overflow(spoilt: Reader) -> None:
    before = spoilt.overflow()
    spoilt.page.evaluate(
        "document.querySelector('article').insertAdjacentHTML('beforeend',"
        ' \'<div style="overflow-x: auto"><p style="width: 900px">wide</p></div>\')'
    )
    assert spoilt.overflow() == before


@pytest.mark.parametrize(
    ("html", "rule"),
    [
        ('<p style="color: #777; background: #888">hardly</p>', "color-contrast"),
        ('<img src="../assets/logo.svg">', "image-alt"),
        ('<button style="width: 9px; height: 9px; padding: 0"></button>' * 2, "target-size"),
    ],
)
def test_what_is_not_accessible_is_found(spoilt: Reader, html: str, rule: str) -> None:
    spoilt.page.evaluate(
        "html => document.querySelector('article').insertAdjacentHTML('beforeend', html)", html
    )
    assert any(each.startswith(f"{rule}, ") for each in spoilt.violations())


# ---- languages ----------------------------------------------------------------------------------


def switch(who: Reader, language: str) -> None:
    """Click on the way to the other language."""
    who.page.locator(f"header a[hreflang={OTHER[language]}]").click()


def test_every_page_leads_to_itself_in_the_other_language_and_back(
    desk: Reader, material: Path
) -> None:
    for name in website.names(material, "en"):
        desk.open(f"en/{name}")
        for language in LANGUAGES:
            switch(desk, language)
            desk.page.wait_for_url(f"{desk.home}/{OTHER[language]}/{name}")
            desk.settle()
            lang = desk.page.locator("html").get_attribute("lang") or ""
            assert lang.split("-")[0] == OTHER[language]
    assert desk.complaints == []


@pytest.mark.parametrize(
    ("wish", "language"),
    [("en-GB", "en"), ("zh-CN", "zh"), ("zh-TW", "zh"), ("fr-FR", "en")],
)
def test_the_door_leads_to_the_readers_own_language(
    browser: "Browser", home: str, wish: str, language: str
) -> None:
    with reader(browser, home, locale=wish) as who:
        who.page.goto(f"{home}/index.html")
        who.page.wait_for_url(f"{home}/{language}/index.html")
        who.settle()
        assert who.complaints == []


def test_the_door_has_links_for_those_without_scripts(browser: "Browser", http: str) -> None:
    with reader(browser, http, "phone", java_script_enabled=False) as who:
        for name, language in (("English", "en"), ("简体中文", "zh")):
            who.page.goto(f"{http}/")
            who.page.get_by_role("link", name=name).click()
            who.page.wait_for_url(f"{http}/{language}/index.html")
        assert who.complaints == []


# ---- colours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_switch_changes_the_colours_and_the_next_page_keeps_them(
    browser: "Browser", http: str, size: str, scheme: str
) -> None:
    with reader(browser, http, size, scheme) as who:
        who.open("en/index.html")
        assert who.scheme() == SCHEMES[scheme]
        who.page.locator("[data-md-component=palette] label:visible").click()
        (other,) = set(SCHEMES.values()) - {SCHEMES[scheme]}
        assert who.scheme() == other
        who.open("en/glossary.html")
        assert who.scheme() == other
        assert who.complaints == []
