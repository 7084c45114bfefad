"""What all commands but `run` share: their shape, how they are served, how they answer."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import NamedTuple

from stages import linux
from stages.command_line import FAILED, USAGE, Usage, note, parse
from stages.stage4_overlayfs import storage
from stages.stage4_overlayfs.more.interrupts import stoppable
from stages.stage4_overlayfs.options import store_folder
from stages.stage4_overlayfs.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Options = Mapping[str, Sequence[str]]
    Row = tuple[str, str, str, str]

HELP = ("-h", "--help", "", "show this and do nothing")
DEBUG = ("", "--debug", "", "show a traceback with an error")
TRACE = ("", "--trace", "", "show each system call on stderr as it is made")
FORMAT = ("", "--format", "FORMAT", "json, or words with {{.Field}} in them")
FILTER = ("-f", "--filter", "K=V", "only those of which it is true")
QUIET = ("-q", "--quiet", "", "only what they are called by")
AS_WORDS = ("-f", "--format", "FORMAT", "json, or words with {{.Field.Field}} in them")
FORCE = ("-f", "--force", "", "nothing: nobody is asked here")
MANY = 10_000


class Verb(NamedTuple):
    """One command: its operands as usage shows them, how many it takes, its options."""

    operands: str
    least: int
    most: int
    meaning: str
    options: Sequence[Row]
    do: Callable[[Store, Sequence[str], Options], int]


def usage(name: str, verb: Verb) -> str:
    """Return what `--help` prints."""
    lines = [f"Usage: stage5 {name} [OPTIONS] {verb.operands}".rstrip(), f"({verb.meaning})", ""]
    for short, long, value, meaning in (*verb.options, TRACE, DEBUG, HELP):
        spelling = f"{short + ',' if short else '   '} {long} {value}"
        lines.append(f"  {spelling:<22} {meaning}")
    return "\n".join(lines)


def serve(name: str, verbs: Mapping[str, Verb], arguments: Sequence[str]) -> int:
    """Do it; return the exit status that the contract wants."""
    debug = False
    if name not in verbs:
        several = [other for other in verbs if other.startswith(f"{name} ")]
        note(
            "\n".join(
                [f"{name} needs a command:", *(usage(other, verbs[other]) for other in several)]
            )
        )
        return USAGE
    verb = verbs[name]
    try:
        table_of = [*verb.options, TRACE, DEBUG, HELP]
        options, operands = (
            parse(arguments, table_of) if name == "exec" else mixed(arguments, table_of)
        )
        debug = "--debug" in options
        if "--help" in options:
            say(usage(name, verb))
            return 0
        if not verb.least <= len(operands) <= verb.most:
            raise Usage(f"{name} needs {verb.operands or 'no operands'}")
        if "--trace" in options:
            linux.watch = linux.trace
        with stoppable():
            return verb.do(Store(store_folder()), operands, options)
    except Usage as error:
        note(f"{error}\n\n{usage(name, verb)}")
        return USAGE
    except BrokenPipeError:
        return FAILED
    except (OSError, ValueError) as error:
        if debug:
            sys.excepthook(type(error), error, error.__traceback__)
        note(line_of(error))
        return FAILED


def mixed(
    arguments: Sequence[str], rows: Sequence[Row]
) -> tuple[dict[str, list[str]], Sequence[str]]:
    """Split options from operands, wherever they are, as Docker does where no COMMAND follows."""
    found: dict[str, list[str]] = {}
    operands: list[str] = []
    rest = list(arguments)
    while rest:
        closed = "--" in rest
        options, left = parse(rest, rows)
        for name, values in options.items():
            found.setdefault(name, []).extend(values)
        rest = list(left)
        if closed and "--" not in rest:
            return found, operands + rest
        operands += rest[:1]
        rest = rest[1:]
    return found, operands


def line_of(error: OSError | ValueError) -> str:
    """Return an error as one line: what, and why."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error).replace("\n", "\\n")
    parts = (str(error.filename), error.strerror or "", storage.why(error))
    return ": ".join(filter(None, parts)).replace("\n", "\\n")


def each(operands: Sequence[str], do: Callable[[str], object]) -> int:
    """Do something with each, and say its name: one that can't be done keeps no other from it."""
    status = 0
    for operand in operands:
        try:
            do(operand)
            say(operand)
        except (OSError, ValueError) as error:
            note(line_of(error))
            status = FAILED
    return status


def inspect_each(operands: Sequence[str], look: Callable[[str], Any], options: Options) -> int:
    """Write what is found of each: one list, or each as --format wants it."""
    found, status = [], 0
    for operand in operands:
        try:
            found.append(look(operand))
        except (OSError, ValueError) as error:
            note(line_of(error))
            status = FAILED
    if form := last(options, "--format"):
        for row in found:
            say(formatted(row, form))
    else:
        say(json.dumps(found, indent=4))
    return status


