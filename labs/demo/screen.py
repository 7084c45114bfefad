"""The screen: where a demo is written, whatever it is: a terminal, a pipe, one without colours."""

import codecs
import os
import sys
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from checks.model import Verdict
from labs import texts
from labs.demo.wrap import wrap
from labs.texts import say
from labs.verdicts import SIGNS, word

WIDEST = 120
PROSE = 92
"""Columns of a paragraph at most: longer lines lose the reader."""

PLAIN = dict(zip("·…—–›→×≠“”", '-~-->>x!""', strict=True))
"""What stands for a character that the output can't spell: as wide as it is."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks. See codecs.register_error."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in lacking), error.end


codecs.register_error("labrun.plain", _plain)


class Output(Console):
    """Standard output; a reader who has seen enough (`| head`) is no failure."""

    def on_broken_pipe(self) -> None:
        """End quietly, and have nothing written at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


class Screen:
    """Standard output, and what it can show."""

    def __init__(self) -> None:
        """Look at standard output; where it can't spell Chinese, the language is English."""
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="labrun.plain")
        self.out = Output(highlight=False, markup=False, emoji=False)
        self.spells = self._can("✓✗≤│●≠▄╌")
        self.draws = False
        """Whether to draw plots even where this is no terminal."""
        if texts.language() == "zh" and not self._can("中"):
            texts.speak("en")

    def _can(self, characters: str) -> bool:
        try:
            characters.encode(self.out.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    @property
    def plots(self) -> bool:
        """Say whether plots are drawn; else they are told in words, as to a pipe."""
        return self.spells and (self.draws or self.live)

    @property
    def width(self) -> int:
        """Return how many columns a page takes."""
        return min(self.out.width, WIDEST)

    @property
    def height(self) -> int:
        """Return how many lines a page may take."""
        return self.out.height

    @property
    def live(self) -> bool:
        """Say whether this is a terminal that can be wiped for the next page."""
        return self.out.is_terminal and not self.out.is_dumb_terminal

    def lines(self, block: RenderableType) -> int:
        """Return how many lines a block takes."""
        options = self.out.options.update(width=self.width)
        return len(self.out.render_lines(block, options, pad=False))

    def show(self, blocks: Sequence[RenderableType], *, page: bool = False) -> None:
        """Write blocks; a `page`: on a clean screen, where there is one, and the cursor stays."""
        if page and self.live:
            self.out.clear()
        for number, block in enumerate(blocks, start=1):
            last = page and number == len(blocks)
            self.out.print(block, width=self.width, crop=False, end="" if last else "\n")

    def prose(self, text: str, label: str = "", style: str = "") -> Text:
        """Return a paragraph, folded to the page; behind a label its lines are indented."""
        margin = Text(f"{label}  " if label else "").cell_len
        rows = wrap(text, max(min(self.width, PROSE) - margin, 20))
        written = Text(no_wrap=True)
        for number, row in enumerate(rows):
            line = Text(row, style=style)
            line.highlight_regex(r"`[^`]+`", "bold")
            written.append("\n" if number else "")
            written.append(" " * margin if number or not label else f"{label}  ", "dim")
            written.append_text(line)
        return written

    def sign(self, verdict: Verdict, *, axis: bool = False) -> Text:
        """Return a verdict's sign and word; the word alone where signs can't be spelled.

        On an `axis` it is what the judges say.
        """
        sign, _, style = SIGNS[verdict]
        # A step's promise is that something comes out as it was said to.
        promise = {Verdict.KEPT: "demo.verdict_kept", Verdict.BROKEN: "demo.verdict_broken"}
        said = word(verdict) if axis or verdict not in promise else say(promise[verdict])
        return Text(f"{sign} {said}" if self.spells else said, style=f"bold {style}")
