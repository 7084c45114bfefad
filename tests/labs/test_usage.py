"""The help of `labrun` is in the language of the locale, or in the one asked for."""

import re
import subprocess
from collections.abc import Callable, Iterator
from unicodedata import east_asian_width

import pytest
import typer

from labs import cli, texts, usage
from labs.errors import USAGE
from tests.running import LABRUN, run

CHINESE = re.compile(r"[\u4e00-\u9fff]")
NAMES = tuple(usage.commands(typer.main.get_command(cli.app)))
SPEAKS = tuple(name for name in NAMES if name != "test")
"""`labrun test` has no --lang."""


def labrun(*words: str, lang: str = "C", columns: int = 80) -> subprocess.CompletedProcess[bytes]:
    environment = {"LC_ALL": "", "LC_MESSAGES": "", "LANG": lang, "COLUMNS": str(columns)}
    return run([LABRUN, *words], environment=environment)


def cells(line: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


@pytest.mark.parametrize("words", [(), *((name,) for name in NAMES)], ids=" ".join)
def test_help_is_in_the_language_of_the_locale(words: tuple[str, ...]) -> None:
    english = labrun(*words, "--help")
    assert english.returncode == 0
    text = english.stdout.decode()
    assert text.startswith(f"Usage: {' '.join(('labrun', *words))} [OPTIONS]")
    assert not CHINESE.search(text.replace("简体中文", ""))
    chinese = labrun(*words, "-h", lang="zh_CN.UTF-8")
    assert chinese.returncode == 0
    said = chinese.stdout.decode()
    assert said.startswith(f"用法：{' '.join(('labrun', *words))} [OPTIONS]")
    assert not re.search(r"Usage|Options:|Commands:|Show this", said)


@pytest.mark.parametrize("name", SPEAKS)
def test_help_is_in_the_language_asked_for_wherever_that_is_said(name: str) -> None:
    wanted = labrun(name, "--help", lang="zh_CN.UTF-8").stdout
    for words in (("--help", "--lang", "zh"), ("--lang=zh", "-h"), ("--lang", "zh", "--help")):
        assert labrun(name, *words).stdout == wanted
    english = labrun(name, "--help", "--lang", "en", lang="zh_CN.UTF-8").stdout
    assert english == labrun(name, "--help").stdout != wanted


def test_a_language_that_we_do_not_speak_is_not_asked_for() -> None:
    assert usage.asked(["--lang", "xx", "--help"]) is None
    assert usage.asked(["--", "--lang", "zh"]) is None
    assert usage.asked(["--lang"]) is None


@pytest.fixture
def in_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Return what has labrun speak in this process, whose language is as before afterwards."""
    before = texts.language()

    def in_here(*words: str, lang: str, columns: int) -> str:
        for name in ("LC_ALL", "LC_MESSAGES"):
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("LANG", lang)
        monkeypatch.setenv("COLUMNS", str(columns))
        texts.speak(None)
        with pytest.raises(SystemExit):
            cli.app(words, prog_name="labrun")
        return capsys.readouterr().out

    yield in_here
    texts.speak(before)


@pytest.mark.parametrize("lang", ["C", "zh_CN.UTF-8"])
@pytest.mark.parametrize("columns", [52, 80, 200])
def test_nothing_is_cut_off_and_no_line_is_too_wide(
    in_here: Callable[..., str], lang: str, columns: int
) -> None:
    for name in NAMES:
        text = in_here(name, "--help", lang=lang, columns=columns)
        assert "…" not in text
        lines = text.splitlines()[1:]
        assert max(map(cells, lines)) <= columns


@pytest.mark.parametrize("lang", ["C", "zh_CN.UTF-8"])
def test_in_this_process_it_says_what_it_says_in_one_of_its_own(
    in_here: Callable[..., str], lang: str
) -> None:
    ours = in_here("check", "--help", lang=lang, columns=52)
    assert ours == labrun("check", "--help", lang=lang, columns=52).stdout.decode()
    assert ours != in_here("check", "--help", lang=lang, columns=80)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("frob",), "labrun: No such command 'frob'."),
        (("check", "--frob"), "labrun: No such option: --frob"),
        (("doctor", "x"), "labrun: Got unexpected extra argument(s) (x)"),
    ],
)
def test_a_mistake_shows_the_usage_and_where_to_look(words: tuple[str, ...], wrong: str) -> None:
    english, chinese = labrun(*words), labrun(*words, lang="zh_CN.UTF-8")
    assert english.returncode == chinese.returncode == USAGE
    assert english.stdout == chinese.stdout == b""
    assert english.stderr.decode().startswith("Usage: labrun")
    assert chinese.stderr.decode().startswith("用法：labrun")
    for ended in (english, chinese):
        assert "--help" in ended.stderr.decode()
        assert ended.stderr.decode().splitlines()[-1].startswith(wrong)
