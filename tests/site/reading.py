"""A reader with a browser: opens pages, and notes all that goes wrong on the way.

Playwright and axe are there in one room of `labrun test --all` only; every room reads this file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Playwright

SIZES: dict[str, dict[str, Any]] = {
    "phone": {
        "viewport": {"width": 360, "height": 780},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
    "desktop": {"viewport": {"width": 1280, "height": 900}},
}
SCHEMES = {"light": "default", "dark": "slate"}
"""What a reader prefers, and what the theme calls it."""

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

QUIET = (
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    # Whatever it still has in mind finds nobody but us.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

OVERFLOW = """() => {
  const width = document.scrollingElement.clientWidth
  const found = []
  if (document.scrollingElement.scrollWidth > width)
    found.push(`the page is ${document.scrollingElement.scrollWidth} wide, the window ${width}`)
  const seen = {opacityProperty: true, visibilityProperty: true}
  const held = element => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box)
      if (/auto|scroll/.test(style.overflowX) || style.textOverflow === "ellipsis") return true
    }
  }
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect()
    if (!box.width || !box.height || box.right <= width + 1) continue
    if (!element.checkVisibility(seen) || held(element)) continue
    const name = element.tagName.toLowerCase() + [...element.classList].map(c => `.${c}`).join("")
    found.push(`<${name}> ends at ${Math.round(box.right)}, the window at ${width}`)
  }
  return found
}"""

FOCUS = """selector => {
  const element = document.querySelector(selector)
  element.focus()
  return document.activeElement === element
}"""


@contextmanager
def chromium(playwright: "Playwright") -> Iterator["Browser"]:
    """Start the distribution's Chromium."""
    program = shutil.which("chromium")
    assert program, "there is no chromium: apt-get install chromium"
    # Its sandbox refuses root.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=program, args=[*QUIET, *root])
    yield browser
    browser.close()


@dataclass
class Reader:
    """One who reads with a window of some size, and some wishes."""

    context: "BrowserContext"
    home: str
    """The address of the site, without a slash at its end."""
    page: "Page" = field(init=False)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.context.on("request", self._asked)
        self.context.on("requestfailed", self._failed)
        self.context.on("response", self._answered)
        self.context.on("console", self._console)
        self.context.on("weberror", lambda it: self._note(f"error: {it.error}"))

    def _note(self, what: str) -> None:
        self.complaints.append(f"{self.page.url.removeprefix(self.home)}: {what}")

    def _asked(self, request: Any) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("data", "blob", "about"):
            return
        if not request.url.startswith(f"{self.home}/"):
            self._note(f"asked for {request.url}")

    def _failed(self, request: Any) -> None:
        # A page that sends its reader on while it is still arriving.
        if not (request.is_navigation_request() and request.failure == "net::ERR_ABORTED"):
            self._note(f"failed: {request.url} {request.failure}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self._note(f"{response.status}: {response.url}")

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            self._note(f"console: {message.type}: {message.text}")

    def open(self, path: str) -> None:
        """Open a page of the site."""
        self.page.goto(f"{self.home}/{path}")

    def settle(self) -> None:
        """Wait until the page asks for nothing any more."""
        self.page.wait_for_load_state("networkidle")

    def overflow(self) -> list[str]:
        """Return what is wider than the window."""
        found: list[str] = self.page.evaluate(OVERFLOW)
        return found

    def violations(self) -> list[str]:
        """Return what axe finds against WCAG 2.2 AA: a line for each rule, with some elements."""
        from axe_playwright_python.sync_playwright import Axe

        # Without preload: it fetches style sheets once more, which browsers forbid in folders.
        rules = {"type": "tag", "values": WCAG}
        options = {"runOnly": rules, "resultTypes": ["violations"], "preload": False}
        found = []
        for rule in Axe().run(self.page, options=options).response["violations"]:
            nodes = rule["nodes"]
            if rule["id"] == "scrollable-region-focusable":
                # axe asks for a tabindex, which the theme gives to mouse users only; Chromium
                # lets the keyboard into whatever scrolls by itself, if we may believe it.
                nodes = [node for node in nodes if not self.page.evaluate(FOCUS, node["target"][0])]
            if nodes:
                why = [each["message"] for key in ("any", "all", "none") for each in nodes[0][key]]
                where = ", ".join(" ".join(map(str, node["target"])) for node in nodes[:4])
                found.append(f"{rule['id']}, {len(nodes)} times: {where}: {'; '.join(why)}")
        return found

    def scheme(self) -> str:
        """Return the colours that the page has, as the theme calls them."""
        name: str = self.page.evaluate("document.body.dataset.mdColorScheme")
        return name


@contextmanager
def reader(
    browser: "Browser", home: str, size: str = "desktop", scheme: str = "light", **wishes: Any
) -> Iterator[Reader]:
    """Sit a reader down before the site at `home`."""
    wishes |= SIZES[size] | {"color_scheme": scheme, "reduced_motion": "reduce"}
    context = browser.new_context(**wishes)
    yield Reader(context, home)
    context.close()
