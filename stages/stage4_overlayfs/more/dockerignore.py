"""What a .dockerignore keeps out of the context: its patterns, as Docker reads them.

    *     any characters but /         #…   at the line's beginning, a comment
    ?     one character but /          !…   back in, whatever kept it out before
    [a-z] one of those                 **   any number of directories, or none

The last pattern that fits decides, and one that fits a directory fits all that is in it.
See Docker's "Build context", and moby's patternmatcher.
"""

from __future__ import annotations

import posixpath
import re

from stages.stage4_overlayfs.more.names import shown

MOST_PATTERNS = 10_000


class Ignore:
    """The patterns of one file."""

    def __init__(self, text: str = "") -> None:
        """Read it; raise ValueError, with the line, for what is no pattern."""
        self.rules: list[tuple[bool, re.Pattern[str]]] = []
        for line, row in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            # Only at the very beginning: a file may be called so, behind a blank.
            if row.startswith("#") or not row.strip():
                continue
            try:
                self.rules.append(rule(row.strip()))
            except ValueError as error:
                raise ValueError(f".dockerignore:{line}: {shown(row)}: {error}") from None
            if len(self.rules) > MOST_PATTERNS:
                raise ValueError(f".dockerignore:{line}: more than {MOST_PATTERNS} patterns")
        self.brings_back = any(back for back, _ in self.rules)

    def ignores(self, path: str) -> bool:
        """Return whether a path of the context, such as a/b, is kept out."""
        parts = path.split("/")
        ways = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        out = False
        for back, pattern in self.rules:
            # Only a pattern of the other kind can change what is decided.
            if back == out and any(pattern.fullmatch(way) for way in ways):
                out = not back
        return out


def rule(text: str) -> tuple[bool, re.Pattern[str]]:
    """Return whether a line brings back what it fits, and its pattern."""
    back = text.startswith("!")
    text = text[1:].strip() if back else text
    if not text:
        raise ValueError("! brings nothing back: say what")
    # All begin at the context: /a, ./a and b/../a are a.
    return back, translated(posixpath.normpath(text).lstrip("/"))


def translated(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for a pattern; raise ValueError where it is none."""
    out, at = "", 0
    while at < len(pattern):
        char, at = pattern[at], at + 1
        if pattern.startswith("**", at - 1):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            out += "(?:.*/)?" if at < len(pattern) else ".*"
        elif char == "*":
            # Two that can take the same characters would be tried in every way.
            out += "" if out.endswith("[^/]*") else "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            one, at = bracket(pattern, at)
            out += one
        elif char == "\\":
            if at == len(pattern):
                raise ValueError("a \\ at its end: say \\\\ for one")
            out, at = out + re.escape(pattern[at]), at + 1
        else:
            out += re.escape(char)
    return re.compile(out, re.DOTALL)


def bracket(pattern: str, at: int) -> tuple[str, int]:
    """Return the regular expression for the [ … ] that begins before `at`, and where it ends."""
    out, start = "[", at
    if pattern.startswith("^", at):
        out, at, start = "[^/", at + 1, at + 1
    while at < len(pattern) and (pattern[at] != "]" or at == start):
        escaped = pattern[at] == "\\"
        at += escaped
        if at == len(pattern):
            break
        char = pattern[at]
        out += char if char == "-" and not escaped else re.escape(char)
        at += 1
    if at >= len(pattern):
        raise ValueError("a [ without its ]")
    try:
        re.compile(f"{out}]")
    except re.error:
        raise ValueError("a [ ] with a range that is none") from None
    return f"(?!/){out}]", at + 1
