"""The command line that all stages share: options, usage, and the one line that an error gets.

Python's own parsers are not used: argparse and getopt both load gettext and re, 9 ms of the 12
that a bare interpreter with ctypes takes, and argparse eats a `--` that belongs to COMMAND.
"""

from __future__ import annotations

import errno
import os
import sys

from stages import linux
from stages.explain import explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

FAILED, NOT_EXECUTABLE, NOT_FOUND, USAGE = 125, 126, 127, 2
"""Exit statuses that are the runtime's own (CONTRACT)."""

OPTIONS = (
    # short, long, value, what it does
    ("-e", "--env", "K=V", "set K in the command's environment; K alone: as the caller has it"),
    ("-w", "--workdir", "DIR", "start the command in DIR, an absolute path inside ROOT"),
    ("", "--trace", "", "show each system call on stderr as it is made"),
    ("", "--debug", "", "show a traceback with an error"),
    ("-h", "--help", "", "show this and do nothing"),
)


class Usage(Exception):
    """A command line that says something we don't understand."""


class Container:
    """What is to run, and how: a ROOT, a COMMAND with its arguments, and the options."""

    def __init__(self, operands: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
        """Take the operands and options of `run`; raise Usage or ValueError where they are off."""
        if len(operands) < 2:
            raise Usage("it needs a ROOT and a COMMAND")
        self.root = operands[0]
        self.command = operands[1:]
        if not self.command[0]:
            raise Usage("COMMAND is empty")
        self.environment = with_changes(linux.caller_environment(), options.get("--env", ()))
        self.debug = "--debug" in options
        self.workdir = options.get("--workdir", [""])[-1]
        if self.workdir and not self.workdir.startswith("/"):
            raise ValueError(f"--workdir {self.workdir}: not an absolute path: say it from /")

    def why(self, error: OSError) -> str:
        """Return why a call of a later stage's own failed, and the remedy; "" for all others."""
        return ""


def with_changes(environment: dict[bytes, bytes], changes: Sequence[str]) -> dict[bytes, bytes]:
    """Return the environment with each `K=V` set; a `K` alone stays what it is, as Docker has it.

    Raises ValueError for a change without a name.
    """
    for change in changes:
        name, equals, value = os.fsencode(change).partition(b"=")
        if not name:
            raise ValueError(f"--env {change}: no name before the =: say K=V")
        if equals:
            environment[name] = value
    return environment


def parse(
    arguments: Sequence[str], table: Sequence[tuple[str, str, str, str]]
) -> tuple[dict[str, list[str]], Sequence[str]]:
    """Split the options, which come first, from the operands, which are handed on untouched.

    Options are spelled as Docker's: `--env K=V`, `--env=K=V`, `-e K=V`, `-eK=V`. Returns the
    values of each option by its long name. Raises Usage for what is not in the table.
    """
    names = {name: (long, value) for short, long, value, _ in table for name in (short, long)}
    names.pop("", None)  # a row without a name goes on with the one before
    options: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, attached = word.partition("=")
        if not word.startswith("--"):
            name, attached = word[:2], word[2:].removeprefix("=")
            equals = word[2:]
        long, value = names.get(name) or ("", "")
        if not long:
            raise Usage(f"unknown option {name}")
        if not value and equals:
            if word.startswith("--") or f"-{attached[:1]}" not in names:
                raise Usage(f"{long} takes no value")
            # Several letters in one word, `-it`: the rest is a word of its own.
            rest.insert(0, f"-{attached}")
        if value and not equals:
            if not rest:
                raise Usage(f"{name} needs a value, {value}")
            attached = rest.pop(0)
        options.setdefault(long, []).append(attached)
    return options, rest


def usage(name: str, table: Sequence[tuple[str, str, str, str]]) -> str:
    """Return what `--help` prints."""
    lines = [f"Usage: {name} run [OPTIONS] ROOT COMMAND [ARG...]", "", "Options:"]
    for short, long, value, meaning in table:
        spelling = f"{short + ',' if short else '   '} {long} {value}"
        lines.append(f"  {spelling:<22} {meaning}")
    lines += [
        "",
        "ROOT is a directory that holds a root file system; `labrun rootfs` makes one.",
        "Exit status: COMMAND's own; 128+N when signal N ended it; 125 when the runtime failed;",
        "126 when COMMAND can't be executed; 127 when it is not found; 2 for this usage.",
    ]
    return "\n".join(lines)


def serve(
    name: str,
    table: Sequence[tuple[str, str, str, str]],
    run: Callable[[Any], int],
    arguments: Sequence[str],
    kind: type[Container] = Container,
) -> int:
    """Be the command `name`: parse, run, and return the exit status that the contract wants.

    `run` gets a Container of the stage's own `kind`, which knows its options.
    """
    verb, *rest = arguments or [""]
    try:
        if verb not in ("run", "-h", "--help"):
            raise Usage(f"there is no command {verb!r}" if verb else "it needs a command: run")
        options, operands = parse(rest, table)
        if verb != "run" or "--help" in options:
            os.write(1, f"{usage(name, table)}\n".encode())
            return 0
        if "--trace" in options:
            linux.watch = linux.trace
        if "--debug" in options:
            import traceback  # noqa: F401  # for failed(): inside the new root it can't be found
        container = kind(operands, options)
    except Usage as error:
        note(f"{error}\n\n{usage(name, table)}")
        return USAGE
    except (OSError, ValueError) as error:
        note(str(error))
        return FAILED
    occupy_closed_streams()
    try:
        return run(container)
    except OSError as error:
        failed(error, container)


def occupy_closed_streams() -> None:
    """Let no descriptor of the runtime's own become 0, 1 or 2, where the caller has closed one.

    The kernel gives the lowest number that is free, and the command keeps these three.
    """
    # What Python opens is closed by execve(2): the command finds closed what its caller has closed.
    while (fd := os.memfd_create("closed")) <= 2:
        continue
    os.close(fd)


def failed(error: OSError, container: Container) -> NoReturn:
    """End this process, child or parent, with the one line and the status that an error gets."""
    call = str(error.filename)
    what, status = call, FAILED
    if call.startswith("execve("):
        what = container.command[0]
        status = NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
    if container.debug:
        sys.excepthook(type(error), error, error.__traceback__)
    try:
        why = explain(error, container)
    except OSError:
        # It looks at files that the kernel may refuse to show, too. Then there is no more to say.
        why = ""
    line = ": ".join(filter(None, (what, error.strerror, why)))
    note(line.replace("\n", "\\n"))
    os._exit(status)


def note(text: str) -> None:
    """Write a line of the runtime's own, which is always on stderr."""
    linux.write_stderr(f"{os.path.basename(sys.argv[0])}: {text}\n")
