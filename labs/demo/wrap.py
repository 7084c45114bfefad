"""Lines that fit: broken between words, or, in Chinese, between characters."""

import re
from collections.abc import Sequence

from rich.cells import cell_len

CLOSING = "，。、；：？！）」』”’》】…—"
"""Never at the beginning of a line: they belong to what comes before."""
OPENING = "（「『“‘《【"
"""Never at its end."""

TIE = "\u00a0"
"""A space at which no line is broken."""

LATIN = rf"(?:[^\s\u2e80-\uffee]|{TIE})+"
TOKEN = re.compile(rf"(?:(?!{TIE})\s)+|[{OPENING}]*(?:[\u2e80-\uffee]|{LATIN})[{CLOSING}]*")


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` cells, where its script allows it."""
    lines = [""]
    for token in (piece for word in TOKEN.findall(text) for piece in _pieces(word, width)):
        if token.isspace() or cell_len(lines[-1] + token) <= width:
            lines[-1] += token
        else:
            lines.append(token)
    return [line.rstrip() for line in lines]


def bar(words: Sequence[str], width: int) -> list[str]:
    """Join keys and their meanings to lines; a key and its meaning stay together."""
    gap = "   " if cell_len("   ".join(words)) <= width else "  "
    lines = [words[0]]
    for word in words[1:]:
        longer = lines[-1] + gap + word
        if cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _pieces(word: str, width: int) -> list[str]:
    """Cut a word that is wider than a line, behind a `|` or a comma where it has one."""
    pieces: list[str] = []
    piece = ""
    for character in word:
        if piece and cell_len(piece + character) > width:
            cut = max(piece.rfind("|"), piece.rfind(",")) + 1
            pieces.append(piece[:cut] or piece)
            piece = piece[cut:] if cut else ""
        piece += character
    return [*pieces, piece] if piece else pieces
