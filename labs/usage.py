"""The help of `labrun`, in the language in use.

Typer knows the commands and what each takes; labs/texts/cli.toml says what they mean. The layout is
ours: typer's own breaks lines at spaces only, of which Chinese has none, and cuts off the rest.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from labs import texts

Function = TypeVar("Function", bound=Callable[..., Any])
COLUMN = 28
"""Where what an option means begins, at the latest."""


class App(typer.Typer):
    """A typer app whose help and usage are in the language in use."""

    def __init__(self, **settings: Any) -> None:
        """Take what typer takes."""
        super().__init__(cls=Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Add a command, as typer does."""
        return super().command(name, cls=Command, **settings)


class Command(TyperCommand):
    """A command that can be asked for help in either language: `--help --lang zh`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Heed `--lang` before all else: `--help` ends the program wherever it stands."""
        if any("--lang" in parameter.opts for parameter in self.params):
            texts.speak(asked(args))
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the usage line."""
        formatter.write(f"{texts.say('cli.usage')}{usage(self, ctx)}\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        write_help(self, ctx, formatter)


class Group(TyperGroup):
    """`labrun` itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Heed `--lang` before all else, as a command does."""
        if any("--lang" in parameter.opts for parameter in self.params):
            texts.speak(asked(args[:2]))
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the usage line."""
        formatter.write(f"{texts.say('cli.usage')}{usage(self, ctx)}\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with a line for each command."""
        write_help(self, ctx, formatter)


def asked(arguments: Sequence[str]) -> str | None:
    """Return the language that a command line asks for, None where it names none that we speak."""
    own = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    values = [value for word, value in pairwise(own) if word == "--lang"]
    values += [word.removeprefix("--lang=") for word in own if word.startswith("--lang=")]
    return next((value for value in values if value in texts.LANGUAGES), None)


# ---- what typer knows ---------------------------------------------------------------------------


def usage(command: Any, context: Any) -> str:
    """Return the usage line of a typer command, without `Usage:`."""
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def parameters(command: Any, context: Any) -> tuple[list[Any], list[Any]]:
    """Return the arguments of a typer command, and its options."""
    both = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    options = [each for each in both if each.param_type_name == "option"]
    return [each for each in both if each not in options], options


def commands(group: Any) -> dict[str, Any]:
    """Return the commands of a typer group that are not hidden, by name."""
    every = getattr(group, "commands", {})
    return {name: command for name, command in every.items() if not command.hidden}


def spelled(parameter: Any) -> list[str]:
    """Return how a parameter is typed: `STEP`, or each of `-h` and `--help`, or `--json FILE`."""
    value = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name != "option":
        return [value]
    names = sorted([*parameter.opts, *parameter.secondary_opts], key=lambda name: (len(name), name))
    return names if parameter.is_flag else [f"{name} {value}" for name in names]


def default(parameter: Any) -> str:
    """Return a parameter's default value as the reader would type it, "" where there is none."""
    value = parameter.default
    return "" if value is None or value is False or callable(value) else str(value)


# ---- what it means ------------------------------------------------------------------------------


def about(command: str, part: str = "", *, language: str = "") -> str:
    """Return what a command does or, with `part`, what that parameter of it means; "" if unsaid.

    All `stageN` share their sentences; parameters that mean the same everywhere do so, too.
    """
    name = command.rstrip("0123456789")
    said = texts.room("cli")
    keys = (f"{name}.{part}", f"any.{part}") if part else (name,)
    sentence = next((said[key] for key in keys if key in said), None)
    if sentence is None:
        return ""
    return sentence[language or texts.language()].format(number=command.removeprefix(name))


# ---- the help -----------------------------------------------------------------------------------


def write_help(command: Any, context: Any, formatter: Any) -> None:
    """Write usage, what the command does, and its arguments, options and commands."""
    command.format_usage(context, formatter)
    formatter.write("\n" + _folded(about(command.name) or command.help or "", formatter.width))
    arguments, options = parameters(command, context)
    for title, those in (("arguments", arguments), ("options", options)):
        rows = [(", ".join(spelled(each)), _meaning(command, each)) for each in those]
        _write_rows(formatter, title, rows)
    rows = [(name, about(name) or each.help or "") for name, each in commands(command).items()]
    _write_rows(formatter, "commands", rows)


def _meaning(command: Any, parameter: Any) -> str:
    words = [about(command.name, parameter.name) or parameter.help or ""]
    if value := default(parameter):
        words.append(texts.say("cli.default", value=value))
    return ("" if texts.language() == "zh" else " ").join(filter(None, words))


def _write_rows(formatter: Any, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write what is typed on the left, and what it means on the right, under a title."""
    if not rows:
        return
    column = min(max(len(typed) for typed, _ in rows) + 4, COLUMN)
    formatter.write(f"\n{texts.say(f'cli.{title}')}\n")
    for typed, meaning in rows:
        formatter.write("".join(_row(f"  {typed}", column, meaning, formatter.width)))


def _row(typed: str, column: int, meaning: str, width: int) -> Iterator[str]:
    lines = _folded(meaning, width - column).splitlines()
    if len(typed) > column - 2:
        yield f"{typed}\n"
    elif lines:
        yield f"{typed:<{column}}{lines.pop(0)}\n"
    yield from _indented(lines, column)


def _indented(lines: Iterable[str], column: int) -> Iterator[str]:
    return (f"{'':<{column}}{line}\n" for line in lines)


def _folded(text: str, width: int) -> str:
    from labs.demo.wrap import wrap

    return "".join(f"{line}\n" for line in wrap(text, width))


def complain(error: Any) -> None:
    """Show an error of typer's: the usage, where to look, and what is wrong, on stderr.

    What is wrong is said in typer's own words, which are English.
    """
    if context := getattr(error, "ctx", None):
        see = texts.say("cli.see", command=f"{context.command_path} --help")
        print(context.get_usage(), see, "", sep="\n", file=sys.stderr)
    print(f"labrun: {error.format_message()}", file=sys.stderr)
