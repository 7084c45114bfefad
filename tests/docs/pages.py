"""What a page consists of, read by a Markdown parser."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from labs.paths import CHECKOUT

DOCS = CHECKOUT / "docs"
LANGUAGES = ("en", "zh")
IDENTIFIER = re.compile(r"\{#([\w-]+)\}\s*$")
QUOTE = re.compile(r'--8<-- "([^"]+)"')
FOLDED = re.compile(r"^\?\?\? \w+", re.MULTILINE)
LANGUAGE = re.compile(r"\b(en|zh)(?=/)")
STATUS = re.compile(r"# status (\d+)\s*$")


def names(language: str) -> list[str]:
    """Return the pages of a language."""
    return sorted(path.name for path in (DOCS / language).glob("*.md"))


@dataclass
class Page:
    """What must be alike in both languages."""

    headings: list[tuple[str, str]] = field(default_factory=list)
    """Each heading's level and id."""
    quotes: list[str] = field(default_factory=list)
    fences: list[tuple[str, str]] = field(default_factory=list)
    """Each fenced block: what it is, and its content, commands without their comments."""
    links: list[str] = field(default_factory=list)
    """Where its links lead, sorted: two languages put the words in another order."""
    folded: int = 0
    items: int = 0
    rows: int = 0

    @property
    def commands(self) -> list[tuple[str, int]]:
        """Return what a reader is to type, with the exit status that the page says."""
        blocks = [text for info, text in self.fences if info == "sh"]
        lines = [line for text in blocks for line in text.splitlines() if line[:1] not in ("", "#")]
        return [
            (
                line.partition("  #")[0].rstrip(),
                int(said[1]) if (said := STATUS.search(line)) else 0,
            )
            for line in lines
        ]


def read(text: str) -> Page:
    """Return what a page's Markdown consists of."""
    page = Page(folded=len(FOLDED.findall(text)))
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    page.quotes = [LANGUAGE.sub("LANGUAGE", name) for name in QUOTE.findall(text)]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before and before.type == "heading_open":
            named = IDENTIFIER.search(token.content)
            page.headings.append((before.tag, named[1] if named else ""))
        elif token.type == "fence":
            page.fences.append((token.info, token.content))
        page.items += token.type == "list_item_open"
        page.rows += token.type == "tr_open"
        page.links += [str(child.attrs["href"]) for child in _links(token)]
    page.links.sort()
    return page


def _links(token: Token) -> list[Token]:
    return [child for child in token.children or [] if child.type == "link_open"]


def page(language: str, name: str) -> Page:
    """Return one page of the site."""
    return read((DOCS / language / name).read_text(encoding="utf-8"))


def prose(text: str) -> list[str]:
    """Return a page's paragraphs, without code, links' targets, headings and what is quoted."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found = []
    for before, token in pairwise(tokens):
        # A heading may be a term in both languages.
        if (
            token.type == "inline"
            and before.type != "heading_open"
            and not QUOTE.search(token.content)
        ):
            words = [c.content for c in token.children or [] if c.type == "text"]
            found.append(" ".join(words))
    return found


def path(name: str) -> Path:
    """Return where a quoted file is."""
    return DOCS / "generated" / name
