"""How a verdict looks: a sign and a word, never by colour alone."""

from checks.model import Verdict
from labs import texts

SIGNS = {
    # verdict: sign, plain sign, and a colour that a light terminal shows, too
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
