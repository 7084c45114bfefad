"""How far it is, for whoever looks on: a line a blob on a terminal, and not a word elsewhere."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, TextIO

OFTEN = 0.1
"""Seconds between two drawings of a line: more often nobody can read it."""


class Progress:
    """Lines about blobs; at the end the cursor is at the beginning of a line, whatever happened."""

    def __init__(self, file: TextIO) -> None:
        """Write to `file`, if it is a terminal."""
        self.file, self.seen = file, file.isatty()
        self.digest, self.width, self.next = "", 0, 0.0

    def __enter__(self) -> Self:
        """Begin with no line."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the line that is open, so that an error begins one of its own."""
        if self.width:
            self.file.write("\n")
            self.file.flush()

    def tell(self, what: str, digest: str, done: int, size: int) -> None:
        """Draw the line of a blob, of which `done` bytes of `size` are there."""
        now = time.monotonic()
        if not self.seen or (digest == self.digest and now < self.next and done < size):
            return
        text = f"{what:<5}  {digest[:19]}  {in_units(size):>10}"
        if done < size:
            text += f"  {100 * done // size:>3} %"
        if self.width and digest != self.digest:
            self.file.write("\n")
            self.width = 0
        # Blanks wipe out the rest of what was longer; not every terminal knows a code for that.
        self.file.write(f"\r{text:<{self.width}}")
        self.file.flush()
        self.digest, self.width, self.next = digest, len(text), now + OFTEN


def in_units(count: int) -> str:
    """Return a number of bytes in the unit that fits."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
