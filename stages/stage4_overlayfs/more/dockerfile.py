"""A Dockerfile as data: instructions, each with its line; nothing of it is done here.

It is read whole before a build begins: what isn't known is refused with its line, and has not cost
the minutes of the steps before it. Docker's "Dockerfile reference" says what is legal, BuildKit's
frontend/dockerfile/parser what that means for odd ones.
"""

from __future__ import annotations

import json
import re

from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.words import BLANK, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_BYTES = 1 << 20
"""Bytes of a Dockerfile: more is none."""
DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*")
HERE = re.compile(r"(?:^|\s)\d*<<-?[\"']?\w")
SHELL = ("RUN", "CMD", "ENTRYPOINT")
FLAGS = {"COPY": ("chown", "chmod"), "ADD": ("chown", "chmod")}
LATER = "this builder makes one stage: build that one as an image, and say FROM it"
FOREIGN = {
    # what else Docker has: why not here, and what to do
    "SHELL": 'say RUN ["program", "argument"] instead',
    "HEALTHCHECK": "nothing here would ask for it: leave it out",
    "ONBUILD": "write its instruction into the Dockerfiles that build on this image",
    "MAINTAINER": "say LABEL maintainer=… instead",
    "--from": LATER,
    "--mount": "COPY what the command needs",
    "--platform": "it builds for this machine: leave it out",
}


class Refused(ValueError):
    """What is wrong with a Dockerfile, in which line of it, and the remedy."""

    def __init__(self, line: int, reason: object) -> None:
        """Say it in one line."""
        super().__init__(f"Dockerfile:{line}: {reason}")
        self.line = line


class Instruction:
    """One instruction as it is written: its variables are still in it."""

    def __init__(self, line: int, name: str, text: str, escape: str) -> None:
        """Take it apart; raise ValueError with words."""
        self.line, self.name, self.escape = line, name, escape
        self.text = f"{name} {text}".strip()
        self.flags, text = flags_of(name, text)
        self.exec = False
        self.words: list[str] = []
        """COPY: sources and destination; RUN: the command; ENV, LABEL, ARG: see `pairs`."""
        self.pairs: list[tuple[str, str | None]] = []
        """Names with their values; an ARG may have none."""
        if not text and name not in ("CMD", "ENTRYPOINT"):
            raise ValueError(f"{name} without anything behind it: say what it is about")
        if name in ("RUN", "COPY", "ADD") and HERE.search(text):
            raise ValueError(
                f"{name} with a here-document (<<): write a file, COPY it, and RUN that"
            )
        READERS[name](self, text)

    def command(self, text: str) -> None:
        """Take RUN, CMD and ENTRYPOINT: a list in JSON, or a line for the shell."""
        listed = json_list(text)
        self.exec = listed is not None
        self.words = [text] if listed is None else listed
        if self.name == "RUN" and not self.words:
            raise ValueError("RUN of an empty list: name a program")

    def copied(self, text: str) -> None:
        """Take COPY and ADD."""
        listed = json_list(text)
        self.words = BLANK.split(text) if listed is None else listed
        if len(self.words) < 2:
            raise ValueError(f"{self.name} needs a source and a destination: name both")
        for word in self.words[:-1]:
            if self.name == "ADD" and re.match(r"https?://|git@|[a-z+]+://", word):
                raise ValueError(f"ADD of {shown(word)}: fetch it yourself, and COPY the file")
        if len(self.words) > 2 and not self.words[-1].endswith("/") and "$" not in self.words[-1]:
            raise ValueError(
                f"{self.name} of several sources needs a directory: end "
                f"{shown(self.words[-1])} with a /"
            )

    def named(self, text: str) -> None:
        """Take ENV and LABEL: NAME=VALUE …, or one NAME and its value behind a blank."""
        words = split(text, self.escape)
        if words and "=" not in words[0]:
            key, *rest = BLANK.split(text, maxsplit=1)
            if not rest:
                raise ValueError(f"{self.name} {shown(key)} without a value: say {shown(key)}=…")
            self.pairs = [(key, rest[0])]
            return
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not key:
                raise ValueError(f"{shown(word)}: not NAME=VALUE: quote a value that has blanks")
            self.pairs.append((key, value))

    def arguments(self, text: str) -> None:
        """Take ARG: NAME or NAME=VALUE, several of them."""
        for word in split(text, self.escape):
            key, equals, value = word.partition("=")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key):
                raise ValueError(f"{shown(word)}: not NAME or NAME=VALUE")
            self.pairs.append((key, value if equals else None))

    def whole(self, text: str) -> None:
        """Take WORKDIR, USER and STOPSIGNAL: all of the line."""
        self.words = [text]

    def listed(self, text: str) -> None:
        """Take EXPOSE: words."""
        self.words = BLANK.split(text)

    def places(self, text: str) -> None:
        """Take VOLUME: a list in JSON, or words."""
        listed = json_list(text)
        self.words = BLANK.split(text) if listed is None else listed
        if not self.words:
            raise ValueError("VOLUME of an empty list: name a directory")

    def base(self, text: str) -> None:
        """Take FROM: an image, and perhaps a name for the stage, which nothing here asks for."""
        self.words = BLANK.split(text)
        named = len(self.words) == 3 and self.words[1].upper() == "AS"
        if len(self.words) != 1 and not named:
            raise ValueError(f"FROM {shown(text)}: say FROM IMAGE, or FROM IMAGE AS NAME")


