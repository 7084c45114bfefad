"""The page on the command line, written from the commands and the options themselves.

`page("en")` and `page("zh")` return the same page in two languages: one structure, the same ids.
It is the same on every machine: nothing in it depends on a terminal, a path or Python's version.
"""

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import typer

from labs import cli, texts, usage
from labs.errors import CANNOT, FAILED, USAGE
from labs.paths import CHECKOUT
from labs.stages import BUILT
from stages import command_line

INTERRUPTED = 130
STATUSES = (
    ("0", "done"),
    (str(FAILED), "failed"),
    (str(USAGE), "usage"),
    (str(CANNOT), "cannot"),
    (str(INTERRUPTED), "interrupted"),
    ("128+N", "signalled"),
)
"""The exit statuses of `labrun`, and what each is called in the texts."""
RUN_STATUSES = (
    ("0…255", "own"),
    (str(command_line.USAGE), "usage"),
    (str(command_line.FAILED), "failed"),
    (str(command_line.NOT_EXECUTABLE), "not_executable"),
    (str(command_line.NOT_FOUND), "not_found"),
    ("128+N", "signalled"),
)
"""The exit statuses of a runtime's `run`."""
SPECIAL = re.compile(r"[\\*_<>\[\]#|]")
"""What Markdown would take for its own."""


def page(language: str, app: typer.Typer = cli.app) -> str:
    """Return the page in `en` or `zh`, as Markdown."""
    return "\n\n".join(_blocks(language, app)) + "\n"


def options() -> list[tuple[str, tuple[str, str, str, str]]]:
    """Return each option of the stages' `run`, with the first stage that has it.

    An option is a row of the table that the stage's cli.py hands to `serve`, its `OPTIONS`.
    """
    first: dict[str, tuple[str, tuple[str, str, str, str]]] = {}
    for stage in BUILT:
        for row in table(stage):
            first.setdefault(row[1], (stage.removeprefix("stage"), row))
    return list(first.values())


def table(stage: str) -> tuple[tuple[str, str, str, str], ...]:
    """Return the options of one stage's `run`: short, long, value, what it does."""
    (folder,) = (CHECKOUT / "stages").glob(f"{stage}_*")
    rows: list[tuple[str, str, str, str]] = []
    for short, long, value, meaning in import_module(f"stages.{folder.name}.cli").OPTIONS:
        if long:
            rows.append((short, long, value, meaning))
        else:
            # What an option means goes on in a row without a name.
            rows[-1] = (*rows[-1][:3], f"{rows[-1][3]} {meaning}")
    return tuple(rows)


def verbs() -> dict[str, Any]:
    """Return what a stage has beside `run`, as `STAGE VERB`: each with operands, meaning, options.

    They are in tables `VERBS`, of rooms in the stage's more/.
    """
    found: dict[str, Any] = {}
    for stage in BUILT:
        for file in sorted((CHECKOUT / "stages").glob(f"{stage}_*/more/*.py")):
            if "\nVERBS = {" in file.read_text(encoding="utf-8"):
                module = import_module(f"stages.{file.parents[1].name}.more.{file.stem}")
                found |= {f"{stage} {name}": verb for name, verb in module.VERBS.items()}
    return found


