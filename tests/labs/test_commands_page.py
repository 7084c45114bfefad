"""The page on the command line holds all that can be typed, in both languages."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import typer

from labs import cli, texts, usage
from labs.docs import commands
from labs.docs.commands import RUN_STATUSES, STATUSES, page
from labs.errors import CANNOT, FAILED, USAGE
from labs.paths import CHECKOUT
from labs.privilege import KEPT
from labs.stages import BUILT
from stages import command_line

CHINESE = re.compile(r"[\u4e00-\u9fff]")
HEADING = re.compile(r"^(#+) (.+) \{#([\w-]+)\}$", re.MULTILINE)
PAGES = {language: page(language) for language in texts.LANGUAGES}
GROUP: Any = typer.main.get_command(cli.app)
COMMANDS = usage.commands(GROUP)


def section(text: str, id_: str) -> str:
    """Return what stands under a heading, up to the next."""
    _, found, rest = text.partition(f"{{#{id_}}}\n")
    assert found, id_
    return re.split(r"^#+ .*\{#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def terms(text: str) -> list[str]:
    return re.findall(r"^(.+)\n:   \S", text, re.MULTILINE)


def prose(text: str) -> list[str]:
    """Return the paragraphs and meanings of a page, without code, headings and terms."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^(#.*|.+\n(?=:   ))", "", text, flags=re.MULTILINE)
    return [line.removeprefix(":   ") for line in text.splitlines() if line]


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_all_that_it_takes(name: str, language: str) -> None:
    command = COMMANDS[name]
    said = section(PAGES[language], name)
    assert f"```text\nlabrun {name} [OPTIONS]" in said
    spelled = [f"`{word}`" for p in command.params for word in usage.spelled(p)]
    listed = ", ".join(terms(said))
    assert [word for word in spelled if word not in listed] == []
    assert "`-h`, `--help`" in listed
    assert f"[`{name}`](#{name})" in terms(section(PAGES[language], "labrun"))


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_parameter_says_what_it_means(name: str, language: str) -> None:
    command = COMMANDS[name]
    assert usage.about(name, language=language)
    unsaid = [p.name for p in command.params if not usage.about(name, p.name, language=language)]
    assert unsaid == []


def test_every_sentence_about_a_command_is_about_one_that_is_there() -> None:
    kept = {"labrun", "any", "page", "status", "run", "variable"}
    around = {"usage", "default", "options", "arguments", "commands", "see"}
    known = {name.rstrip("0123456789"): command for name, command in COMMANDS.items()}
    everywhere = {p.name for command in COMMANDS.values() for p in command.params} | {"help"}
    for key in texts.room("cli"):
        name, _, part = key.partition(".")
        if name in known:
            assert part in {"", "more", *(p.name for p in known[name].params)}, key
        elif name == "any":
            assert part in everywhere, key
        else:
            assert name in kept | around, key


def test_defaults_are_shown() -> None:
    assert "(default: `rootfs`)" in section(PAGES["en"], "rootfs")
    assert "（默认：`busybox`）" in section(PAGES["zh"], "rootfs")


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_option_of_a_runtime_is_there(language: str) -> None:
    listed = ", ".join(terms(section(PAGES[language], "run-options")))
    for stage in BUILT:
        for short, long, value, _ in commands.table(stage):
            for name in filter(None, (short, long)):
                assert f"`{f'{name} {value}'.strip()}`" in listed


def test_every_option_of_a_runtime_has_its_chinese() -> None:
    """A stage's sentence that changed must be written anew in Chinese, too."""
    said = texts.room("options")
    stages = {long: meaning for stage in BUILT for _, long, _, meaning in commands.table(stage)}
    assert {long: each["en"] for long, each in said.items()} == stages


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize("name", commands.verbs())
def test_every_verb_of_a_runtime_is_there(name: str, language: str) -> None:
    verb = commands.verbs()[name]
    said = section(PAGES[language], name.replace(" ", "-"))
    assert f"```text\n{name} [OPTIONS] {verb.operands}".rstrip() in said
    spelled = [
        ", ".join(f"`{f'{word} {value}'.strip()}`" for word in (short, long) if word)
        for short, long, value, _ in verb.options
    ]
    assert terms(said) == spelled


def test_every_verb_of_a_runtime_has_its_chinese() -> None:
    """A stage's sentence that changed must be written anew in Chinese, too."""
    stages = {}
    for name, verb in commands.verbs().items():
        stages[name] = verb.meaning
        stages |= {f"{name} {long}": meaning for _, long, _, meaning in verb.options}
    assert {key: each["en"] for key, each in texts.room("verbs").items()} == stages


