"""Every sentence that labrun says, in English and Chinese side by side: one TOML file a room.

A file holds tables of the form `[key]` with `en = "…"` and `zh = "…"`; a sentence may have
`{named}` places. `tests/labs/test_texts.py` fails where one of the two languages is missing.
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
def room(name: str) -> dict[str, dict[str, str]]:
    """Return all sentences of one room, `labs/texts/NAME.toml`."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


def say(key: str, **places: object) -> str:
    """Return the sentence `ROOM.KEY` in the language in use, its places filled in."""
    name, _, sentence = key.partition(".")
    return room(name)[sentence][language()].format(**places)
