"""Commands of two words, such as `network ls`: their options, usage, output and exit status."""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

from stages import linux
from stages.command_line import FAILED, USAGE, Usage, note, parse
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.options import store_folder
from stages.stage5_container.more.causes import why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Options = Mapping[str, Sequence[str]]
    Row = tuple[str, str, str, str]

COMMON = (
    ("", "--trace", "", "show each system call on stderr as it is made"),
    ("", "--debug", "", "show a traceback with an error"),
    ("-h", "--help", "", "show this and do nothing"),
)
LISTING = (
    ("-q", "--quiet", "", "one word each"),
    ("-f", "--filter", "name=WORD", "those in whose names the word is"),
    ("", "--format", "json", "a line of JSON each"),
)


class Asked(NamedTuple):
    """One command: its operands as usage shows them, how many it takes, its options."""

    operands: str
    least: int
    most: int
    meaning: str
    options: Sequence[Row]
    do: Callable[[str, Sequence[str], Options], int]


def usage(noun: str, verbs: Mapping[str, Asked], name: str = "") -> str:
    """Return what `--help` says of all of them, or of one."""
    if name not in verbs:
        rows = [f"  {f'{noun} {word} {verb.operands}':<32} {verb.meaning}"
                for word, verb in verbs.items()]  # fmt: skip
        return "\n".join([f"Usage: stage5 {noun} COMMAND", "", *rows])
    lines = [f"Usage: stage5 {noun} {name} [OPTIONS] {verbs[name].operands}".rstrip(), ""]
    for short, long, value, meaning in (*verbs[name].options, *COMMON):
        spelling = f"{short + ',' if short else '   '} {long} {value}"
        lines.append(f"  {spelling:<24} {meaning}")
    return "\n".join(lines)


def serve(noun: str, verbs: Mapping[str, Asked], arguments: Sequence[str]) -> int:
    """Do what is asked for; return the exit status that the contract wants."""
    name = arguments[0] if arguments else ""
    options: Options = {}
    try:
        if name in ("-h", "--help"):
            say(usage(noun, verbs))
            return 0
        if name not in verbs:
            raise Usage(f"there is no command {noun} {name}" if name else f"{noun} needs a command")
        verb = verbs[name]
        options, operands = parse(arguments[1:], [*verb.options, *COMMON])
        if "--help" in options:
            say(usage(noun, verbs, name))
            return 0
        if not verb.least <= len(operands) <= verb.most:
            raise Usage(f"{noun} {name} needs {verb.operands or 'no operands'}")
        if "--trace" in options:
            linux.watch = linux.trace
        return verb.do(store_folder(), operands, options)
    except Usage as error:
        note(f"{error}\n\n{usage(noun, verbs, name)}")
        return USAGE
    except BrokenPipeError:
        return FAILED
    except (OSError, ValueError) as error:
        if "--debug" in options:
            sys.excepthook(type(error), error, error.__traceback__)
        note(line_of(error))
        return FAILED


def line_of(error: OSError | ValueError) -> str:
    """Return an error as one line: what, and why."""
    if not isinstance(error, OSError) or error.filename is None:
        return shown(error)
    parts = (str(error.filename), error.strerror or "", why(error))
    return ": ".join(filter(None, parts)).replace("\n", "\\n")


def say(line: str) -> None:
    """Write a line to stdout."""
    os.write(1, f"{line}\n".encode(errors="surrogateescape"))


def each(operands: Sequence[str], do: Callable[[str], None]) -> int:
    """Do something with each, and say it; one that can't be done doesn't keep others from it."""
    status = 0
    for operand in operands:
        try:
            do(operand)
            say(operand)
        except (OSError, ValueError) as error:
            note(line_of(error))
            status = FAILED
    return status


def listing(
    rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], quiet: str, options: Options
) -> int:
    """Show rows as a table with `columns` (heading: key), as JSON, or the one word `quiet`."""
    for text in options.get("--filter", ()):
        kind, _, word = text.partition("=")
        if kind != "name":
            raise ValueError(f"--filter {text}: say name=WORD")
        rows = [row for row in rows if word in row["Name"]]
    form = options.get("--format", [""])[-1]
    if form not in ("", "json", "table"):
        raise ValueError(f"--format {form}: say json")
    if "--quiet" in options:
        for row in rows:
            say(row[quiet])
    elif form == "json":
        for row in rows:
            say(json.dumps(row))
    else:
        shape = [[*columns], *([row[key] for key in columns.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*shape, strict=True)]
        for cells in shape:
            pairs = zip(cells, widths, strict=True)
            say("   ".join(f"{cell:<{width}}" for cell, width in pairs).rstrip())
    return 0