def test_the_verbs_are_those_that_the_contract_has() -> None:
    there = {*commands.verbs()}
    words = ("import", "ls", "rm", "history", "inspect", "export", "prune", "verify")
    images = {f"stage4 image {word}" for word in words}
    assert images | {f"stage4 {word}" for word in ("build", "commit", "diff", "rm")} <= there
    lives = "start ps exec logs stop kill pause unpause wait top stats inspect cp rename port"
    nouns = [f"{noun} {word}" for noun in ("network", "volume") for word in ("create", "ls", "rm")]
    assert {
        f"stage5 {word}" for word in (*lives.split(), *nouns, "images", "rmi", "system df")
    } <= there


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_exit_status_is_there(language: str) -> None:
    own = terms(section(PAGES[language], "exit-status"))
    assert own == [f"`{number}`" for number, _ in STATUSES]
    assert {f"`{number}`" for number in (0, FAILED, USAGE, CANNOT, 130)} < set(own)
    run = terms(section(PAGES[language], "run-exit-status"))
    assert run == [f"`{number}`" for number, _ in RUN_STATUSES]
    of_run = (command_line.FAILED, command_line.NOT_EXECUTABLE, command_line.NOT_FOUND)
    assert {f"`{number}`" for number in of_run} < set(run)


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_variables_are_those_that_the_code_reads(language: str) -> None:
    listed = {term.strip("`") for term in terms(section(PAGES[language], "environment"))}
    sources = [CHECKOUT / "labrun", *(CHECKOUT / "stages").glob("*.py")]
    # A stage that has no command yet is read by nobody but its own tests.
    for folder in ("labs", "checks", *(f"stages/{stage}_*" for stage in BUILT)):
        for each in CHECKOUT.glob(folder):
            sources += each.rglob("*.py")
    code = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    ours = set(re.findall(r"(?:environ\.get\(|environ\[)\"(LABRUN_\w+)|\$\{?(LABRUN_\w+)", code))
    assert {one or other for one, other in ours} == {n for n in listed if n.startswith("LABRUN_")}
    # rich reads those that are about colours.
    assert all(f'"{name}"' in code or f"${name}" in code for name in listed)
    assert {"NO_COLOR", "FORCE_COLOR", "CI"} == listed & set(KEPT) - {
        name for name in listed if name.startswith("LABRUN_")
    }


def test_both_languages_have_one_structure() -> None:
    shapes = [[(len(h), id_) for h, _, id_ in HEADING.findall(text)] for text in PAGES.values()]
    assert shapes[0] == shapes[1]
    assert terms(PAGES["en"]) == terms(PAGES["zh"])
    assert len(prose(PAGES["en"])) == len(prose(PAGES["zh"]))


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_headings_are_in_order_and_their_ids_are_their_own(language: str) -> None:
    headings = HEADING.findall(PAGES[language])
    levels = [len(level) for level, _, _ in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [id_ for _, _, id_ in headings]
    assert len(ids) == len(set(ids))
    assert PAGES[language].count("{#") == len(ids)
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGES[language])) <= set(ids)


def test_chinese_prose_is_chinese_and_english_prose_english() -> None:
    assert [line for line in prose(PAGES["zh"]) if not CHINESE.search(line)] == []
    english = [line for line in prose(PAGES["en"]) if CHINESE.search(line)]
    assert set(english) == {"English or 简体中文. Without it, the locale decides."}


def test_the_page_is_the_same_on_every_machine() -> None:
    code = "from labs.docs.commands import page; print(page('en'), end='')"
    for seed, width, locale in (("1", "40", "zh_CN.UTF-8"), ("2", "200", "C")):
        environment = {"PYTHONHASHSEED": seed, "COLUMNS": width, "LANG": locale}
        ended = subprocess.run(
            [sys.executable, "-Xutf8", "-c", code],
            env={**os.environ, **environment},
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
        )
        assert ended.stdout.decode() == PAGES["en"]
    assert str(CHECKOUT) not in PAGES["en"]


def test_a_command_that_is_added_appears() -> None:
    app = usage.App(name="labrun")
    app.command("one")(lambda: None)

    @app.command("fold", help="Fold *all* of <it>: a[0]|b_c, `as_is`.")
    def _(
        corner: int = typer.Option(3, "--corner", "-c", metavar="A|B", help="Which."),
        hidden: bool = typer.Option(False, "--hidden", hidden=True),
    ) -> None:
        """Do nothing."""

    text = page("en", app)
    assert "## labrun fold {#fold}" in text
    assert r"Fold \*all\* of \<it\>: a\[0\]\|b\_c, `as_is`." in section(text, "fold")
    assert "`-c A|B`, `--corner A|B`\n:   Which. (default: `3`)" in section(text, "fold")
    assert "--hidden" not in text
    assert "{#fold}" not in PAGES["en"]
