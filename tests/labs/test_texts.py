"""Every sentence exists in both languages, and both have the same places to fill in."""

import re
import string
from pathlib import Path

import pytest

from labs import texts

FOLDER = Path(texts.__file__).parent
SENTENCES = [
    pytest.param(sentence, id=f"{file.stem}.{key}")
    for file in sorted(FOLDER.glob("*.toml"))
    for key, sentence in texts.room(file.stem).items()
]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
PLACE = re.compile(r"\{[^}]*\}")
TYPED = ("sudo", "./labrun", "apt-get", "chmod", "mkdir", "mount", "rm", "umount")
"""A sentence that begins with one of these is a command, the same in every language."""


def places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def faults(sentence: dict[str, object]) -> list[str]:
    """Say what is wrong with one table of a room.

    `same = true` declares that a sentence is the same in both languages: a command, a name.
    """
    missing = [language for language in texts.LANGUAGES if not sentence.get(language)]
    if missing:
        return [f"has no {language}" for language in missing]
    found = []
    en, zh = str(sentence["en"]), str(sentence["zh"])
    if places(en) != places(zh):
        found.append(f"places differ: {places(en)} and {places(zh)}")
    if sentence.get("same", False) is True:
        if en != zh:
            found.append("is declared the same, and is not")
    elif not CHINESE.search(zh) and re.search(r"\w", PLACE.sub("", zh)):
        typed = en == zh and en.split()[0] in TYPED
        found += [] if typed else ["has a Chinese text without Chinese"]
    if unknown := set(sentence) - {*texts.LANGUAGES, "same"}:
        found.append(f"has unknown keys: {unknown}")
    return found


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_is_whole_in_both_languages(sentence: dict[str, object]) -> None:
    assert faults(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ({"en": "Hello"}, "has no zh"),
        ({"zh": "你好"}, "has no en"),
        ({"en": "", "zh": "你好"}, "has no en"),
        ({"en": "{a} is {b}", "zh": "{a} 是"}, "places differ"),
        ({"en": "Hello", "zh": "Hello"}, "without Chinese"),
        ({"en": "umount it", "zh": "umount that"}, "without Chinese"),
        ({"en": "Hello", "zh": "你好", "same": True}, "is declared the same"),
        ({"en": "Hello", "zh": "你好", "zn": "你好"}, "unknown keys"),
    ],
)
def test_each_fault_is_found(sentence: dict[str, object], fault: str) -> None:
    assert any(fault in found for found in faults(sentence))


def test_an_unlike_language_is_said_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_language", "zh")
    assert texts.say("doctor.can") == "可以运行"
    monkeypatch.setattr(texts, "_language", "en")
    assert texts.say("doctor.can") == "can run here"
