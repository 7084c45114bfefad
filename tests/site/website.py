"""A built site, read from its files: pages, what they load, and where they lead."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from labs.texts import LANGUAGES

UNDER = "/some/where"
"""The path below which the site is served: nothing may count on being at the root of a host."""

CDN = re.compile(
    r"(unpkg\.com|jsdelivr\.net|cdnjs\.cloudflare\.com|fonts\.(googleapis|gstatic)\.com"
    r"|ajax\.googleapis\.com|esm\.sh|skypack\.dev|polyfill\.io)"
)
TOOLS_OWN = re.compile(r"^(bundle|search|main|palette)\.[0-9a-f]{8}\.min\.(js|css)$")
"""The theme's own files. Its bundle names unpkg, for diagrams that no page of ours has: what it
really fetches, the browser tells."""

REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
CSS_URL = re.compile(
    r"""(?:url\(\s*|@import\s+)["']?\s*((?:https?:)?//[^"')\s;]+)""", re.IGNORECASE
)


@dataclass
class Html:
    """What we want to know of a page."""

    lang: str = ""
    title: str = ""
    headings: int = 0
    """How many h1 it has."""
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """The href of each <a>."""
    loads: list[str] = field(default_factory=list)
    """What a browser fetches by itself: scripts, styles, pictures."""
    styles: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.html = Html()
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        page, given = self.html, {name: value or "" for name, value in attrs}
        self.inside = tag
        page.classes.update(given.get("class", "").split())
        if "id" in given:
            page.ids.append(given["id"])
        if "style" in given:
            page.styles.append(given["style"])
        if tag == "html":
            page.lang = given.get("lang", "")
        elif tag == "h1":
            page.headings += 1
        elif tag == "a":
            page.links += [given["href"]] if "href" in given else []
            return
        elif tag == "link" and given.get("rel") in ("alternate", "canonical", "next", "prev"):
            page.links.append(given["href"])
            return
        for name in ("src", "href", "xlink:href", "poster", "data", "action"):
            page.loads += [given[name]] if name in given else []
        page.loads += [each.split()[0] for each in given.get("srcset", "").split(",") if each]

    def handle_data(self, data: str) -> None:
        if self.inside == "title" and not self.html.title:
            self.html.title = data.strip()
        elif self.inside == "style":
            self.html.styles.append(data)


@cache
def read(page: Path) -> Html:
    """Return what a page holds."""
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.html


def tree(site: Path, language: str) -> list[Path]:
    """Return the pages of one language.

    Not among them is 404.html: no page leads there, and whoever shows it does so under any path,
    where its links can't hold.
    """
    return sorted(page for page in (site / language).rglob("*.html") if page.name != "404.html")


def pages(site: Path) -> list[Path]:
    """Return the pages of all languages."""
    return [page for language in LANGUAGES for page in tree(site, language)]


def names(site: Path, language: str) -> list[str]:
    """Return the names of one language's pages."""
    return [str(page.relative_to(site / language)) for page in tree(site, language)]


def remote_loads(site: Path) -> list[str]:
    """Return what the site's files load from elsewhere, or could."""
    found = []
    for path in sorted(site.rglob("*")):
        if path.suffix not in (".html", ".css", ".js", ".svg", ".json") or not path.is_file():
            continue
        where = path.relative_to(site)
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".html", ".svg"):
            html = read(path)
            loads = [each for each in html.loads if REMOTE.match(each)]
            loads += [each for style in html.styles for each in CSS_URL.findall(style)]
            found += [f"{where}: {each}" for each in loads]
            if "mermaid" in html.classes:
                found.append(f"{where}: a Mermaid diagram, for which the theme asks unpkg.com")
        if path.suffix == ".css":
            found += [f"{where}: {each}" for each in CSS_URL.findall(text)]
        if not TOOLS_OWN.match(path.name) and path.suffix != ".json" and (name := CDN.search(text)):
            found.append(f"{where}: names {name[0]}")
    return found


def broken_links(site: Path) -> list[str]:
    """Return the links and loads that lead nowhere, out of the site, or to an anchor that isn't."""
    found = []
    for page in [site / "index.html", *pages(site)]:
        html = read(page)
        for link in dict.fromkeys([*html.links, *html.loads]):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            where = f"{page.relative_to(site)}: {link}"
            if link.startswith("/") or not target.is_relative_to(site.resolve()):
                found.append(f"{where} leads out of the site")
            elif target.is_dir() and (target / "index.html").is_file():
                continue
            elif not target.is_file():
                found.append(f"{where} does not exist")
            elif parts.fragment and unquote(parts.fragment) not in read(target).ids:
                found.append(f"{where} has no such anchor")
    return found


def faults(page: Path, language: str) -> list[str]:
    """Return what is wrong with a page's outline: its language, title, heading and ids."""
    html = read(page)
    found = []
    if html.lang.split("-")[0] != language:
        found.append(f"its language is {html.lang!r}")
    if not html.title:
        found.append("it has no title")
    if html.headings != 1:
        found.append(f"it has {html.headings} first headings")
    if twice := sorted({id_ for id_ in html.ids if html.ids.count(id_) > 1}):
        found.append(f"these ids are there twice: {twice}")
    return [f"{language}/{page.name}: {each}" for each in found]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def translate_path(self, path: str) -> str:
        if not path.startswith(f"{UNDER}/"):
            return str(Path(self.directory) / "nothing" / "here")
        return super().translate_path(path.removeprefix(UNDER))


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a site on this machine, below a path, and return its address."""

    def handler(*args: Any) -> _Quiet:
        return _Quiet(*args, directory=str(site))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{UNDER}"
        server.shutdown()
        thread.join()