def _blocks(language: str, app: typer.Typer) -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    top = _context(group, "labrun")

    def say(key: str, **places: object) -> str:
        return texts.room("cli")[key.removeprefix("cli.")][language].format(**places)

    yield _heading(1, say("cli.page.title"), "command-line")
    yield say("cli.page.intro")
    yield _heading(2, "labrun", "labrun")
    yield from _command(group, top, language)
    names = usage.commands(group)
    yield _list(
        (f"[`{name}`](#{name})", _prose(usage.about(name, language=language) or each.help or ""))
        for name, each in names.items()
    )
    for name, each in names.items():
        yield _heading(2, f"labrun {name}", name)
        yield from _command(each, _context(each, name, top), language)

    yield _heading(2, say("cli.page.status"), "exit-status")
    yield _list((f"`{number}`", say(f"cli.status.{key}")) for number, key in STATUSES)
    yield _heading(2, say("cli.page.environment"), "environment")
    yield say("cli.page.environment_intro")
    prefix = "variable."
    variables = [key.removeprefix(prefix) for key in texts.room("cli") if key.startswith(prefix)]
    yield _list((f"`{name}`", say(f"cli.{prefix}{name}")) for name in variables)

    yield _heading(2, say("cli.page.runtimes"), "runtimes")
    between = "、" if language == "zh" else ", "
    yield say("cli.page.runtimes_intro", stages=between.join(f"`{stage}`" for stage in BUILT))
    yield _code(f"{stage} run [OPTIONS] ROOT COMMAND [ARG]..." for stage in BUILT)
    yield say("cli.page.operands")
    yield _heading(3, say("cli.page.runtime_options"), "run-options")
    yield say("cli.page.spelling")
    yield _list(
        (
            _spelled(f"{name} {value}".strip() for name in (short, long) if name),
            _sentence(texts.room("options")[long]["zh"] if language == "zh" else meaning, language)
            + ("" if language == "zh" else " ")
            + say("cli.page.since", number=number),
        )
        for number, (short, long, value, meaning) in options()
    )
    yield _heading(3, say("cli.page.runtime_status"), "run-exit-status")
    yield _list((f"`{number}`", say(f"cli.run.{key}")) for number, key in RUN_STATUSES)
    yield _heading(3, say("cli.page.verbs"), "verbs")
    yield say("cli.page.verbs_intro")
    for name, verb in verbs().items():
        yield _heading(4, name, name.replace(" ", "-"))
        yield from _verb(name, verb, language)


def _context(command: Any, name: str, parent: typer.Context | None = None) -> typer.Context:
    """Return what a command sees when it is called by its name."""
    return typer.Context(command, info_name=name, parent=parent, **(command.context_settings or {}))


def _command(command: Any, context: typer.Context, language: str) -> Iterator[str]:
    """Describe a command: usage, what it does, and each argument and option."""
    yield _code([usage.usage(command, context)])
    yield _prose(usage.about(command.name, language=language) or command.help or "")
    if more := usage.about(command.name, "more", language=language):
        yield _prose(more)
    arguments, opts = usage.parameters(command, context)
    yield _list(
        (_spelled(usage.spelled(each)), _meaning(command.name, each, language))
        for each in (*arguments, *opts)
    )


def _verb(name: str, verb: Any, language: str) -> Iterator[str]:
    """Describe what a stage has beside `run`: usage, what it does, and each option of its own."""
    yield _code([f"{name} [OPTIONS] {verb.operands}".rstrip()])
    said = texts.room("verbs")
    chinese = language == "zh"
    yield _sentence(said[name]["zh"] if chinese else verb.meaning, language)
    if verb.options:
        yield _list(
            (
                _spelled(f"{word} {value}".strip() for word in (short, long) if word),
                _sentence(said[f"{name} {long}"]["zh"] if chinese else meaning, language),
            )
            for short, long, value, meaning in verb.options
        )


def _meaning(command: str, parameter: Any, language: str) -> str:
    words = _prose(usage.about(command, parameter.name, language=language) or parameter.help or "")
    if value := usage.default(parameter):
        said = texts.room("cli")["default"][language].format(value=f"`{value}`")
        words += said if language == "zh" else f" {said}"
    return words


def _heading(level: int, title: str, id_: str) -> str:
    return f"{'#' * level} {title} {{#{id_}}}"


def _code(lines: Iterable[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def _list(rows: Iterable[tuple[str, str]]) -> str:
    """Return a definition list: each term on a line of its own, and what it means below."""
    return "\n\n".join(f"{term}\n:   {meaning}" for term, meaning in rows)


def _spelled(spellings: Iterable[str]) -> str:
    return ", ".join(f"`{each}`" for each in spellings)


def _prose(text: str) -> str:
    """Return a sentence in which Markdown finds nothing of its own but code spans."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else SPECIAL.sub(r"\\\g<0>", p) for p in parts)


def _sentence(text: str, language: str) -> str:
    """Make a sentence of a stage's own words, which have no capital and no full stop."""
    text = _prose(text)
    return text + "。" if language == "zh" else f"{text[0].upper()}{text[1:]}."