def listing(heading: str, names: Sequence[str]) -> None:
    """Say what `prune` has removed; nothing where that is nothing."""
    if names:
        say("\n".join([f"Deleted {heading}:", *names, ""]))


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def last(options: Options, name: str) -> str:
    """Return an option's last value, "" where it isn't said."""
    return options.get(name, [""])[-1]


# ---- tables, and other forms of them


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]], form: str) -> None:
    """Write rows as a table with (heading, field) columns; or as --format wants them."""
    if form in ("", "table"):
        table([[head for head, _ in columns], *([row[key] for _, key in columns] for row in rows)])
        return
    text = form.removeprefix("table ")
    if text == form:
        for row in rows:
            say(formatted(row, text))
        return
    heads = {key: head for head, key in columns}
    fields = [field.strip() for field in text.replace("\\t", "\t").split("\t")]
    names = [field.strip("{}. ") for field in fields]
    cells = [[formatted(row, field) for field in fields] for row in rows]
    table([[heads.get(name, name.upper()) for name in names], *cells])


def formatted(row: Any, form: str) -> str:
    """Return a row as `json`, or in words with {{.Field}}, {{.A.B}} or {{json .A}} in them."""
    if form in ("json", "{{json .}}"):
        return json.dumps(row)
    out, rest = "", form.replace("\\t", "\t").replace("\\n", "\n")
    while "{{" in rest:
        text, _, rest = rest.partition("{{")
        word, closed, rest = rest.partition("}}")
        if not closed:
            raise ValueError(f"--format {form}: a {{{{ without its }}}}")
        name = word.strip().removeprefix("json ").strip()
        if not name.startswith("."):
            raise ValueError(f"--format {form}: say json, or fields such as {{{{.ID}}}}")
        value = row
        for part in filter(None, name.split(".")):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"--format {form}: there is no field {name}")
            value = value[part]
        plain = isinstance(value, str) and not word.strip().startswith("json ")
        out += text + (value if plain else json.dumps(value))
    return out + rest


def table(rows: Sequence[Sequence[object]], least: int = 10) -> None:
    """Write rows in columns as wide as Docker's; the last one is as wide as it likes."""
    widths = [
        max(least, *(len(str(row[column])) + 3 for row in rows)) for column in range(len(rows[0]))
    ]
    for row in rows:
        cells = [f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True)]
        say("".join(cells).rstrip())


def filters(options: Options, known: Iterable[str]) -> dict[str, list[str]]:
    """Return what --filter asks for, by name; ValueError for a name that isn't known."""
    found: dict[str, list[str]] = {}
    for text in options.get("--filter", ()):
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise ValueError(f"--filter {text}: say K=V, of {', '.join(sorted(known))}")
        found.setdefault(key, []).append(value)
    return found


def ago(when: int) -> str:
    """Return how long ago that was (ns since 1970), in words as Docker has them."""
    seconds = max(int((time.time_ns() - when) / 1e9), 0)
    return f"{period(seconds)} ago"


def period(seconds: int) -> str:
    """Return a time in words: the greatest unit of which there is more than one."""
    if seconds < 1:
        return "Less than a second"
    for unit, length in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s"
    if seconds >= 3600:
        return "About an hour"
    if seconds >= 60:
        return "About a minute"
    return f"{seconds} second{'s' * (seconds != 1)}"


def date(when: int) -> str:
    """Return a time, in ns since 1970, as Docker's tables have it."""
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(when // 1_000_000_000))


def rfc3339(when: int) -> str:
    """Return a time, in ns since 1970, as Docker writes it; its year 1 for none."""
    if not when:
        return "0001-01-01T00:00:00Z"
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when // 1_000_000_000))
    return f"{whole}.{when % 1_000_000_000:09d}Z"


def bytes_in(count: float, base: int = 1000) -> str:
    """Return a number of bytes as Docker writes it, in its two ways: kB, or KiB."""
    units = ["B", "kB", "MB", "GB", "TB"] if base == 1000 else ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= base and len(units) > 1:
        count, units = count / base, units[1:]
    return f"{count:.4g}{units[0]}"


def size_of(folder: str) -> int:
    """Return the bytes of the files below a folder, but for what is mounted there."""
    device, total = os.lstat(folder).st_dev, 0
    for top, folders, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(f"{top}/{name}")
            except FileNotFoundError:
                continue
            total += status.st_blocks * 512 if status.st_dev == device else 0
        folders[:] = [name for name in folders if os.lstat(f"{top}/{name}").st_dev == device]
    return total


def stdout_is_terminal() -> bool:
    """Return whether somebody looks on."""
    return os.isatty(1)
