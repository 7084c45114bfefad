"""The words of an instruction: quotes, the escape character, and variables in their place.

This is not the shell: `$X`, `${X}`, `${X:-word}`, `${X:+word}` and `${X:?word}`, each also without
the colon, and nothing else. Docker's reference: "Environment replacement"; its code: BuildKit's
frontend/dockerfile/shell/lex.go and parser/line_parsers.go.
"""

from __future__ import annotations

import re

from stages.stage4_overlayfs.more.names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BLANK = re.compile(r"[\t\v\f\r ]+")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!$-]")
"""A variable's name. Those that only a shell has are read, too, and are never set."""


def split(text: str, escape: str = "\\") -> list[str]:
    """Return the words as they are written: blanks within quotes part none, quotes stay."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if not quote and BLANK.match(char):
            words += [word] if word else []
            word = ""
        elif char == escape:
            # Whatever follows is part of the word; what follows nothing is dropped.
            word += text[at : at + 2] if at + 1 < len(text) else ""
            at += 1
        else:
            word += char
            if char in "'\"" and quote in ("", char):
                quote = "" if quote else char
        at += 1
    return [*words, word] if word else words


def expand(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """Return a word without its quotes and with its variables' values; an unset one has none.

    Raises ValueError for what isn't a substitution of the kinds above, or has no end.
    """
    return Word(text, values, escape).until("")


class Word:
    """A word that is read from left to right."""

    def __init__(self, text: str, values: Mapping[str, str], escape: str) -> None:
        """Begin at the left."""
        self.text, self.values, self.escape, self.at = text, values, escape, 0

    def take(self) -> str:
        """Return the next character, "" behind the last."""
        self.at += 1
        return self.text[self.at - 1 : self.at]

    def until(self, stop: str) -> str:
        """Return what comes before the character `stop`, or the end; that is read, too."""
        out: list[str] = []
        while char := self.take():
            if char == stop:
                return "".join(out)
            if char == "'":
                out.append(self.literal())
            elif char == '"':
                out.append(self.quoted())
            elif char == "$":
                out.append(self.variable())
            else:
                out.append(self.take() if char == self.escape else char)
        if stop:
            raise ValueError(f"{shown(self.text)}: a {stop} is missing at its end")
        return "".join(out)

    def literal(self) -> str:
        """Return what is in single quotes: all of it is meant as it is."""
        inside, quote, _ = self.text[self.at :].partition("'")
        if not quote:
            raise ValueError(f"{shown(self.text)}: a ' is missing at its end")
        self.at += len(inside) + 1
        return inside

    def quoted(self) -> str:
        """Return what is in double quotes: there are variables in it."""
        out: list[str] = []
        while char := self.take():
            if char == '"':
                return "".join(out)
            if char == "$":
                out.append(self.variable())
            elif char == self.escape and (following := self.text[self.at : self.at + 1]):
                self.at += 1
                # Before anything else it is itself.
                kept = "" if following in ('"', "$", self.escape) else char
                out.append(kept + following)
            else:
                out.append(char)
        raise ValueError(f'{shown(self.text)}: a " is missing at its end')

    def variable(self) -> str:
        """Return the value of what follows a dollar sign."""
        if self.text[self.at : self.at + 1] == "{":
            self.at += 1
            return self.braced()
        found = NAME.match(self.text, self.at)
        if not found:
            return "$"
        self.at = found.end()
        return self.values.get(found[0], "")

    def braced(self) -> str:
        """Return the value of what is in braces."""
        found = NAME.match(self.text, self.at)
        if not found:
            raise ValueError(f"{shown(self.text)}: ${{ without a name: say ${{NAME}}")
        self.at, name = found.end(), found[0]
        value = self.values.get(name)
        kind = self.take()
        if kind == "}":
            return value or ""
        colon = kind == ":"
        kind = self.take() if colon else kind
        if kind not in ("-", "+", "?") or not kind:
            raise ValueError(
                f"{shown(self.text)}: of ${{{name}…}} only the forms ${{{name}}}, "
                f"${{{name}:-word}}, ${{{name}:+word}} and ${{{name}:?word}} are known here"
            )
        word = self.until("}")
        # With the colon, empty counts as unset.
        is_set = bool(value) if colon else value is not None
        if kind == "+":
            return word if is_set else ""
        if kind == "?" and not is_set:
            raise ValueError(f"{name}: {shown(word) or 'it has no value'}: give it one")
        return (value or "") if is_set else word