READERS: dict[str, Callable[[Instruction, str], None]] = {
    **dict.fromkeys(SHELL, Instruction.command),
    **dict.fromkeys(("COPY", "ADD"), Instruction.copied),
    **dict.fromkeys(("ENV", "LABEL"), Instruction.named),
    **dict.fromkeys(("WORKDIR", "USER", "STOPSIGNAL"), Instruction.whole),
    "ARG": Instruction.arguments,
    "EXPOSE": Instruction.listed,
    "FROM": Instruction.base,
    "VOLUME": Instruction.places,
}


def parse(data: bytes) -> tuple[list[Instruction], list[tuple[int, str]]]:
    """Return the instructions, and what there is to remark, each with its line.

    Raises Refused: ARGs may precede the one FROM, all else follows it.
    """
    if len(data) > MOST_BYTES:
        raise Refused(1, f"longer than {MOST_BYTES} bytes: that is no Dockerfile")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Refused(line, "not UTF-8: save it as that") from None
    rows = [row.removesuffix("\r") for row in text.split("\n")]
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Refused(line, "a NUL in it: that is no Dockerfile")
    escape, remarks = directives(rows)
    found = [instruction(line, row, escape) for line, row in joined(rows, escape)]
    check_order(found)
    return found, remarks


def parse_one(text: str) -> Instruction:
    """Return one instruction that stands alone, as `commit --change` has it."""
    return instruction(1, text.strip(), "\\")


def instruction(line: int, row: str, escape: str) -> Instruction:
    """Return the instruction of a row; raise Refused."""
    word, *rest = BLANK.split(row.strip(), maxsplit=1)
    name = word.upper()
    if name not in READERS:
        known = ", ".join(sorted(READERS))
        why = FOREIGN.get(name, f"it is none of {known}")
        raise Refused(line, f"{shown(word)}: not an instruction that is known here: {why}")
    try:
        return Instruction(line, name, rest[0] if rest else "", escape)
    except ValueError as error:
        raise Refused(line, error) from None


def directives(rows: Sequence[str]) -> tuple[str, list[tuple[int, str]]]:
    """Return the escape character, and remarks; they end where anything else begins."""
    escape, remarks, seen = "\\", [], set()
    for line, row in enumerate(rows, 1):
        found = DIRECTIVE.fullmatch(row.strip())
        name = found[1].lower() if found else ""
        if not found or name not in ("escape", "syntax", "check"):
            break
        if name in seen:
            raise Refused(line, f"# {name}= is there twice: keep one")
        seen.add(name)
        if name != "escape":
            remarks.append((line, f"# {name}= is ignored: this is not BuildKit"))
        elif found[2] not in ("\\", "`"):
            raise Refused(line, f"# escape={shown(found[2])}: say \\ or `")
        else:
            escape = found[2]
    return escape, remarks


def joined(rows: Sequence[str], escape: str) -> Iterator[tuple[int, str]]:
    """Yield each instruction's first line and its text: lines that go on are one.

    Comments between them, and empty lines, don't end it.
    """
    # Two of the character are one that is meant: such a line ends here.
    token = re.escape(escape)
    goes_on = re.compile(rf"(^|[^{token}]){token}[ \t]*$")
    start, text = 0, ""
    for line, row in enumerate(rows, 1):
        if row.lstrip().startswith("#") or not row.strip():
            continue
        start = start or line
        row = row if text else row.lstrip()
        if goes_on.search(row):
            text += goes_on.sub(r"\1", row)
            continue
        yield start, text + row
        start, text = 0, ""
    if text.strip():
        yield start, text


def flags_of(name: str, text: str) -> tuple[dict[str, str], str]:
    """Return the --name=value words that precede the rest, and the rest."""
    flags: dict[str, str] = {}
    while text.startswith("--"):
        word, *rest = BLANK.split(text, maxsplit=1)
        text = rest[0] if rest else ""
        if word == "--":
            break
        key, _, value = word[2:].partition("=")
        if key not in FLAGS.get(name, ()):
            why = FOREIGN.get(f"--{key}", "leave it out")
            raise ValueError(f"{name} --{shown(key)}: not known here: {why}")
        if not value or key in flags:
            raise ValueError(f"{name} --{key}: say --{key}=VALUE, once")
        flags[key] = value
    return flags, text.strip()


def json_list(text: str) -> list[str] | None:
    """Return a list of texts in JSON; None where it is none, and so a line for the shell."""
    if not text.startswith("["):
        return None
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f'{shown(text)}: a list of other things than texts: quote each with "')
    # Docker drops what follows.
    if text[end:].strip():
        raise ValueError(f"{shown(text[end:].strip())}: behind the list: put it inside, or drop it")
    if any("\0" in item for item in found):
        raise ValueError(f"{shown(text)}: a NUL in it, which no argument can hold")
    return found


def check_order(found: Sequence[Instruction]) -> None:
    """Raise Refused unless there is one FROM, with nothing but ARGs before it."""
    bases = [one for one in found if one.name == "FROM"]
    if not bases:
        raise Refused(1, "no FROM: say which image it begins with, or FROM scratch")
    if len(bases) > 1:
        raise Refused(bases[1].line, f"a second FROM: {LATER}")
    for one in found:
        if one is bases[0]:
            return
        if one.name != "ARG":
            raise Refused(one.line, f"{one.name} before FROM: only ARG may be there")
