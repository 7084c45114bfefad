"""Each page is there in both languages, and both say the same in the same order."""

import re

import pytest

from checks.model import axes
from labs.docs.record.measured import DRIVERS, PEER, TREE
from labs.stages import BUILT
from labs.texts import LANGUAGES
from tests.docs.pages import DOCS, QUOTE, Page, names, page, path, prose, read

CHINESE = re.compile(r"[\u4e00-\u9fff]")
NEVER = re.compile(r"\b(simply|obviously|just type|easy|easily)\b", re.IGNORECASE)
TERMS = {"glossary.md"}
"""Pages whose headings have a term in both languages."""


def differences(en: Page, zh: Page) -> list[str]:
    """Say in what two pages differ that must be alike."""
    said = []
    for name in ("headings", "quotes", "links", "folded", "items", "rows", "commands"):
        one, other = getattr(en, name), getattr(zh, name)
        if one != other:
            said.append(f"{name}: {one} / {other}")
    if [info for info, _ in en.fences] != [info for info, _ in zh.fences]:
        said.append("fenced blocks")
    return said


def test_both_languages_have_the_same_pages() -> None:
    assert names("en") == names("zh")
    assert "index.md" in names("en")


@pytest.mark.parametrize("name", names("en"))
def test_a_page_has_the_same_structure_in_both_languages(name: str) -> None:
    assert differences(page("en", name), page("zh", name)) == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ("# A\n\n## B {#c}\n\n- [x](y)\n", "headings"),
        ("# A\n\n## B {#b}\n\n- [x](z)\n", "links"),
        ("# A\n\n## B {#b}\n\n- [x](y)\n- two\n", "items"),
        ('# A\n\n## B {#b}\n\n- [x](y)\n\n--8<-- "en/q"\n', "quotes"),
        ("# A\n\n## B {#b}\n\n- [x](y)\n\n```sh\nls\n```\n", "commands"),
        ('# A\n\n## B {#b}\n\n- [x](y)\n\n??? question "q"\n\n    a\n', "folded"),
    ],
)
def test_what_differs_is_found(changed: str, what: str) -> None:
    found = differences(read("# A\n\n## B {#b}\n\n- [x](y)\n"), read(changed))
    assert [line for line in found if line.startswith(what)]


@pytest.mark.parametrize("name", names("en"))
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_is_in_its_language(language: str, name: str) -> None:
    paragraphs = [text for text in prose((DOCS / language / name).read_text()) if len(text) > 40]
    assert paragraphs
    for text in paragraphs:
        # A term, or the name of the other tree, may be in the other language.
        share = len(CHINESE.findall(text)) / len(text)
        assert share < 0.2 if language == "en" else share > 0.2, text


@pytest.mark.parametrize("name", names("en"))
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_section_has_an_id_that_both_languages_share(language: str, name: str) -> None:
    headings = page(language, name).headings
    assert [tag for tag, _ in headings].count("h1") == 1
    assert [tag for tag, named in headings if not named] == []
    named = [id_ for _, id_ in headings if id_]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", [name for name in names("en") if name not in TERMS])
def test_the_voice_never_says_that_it_is_easy(name: str) -> None:
    assert not NEVER.search((DOCS / "en" / name).read_text())
    assert NEVER.search("You simply type it.")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("stage", BUILT)
def test_a_check_sends_its_reader_to_a_section_that_exists(stage: str, language: str) -> None:
    there = {f"{stage}#{id_}" for _, id_ in page(language, f"{stage}.md").headings}
    wanted = {axis.see for axis in axes().values() if axis.see.startswith(f"{stage}#")}
    assert wanted
    assert wanted <= there


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_recording_is_shown_on_a_page(language: str) -> None:
    """A file that nobody quotes would go stale in silence, or be kept for nothing."""
    quoted = {
        name
        for page_name in names(language)
        for name in QUOTE.findall((DOCS / language / page_name).read_text())
    }
    there = {
        str(file.relative_to(path(".")))
        for file in path(".").rglob("*")
        if file.is_file()
        and file.relative_to(path(".")).parts[0] in (language, "code", *BUILT)
        # What a recording says of itself is for the next one.
        and file.name not in (TREE, DRIVERS, PEER)
    }
    assert quoted == there
