"""How a verdict looks: a sign and a word, never by colour alone."""

from rich.text import Text

from checks.model import Verdict
from labs import texts

SIGNS = {
    # verdict: sign, plain sign, style
    Verdict.ISOLATED: ("✓", "+", "green"),
    Verdict.KEPT: ("✓", "+", "green"),
    Verdict.LIMITED: ("≤", "<=", "cyan"),
    Verdict.LEAKS: ("✗", "x", "red"),
    Verdict.BROKEN: ("✗", "x", "red"),
    Verdict.UNLIMITED: ("✗", "x", "red"),
    Verdict.UNKNOWN: ("?", "?", "dim"),
}


def word(verdict: Verdict) -> str:
    """Return the verdict in the reader's language."""
    return texts.say(f"verdicts.{verdict.value}")


def sign(verdict: Verdict, *, plain: bool = False) -> Text:
    """Return sign and word, such as `✗ LEAKS`; `plain` for an output that is not UTF-8."""
    mark, ascii_mark, style = SIGNS[verdict]
    return Text(f"{ascii_mark if plain else mark} {word(verdict)}", style=style)
