"""Every sentence that labrun says, in English and Chinese side by side: one TOML file a room.

The judges keep their own in checks/texts, in the same form; one language is in use for both.
`tests/labs/test_texts.py` fails where one of the two languages is missing.
"""

from pathlib import Path

from checks.words import LANGUAGES, Texts, language, speak

__all__ = ["LANGUAGES", "language", "room", "say", "speak"]

_texts = Texts(Path(__file__).parent)
room, say = _texts.room, _texts.say
