"""The table: a row an axis, a column a runtime, in each cell a sign and a word."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from checks.model import Axis, Finding, Verdict
from labs.demo.screen import Screen
from labs.matrix.columns import Column
from labs.matrix.measure import Results
from labs.texts import language, say
from labs.verdicts import SIGNS

HEAT = {
    # Both colours are said, so that it looks alike on dark and on light.
    "green": "black on green",
    "red": "bold white on red",
    "cyan": "black on cyan",
    "dim": "dim",
}
HOLDS = (Verdict.ISOLATED, Verdict.KEPT, Verdict.LIMITED)
SHORT = 8
"""Cells that a sign and the longest of the short words take."""
TITLED = 34
"""Cells that must be left over for a column that says what each axis is."""
POINTER = "›"


@dataclass(frozen=True)
class Layout:
    """How the table fits: with short words or whole ones, and so many columns side by side."""

    short: bool
    cell: int
    columns: int
    title: int = 0


class Grid:
    """The table, and the screen that it is for."""

    def __init__(
        self, screen: Screen, columns: Sequence[Column], asked: Sequence[Axis], results: Results
    ) -> None:
        """Take what was measured, and where it will be shown."""
        self.screen, self.columns, self.asked, self.results = screen, columns, asked, results
        self.margin = max(cell_len(axis.id) for axis in asked)

    def finding(self, axis: Axis, column: Column) -> Finding:
        """Return what was found in a cell."""
        return self.results[column.name][axis.id]

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts that there are."""
        found = {
            self.finding(axis, column).verdict for axis in self.asked for column in self.columns
        }
        return [each for each in Verdict if each in found]

    def layout(self) -> Layout:
        """Return how the table fits the screen as wide as it is now."""
        words = max(cell_len(self.words(verdict, short=False)) for verdict in self.verdicts())
        whole = max(words, min(max(cell_len(column.name) for column in self.columns), 12))
        room, count = self.screen.width - self.margin, len(self.columns)
        if count * (whole + 1) <= room:
            left = room - count * (whole + 1) - 2
            return Layout(False, whole, count, left if left >= TITLED else 0)
        return Layout(True, SHORT, max(min(room // (SHORT + 1), count), 1))

    def words(self, verdict: Verdict, *, short: bool) -> str:
        """Return a verdict's sign and word; the word alone where signs can't be spelled."""
        word = say(f"matrix.short_{verdict}" if short else f"matrix.{verdict}")
        return f"{SIGNS[verdict][0]} {word}" if self.screen.spells else word

    def cell(self, verdict: Verdict, layout: Layout, *, pointed: bool = False) -> Text:
        """Return a cell, with the gap before it; the one `pointed` at is marked there."""
        words = set_cell_size(self.words(verdict, short=layout.short), layout.cell)
        pointer = POINTER if self.screen.spells else ">"
        style = HEAT[SIGNS[verdict][2]]
        return Text.assemble(
            (pointer if pointed else " ", "bold"), (words, "bold reverse" if pointed else style)
        )

    def row(
        self, axis: Axis, columns: Sequence[Column], layout: Layout, *, pointed: int = -1
    ) -> Text:
        """Return an axis's line; `pointed` is the index of the column that is pointed at."""
        group, dot, name = axis.id.partition(".")
        line = Text(no_wrap=True).append(f"{group}{dot}", "dim").append(name, "bold")
        line.append(" " * (self.margin - line.cell_len))
        for number, column in enumerate(columns):
            verdict = self.finding(axis, column).verdict
            line.append_text(self.cell(verdict, layout, pointed=number == pointed))
        if layout.title:
            line.append("  " + axis.title[language()], "dim")
        line.truncate(self.screen.width, overflow="ellipsis")
        return line

    def head(self, columns: Sequence[Column], layout: Layout) -> Text:
        """Return the line with the columns' names."""
        names = (" " + set_cell_size(_cut(each.name, layout.cell), layout.cell) for each in columns)
        return Text(" " * self.margin + "".join(names), style="bold", no_wrap=True)

    def sums(self, columns: Sequence[Column], layout: Layout) -> Text:
        """Return the line that counts, for each column, the axes on which it holds."""
        line = Text(set_cell_size(say("matrix.sum"), self.margin), style="bold", no_wrap=True)
        for column in columns:
            held = sum(self.finding(axis, column).verdict in HOLDS for axis in self.asked)
            count = say("matrix.count", count=held, all=len(self.asked))
            line.append(" " + set_cell_size(count, layout.cell))
        return line

    def legend(self, layout: Layout) -> Text:
        """Return what the signs and words mean, as far as they are to be seen."""
        lines = [""]
        for verdict in self.verdicts():
            word, short = say(f"matrix.{verdict}"), say(f"matrix.short_{verdict}")
            words = self.words(verdict, short=layout.short)
            told = f"{words} = {word}" if layout.short and word != short else words
            # A sign never stands at one line's end, and its word at the next one's beginning.
            if lines[-1] and cell_len(lines[-1]) + 3 + cell_len(told) > self.screen.width:
                lines.append("")
            lines[-1] += f"   {told}" if lines[-1] else told
        return Text("\n".join(lines), style="dim", no_wrap=True)

    def lines(self) -> list[Axis | None]:
        """Return the axes from top to bottom, and None between two groups of them."""
        lines: list[Axis | None] = []
        before = ""
        for axis in self.asked:
            group = axis.id.partition(".")[0]
            if before not in ("", group):
                lines.append(None)
            lines.append(axis)
            before = group
        return lines

    def print(self) -> None:
        """Print all of it; where it is too wide, so many columns at a time."""
        layout = self.layout()
        for first in range(0, len(self.columns), layout.columns):
            columns = self.columns[first : first + layout.columns]
            block = [self.head(columns, layout)]
            for axis in self.lines():
                block.append(self.row(axis, columns, layout) if axis else Text())
            block += [Text(), self.sums(columns, layout), Text()]
            if not self.screen.live:
                for line in block:
                    line.rstrip()
            self.screen.show(block)
        self.screen.show([self.legend(layout)])


def _cut(name: str, width: int) -> str:
    return name if cell_len(name) <= width else set_cell_size(name, width - 1) + "…"
