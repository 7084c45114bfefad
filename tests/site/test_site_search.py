"""Search finds English and Chinese words, on a server and in a folder, and leads to them."""

import re
from typing import TYPE_CHECKING

import pytest

from tests.site.reading import Reader, reader

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

WORDS = {"en": ["chroot", "namespace"], "zh": ["命名空间", "根目录", "系统调用", "chroot"]}
RESULTS = ".md-search-result__item a.md-search-result__link"


def search(who: Reader, word: str) -> None:
    """Type a word into the search, once it is ready; in a folder that takes its opening."""
    box = who.page.locator("input[name=query]")
    glass = who.page.locator("label.md-header__button[for=__search]")
    (glass if glass.is_visible() else box).click()
    ready = re.compile("Type to start searching|键入以开始搜索")
    who.page.locator(".md-search-result__meta", has_text=ready).wait_for()
    box.fill(word)
    # It looks at the word when a key comes up, as the last key of an input method does.
    box.press("End")


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
@pytest.mark.parametrize("language", WORDS)
def test_search_finds_words_and_leads_to_them(
    browser: "Browser", home: str, language: str, size: str, scheme: str
) -> None:
    with reader(browser, home, size, scheme) as who:
        page = who.page
        for word in WORDS[language]:
            who.open(f"{language}/index.html")
            search(who, word)
            result = page.locator(RESULTS).first
            result.wait_for()
            assert who.violations() == []
            href = result.evaluate("link => link.href")
            result.click()
            page.wait_for_url(href)
            assert word in page.locator("article").inner_text().lower()
        assert who.complaints == []


@pytest.mark.parametrize("language", WORDS)
def test_search_says_so_when_it_finds_nothing(browser: "Browser", home: str, language: str) -> None:
    none = {"en": "No matching documents", "zh": "没有找到符合条件的结果"}[language]
    with reader(browser, home) as who:
        who.open(f"{language}/index.html")
        search(who, "zzyzx")
        who.page.locator(".md-search-result__meta", has_text=none).wait_for()
        assert who.page.locator(RESULTS).count() == 0
        assert who.complaints == []
