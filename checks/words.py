"""Sentences as data: English and Chinese side by side, one TOML file a room.

A file holds tables of the form `[key]` with `en = "…"` and `zh = "…"`; a sentence may have
`{named}` places. The judges' own rooms are in checks/texts; labs/ keeps its own in the same form.
"""

import os
import tomllib
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "zh")
_language = ""


def speak(language: str | None) -> None:
    """Choose the language for this process: `en`, `zh`, or None for what the locale says."""
    global _language
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    _language = language or ("zh" if locale.startswith("zh") else "en")


def language() -> str:
    """Return the language in use, `en` or `zh`."""
    if not _language:
        speak(None)
    return _language


@cache
def _read(file: Path) -> dict[str, dict[str, str]]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


class Texts:
    """The sentences of one folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, with one TOML file a room."""
        self.folder = folder

    def room(self, name: str) -> dict[str, dict[str, str]]:
        """Return all sentences of one room, `NAME.toml`."""
        return _read(self.folder / f"{name}.toml")

    def say(self, key: str, **places: object) -> str:
        """Return the sentence `ROOM.KEY` in the language in use, its places filled in."""
        name, _, sentence = key.partition(".")
        said = self.room(name)[sentence][language()].format(**places)
        # A path may hold bytes that are no text: they are shown, and can be printed, as escapes.
        return said.encode("utf-8", "backslashreplace").decode("utf-8")


JUDGES = Texts(Path(__file__).with_name("texts"))
"""What the judges say."""
say = JUDGES.say
