"""Every sentence exists in both languages, and both have the same places to fill in.

That holds for what labrun says, for what the judges say, and for the titles and hints of the axes.
"""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import checks
import labs
from checks.model import Axis, axes
from checks.words import JUDGES, Texts
from labs import texts

LABS = Texts(Path(texts.__file__).parent)


def sentences(said: Texts) -> dict[str, dict[str, str]]:
    """Return every sentence of a folder by its key, `room.sentence`."""
    rooms = sorted(file.stem for file in said.folder.glob("*.toml"))
    return {f"{room}.{key}": each for room in rooms for key, each in said.room(room).items()}


SENTENCES = [
    pytest.param(sentence, id=f"{name}:{key}")
    for name, said in (("labs", LABS), ("checks", JUDGES))
    for key, sentence in sentences(said).items()
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


@pytest.mark.parametrize("axis", axes().values(), ids=axes())
def test_an_axis_is_whole_in_both_languages(axis: Axis) -> None:
    assert faults(dict(axis.title)) == []
    assert not axis.title["en"][0].isupper()
    assert faults(dict(axis.hint)) == []


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


def calls_of_say(folder: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of `say` in a folder's code, with where it stands."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name == "say":
                    yield f"{file.relative_to(folder)}:{node.lineno}", node


def key_of(call: ast.Call) -> str | None:
    """Return the key that a call asks for, where it is written out (and is one)."""
    first = call.args[0]
    written = first.value if isinstance(first, ast.Constant) else None
    return written if isinstance(written, str) and re.fullmatch(r"\w+\.[\w.]+", written) else None


def unsayable(call: ast.Call, known: dict[str, dict[str, str]]) -> str:
    """Say why a call would fail: no such sentence, or other places than the sentence has."""
    key = key_of(call)
    if key is None:
        return ""
    if key not in known:
        return f"there is no {key}"
    given = {word.arg for word in call.keywords}
    wanted: set[str | None] = {*places(known[key]["en"])}
    # `**places` may hold any of them.
    fits = given - {None} <= wanted if None in given else given == wanted
    return "" if fits else f"{key} has the places {wanted}, not {given}"


@pytest.mark.parametrize(
    ("package", "said"), [(labs, LABS), (checks, JUDGES)], ids=("labs", "checks")
)
def test_what_the_code_says_is_there_to_be_said(package: ModuleType, said: Texts) -> None:
    folder, known = Path(str(package.__file__)).parent, sentences(said)
    wrong = {where: unsayable(call, known) for where, call in calls_of_say(folder)}
    assert {where: why for where, why in wrong.items() if why} == {}


def test_the_judges_say_every_sentence_that_they_have() -> None:
    calls = [call for _, call in calls_of_say(Path(str(checks.__file__)).parent)]
    assert {key_of(call) for call in calls} == set(sentences(JUDGES))


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('say("a.b", x=1)', ""),
        ('say("a.b", **more)', ""),
        ("say(key)", ""),
        ('say("a.c")', "there is no a.c"),
        ('say("a.b")', "has the places"),
        ('say("a.b", x=1, y=2)', "has the places"),
        ('say("a.b", y=2, **more)', "has the places"),
    ],
)
def test_a_call_that_would_fail_is_found(code: str, fault: str) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    found = unsayable(call, {"a.b": {"en": "{x}", "zh": "{x}"}})
    assert fault in found
    assert bool(fault) == bool(found)


@pytest.fixture
def spoken() -> Iterator[None]:
    """Give the language back that was in use before."""
    before = texts.language()
    yield
    texts.speak(before)


@pytest.mark.usefixtures("spoken")
def test_one_language_is_in_use_for_labrun_and_its_judges() -> None:
    texts.speak("zh")
    assert texts.say("doctor.can") == "可以运行"
    assert JUDGES.say("runtime.nothing") == "什么也没说"
    texts.speak("en")
    assert texts.say("doctor.can") == "can run here"
    assert JUDGES.say("runtime.nothing") == "nothing"


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(
    ("locale", "language"),
    [("zh_CN.UTF-8", "zh"), ("zh", "zh"), ("de_DE.UTF-8", "en"), ("C", "en"), ("", "en")],
)
def test_without_a_choice_the_locale_says_the_language(
    monkeypatch: pytest.MonkeyPatch, locale: str, language: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", locale)
    texts.speak(None)
    assert texts.language() == language


def test_a_path_that_is_no_text_can_still_be_printed() -> None:
    said = JUDGES.say("fs.canary_read", path="/\udcff")
    assert "/\\udcff" in said
    said.encode("utf-8")
