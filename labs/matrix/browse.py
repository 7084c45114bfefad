"""The table at a terminal: arrow keys move through it, Enter opens a cell."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text

from checks.model import Verdict
from labs.demo import pages
from labs.demo.keys import ENTER, HELP, LEFT, QUIT, SAME, Keys
from labs.matrix.by_hand import again, by_hand
from labs.matrix.grid import Grid
from labs.texts import language, say
from labs.verdicts import SIGNS, word

UP, DOWN, RIGHT, TOP, END, PAGE_UP, PAGE_DOWN = "up", "down", "right", "top", "end", "pgup", "pgdn"
MOVES = {
    # what terminals send, in lower case as Keys hands it on: what it means here
    "\x1b[a": UP,
    "\x1boa": UP,
    "\x1b[b": DOWN,
    "\x1bob": DOWN,
    "\x1b[c": RIGHT,
    "\x1boc": RIGHT,
    "\x1b[5~": PAGE_UP,
    "\x1b[6~": PAGE_DOWN,
    "\x1b[h": TOP,
    "\x1b[1~": TOP,
    "\x1b[f": END,
    "\x1b[4~": END,
    "\x1b": LEFT,
    "b": LEFT,
}
HERE = {sent: meant for sent, meant in SAME.items() if sent not in ("\x1b[C", "\x1bOC")}
"""What keys mean in a table, where an arrow to the right is not Enter."""
AROUND = 5
"""Lines of the screen that are not rows: a title, the columns, what is pointed at, two of keys."""


def keys() -> Keys:
    """Return the keys that it is led by."""
    return Keys(same=HERE)


class Browser:
    """Shows the table to a student, and whichever cell they open."""

    def __init__(self, grid: Grid, place: Path, keys: Keys) -> None:
        """Take the table, the root file system that it was measured with, and entered `keys`."""
        self.grid, self.place, self.screen, self.keys = grid, place, grid.screen, keys
        self.row = self.column = self.top = self.left = 0

    def run(self) -> None:
        """Move and open until the student quits. Raises KeyboardInterrupt on Ctrl-C."""
        opened = False
        while True:
            self._show(self._cell() if opened else self._table())
            try:
                key = self.keys.next()
            finally:
                self.screen.show([Text()])
            key = MOVES.get(key, key)
            if key == QUIT:
                return
            if key == ENTER:
                opened = not opened
            elif opened and key == LEFT:
                opened = False
            elif key == HELP:
                self._help()
            else:
                self._move(key)

    def _show(self, page: Sequence[RenderableType]) -> None:
        self.screen.show(page, page=True)

    def _help(self) -> None:
        helped = [self.screen.prose(say(f"matrix.help_{name}")) for name in ("signs", "open")]
        self._show([*helped, Text(), *self._keys("back", "quit")])
        self.keys.next()

    def _move(self, key: str) -> None:
        rows, columns = len(self.grid.asked), len(self.grid.columns)
        step = max(self._height() - 1, 1)
        by = {UP: -1, DOWN: 1, PAGE_UP: -step, PAGE_DOWN: step, TOP: -rows, END: rows}
        self.row = min(max(self.row + by.get(key, 0), 0), rows - 1)
        self.column += {LEFT: -1, RIGHT: 1}.get(key, 0)
        self.column = min(max(self.column, 0), columns - 1)

    def _height(self) -> int:
        return max(self.screen.height - AROUND, 1)

    def _keys(self, *names: str) -> pages.Blocks:
        line = "   ".join(say(f"matrix.key_{name}") for name in names)
        return [self.screen.prose(line, style="dim")]

    def _table(self) -> pages.Blocks:
        """Return the part of the table around the cell that is pointed at."""
        grid, layout = self.grid, self.grid.layout()
        self.left = min(max(self.left, self.column - layout.columns + 1), self.column)
        columns = grid.columns[self.left : self.left + layout.columns]
        axis, height = grid.asked[self.row], self._height()
        pointed = self.column - self.left
        lines = [
            grid.row(each, columns, layout, pointed=pointed if each is axis else -1)
            if each
            else Text()
            for each in grid.lines()
        ]
        at = grid.lines().index(axis)
        # The last axis brings the sums along, which stand below it.
        at += 2 if axis is grid.asked[-1] else 0
        lines += [Text(), grid.sums(columns, layout)]
        self.top = min(max(self.top, at - height + 1), grid.lines().index(axis))
        self.top = min(self.top, max(len(lines) - height, 0))
        about = Text(f"{axis.id}: {axis.title[language()]}", style="italic", no_wrap=True)
        about.truncate(self.screen.width, overflow="ellipsis")
        return [
            self._title(len(columns)),
            grid.head(columns, layout),
            *lines[self.top : self.top + height],
            about,
            *self._keys("move", "open", "help", "quit"),
        ]

    def _title(self, shown: int) -> Text:
        grid = self.grid
        places = {"rows": len(grid.asked), "columns": len(grid.columns)}
        text = say("matrix.title", **places)
        if shown < len(grid.columns):
            text += " · " + say("matrix.part", first=self.left + 1, last=self.left + shown)
        return Text(text, style="dim", no_wrap=True)

    def _cell(self) -> pages.Blocks:
        """Return the page of a cell: what was seen, and how to see it by hand."""
        axis, column = self.grid.asked[self.row], self.grid.columns[self.column]
        finding = self.grid.finding(axis, column)
        rule = Rule(style="dim", characters="─" if self.screen.spells else "-")
        head: pages.Blocks = [
            Text(f"{axis.id} · {column.name}", style="bold"),
            rule,
            self.screen.prose(axis.title[language()], say("matrix.asked")),
            Text(),
            self._sign(finding.verdict),
        ]
        below = [Text(), *self._by_hand(), Text(), *self._keys("close", "next", "quit")]
        seen = [self.screen.prose(fact, " ") for fact in finding.evidence]
        room = self.screen.height - sum(map(self.screen.lines, [*head, *below])) - 1
        return [*head, *self._cropped(seen, room), *below]

    def _sign(self, verdict: Verdict) -> Text:
        sign, _, style = SIGNS[verdict]
        said = word(verdict)
        return Text(f"{sign} {said}" if self.screen.spells else said, style=f"bold {style}")

    def _cropped(self, seen: Sequence[Text], room: int) -> pages.Blocks:
        """Return as many of the facts as fit, and say how many don't."""
        shown: pages.Blocks = []
        for number, fact in enumerate(seen):
            room -= self.screen.lines(fact)
            if room < (1 if number + 1 < len(seen) else 0) and shown:
                return [*shown, Text(say("matrix.more", count=len(seen) - number), style="dim")]
            shown.append(fact)
        return shown

    def _by_hand(self) -> pages.Blocks:
        axis, column = self.grid.asked[self.row], self.grid.columns[self.column]
        hand = by_hand(axis, column, self.place)
        lines = {"before": hand.before, "inside": hand.inside, "after": hand.after}
        lines |= {"host": hand.host, "again": again(axis, column)}
        shown: pages.Blocks = []
        width = max(Text(say(f"matrix.hand_{name}")).cell_len for name in lines)
        for name, command in lines.items():
            if command:
                label = Text(say(f"matrix.hand_{name}"))
                label.append(" " * (width - label.cell_len + 2))
                label.stylize("dim")
                # Unfolded by us: a command that the terminal folds can still be copied whole.
                shown.append(Text.assemble(label, (f"# {command}", "bold")))
        if "ROOT" in hand.inside + hand.before:
            shown.append(Text(f"{' ' * (width + 2)}ROOT={self.place}", style="dim"))
        return shown
