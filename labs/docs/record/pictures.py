"""The pictures: docs/pictures/NAME.svg, drawn once, with the words of NAME.toml in a language.

Each is quoted into its page, so that it takes the page's colours and its text can be read aloud.
"""

import tomllib
from html import escape
from pathlib import Path


def all_of(folder: Path, language: str) -> dict[str, str]:
    """Return each picture in a language, by the name of its file. Raises KeyError for a word."""
    drawn = {}
    for picture in sorted(folder.glob("*.svg")):
        rows = tomllib.loads(picture.with_suffix(".toml").read_text(encoding="utf-8"))
        words = {key: escape(row[language]) for key, row in rows.items()}
        # A block of its own for Markdown: `svg` is none, `figure` is.
        drawn[picture.name] = (
            f"<figure>\n{picture.read_text(encoding='utf-8').format_map(words)}</figure>\n"
        )
    return drawn
