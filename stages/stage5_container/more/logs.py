"""`logs`: what a container has written, also when it is gone from memory."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from stages.stage5_container.more.lookup import find
from stages.stage5_container.more.verb import Verb, last
from stages.stage5_container.options import whole
from stages.stage5_container.state import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import BufferedReader
    from typing import BinaryIO

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.state import State

OFTEN = 0.1
"""Seconds between two looks at whether there is more (--follow)."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs(store: Store, operands: Sequence[str], options: Options) -> int:
    """Write it again, each stream to its own."""
    state = find(store, operands[0])
    times = "--timestamps" in options
    since, until = (bound(last(options, name)) for name in ("--since", "--until"))
    tail = last(options, "--tail")
    count = -1 if tail in ("", "all") else whole("--tail", tail)
    lines = entries(state, follow="--follow" in options, tail=count)
    middle = {b"stdout": False, b"stderr": False}  # whether a line has begun
    wanted = dict.fromkeys(middle, True)
    for time_of, stream, tag, text in lines:
        if not middle[stream]:
            # A line is of the time at which it began.
            wanted[stream] = since <= time_of and (not until or time_of <= until)
        if not wanted[stream]:
            middle[stream] = tag != b"F"
            continue
        out: BinaryIO = (sys.stdout if stream == b"stdout" else sys.stderr).buffer
        begins = times and not middle[stream]
        out.write((time_of + b" " if begins else b"") + text + (b"\n" if tag == b"F" else b""))
        middle[stream] = tag != b"F"
        out.flush()
    return 0


def entries(
    state: State, *, follow: bool = False, tail: int = -1
) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Yield time, stream, tag (F, or P: the line goes on) and text of what was written."""
    path = f"{state.folder}/log"
    older = [name for name in os.listdir(state.folder) if name.startswith("log.")]
    found: list[bytes] = []
    for name in sorted(older, key=lambda name: -int(name[4:])):
        with contextlib.suppress(FileNotFoundError), open(f"{state.folder}/{name}", "rb") as file:
            found += file.readlines()
    try:
        file = open(path, "rb")  # noqa: SIM115  # it is followed
    except FileNotFoundError:
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        found += file.readlines()
        yield from map(parts, last_lines(found, tail))
        while follow:
            # Before the last look: what was written until it ended is there then.
            lives = state.facts()["status"] in LIVE
            while line := file.readline():
                while not line.endswith(b"\n") and lives:  # half written
                    time.sleep(0.001)
                    line += file.readline()
                yield parts(line)
            if younger := younger_than(file, path):
                file = stack.enter_context(younger)
            elif lives:
                time.sleep(OFTEN)
            else:
                return


def last_lines(rows: list[bytes], count: int) -> list[bytes]:
    """Return the last lines, each with all its parts."""
    if count < 0:
        return rows
    # The parts of a line may have those of the other stream between them.
    number, current, numbers = 0, dict[bytes, int](), []
    for row in rows:
        _, stream, tag, _ = parts(row)
        if stream not in current:
            number += 1
        numbers.append(current.setdefault(stream, number))
        if tag == b"F":
            del current[stream]
    return [row for row, one in zip(rows, numbers, strict=True) if one > number - count]


def parts(line: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return a line of the file in its parts."""
    when, stream, tag, text = (line.removesuffix(b"\n").split(b" ", 3) + [b""] * 3)[:4]
    return when, stream if stream == b"stderr" else b"stdout", tag, text


def younger_than(file: BufferedReader, path: str) -> BufferedReader | None:
    """Return the file that was begun when this one was full; None where this is the youngest.

    One that is gone by now was older than all that are there.
    """
    ours, found = os.fstat(file.fileno()).st_ino, list[BufferedReader]()
    for one in [path, *(f"{path}.{age}" for age in range(1, 100))]:
        try:
            opened = open(one, "rb")  # noqa: SIM115  # the caller goes on with it
        except FileNotFoundError:
            if one == path:
                continue  # it is just being begun
            break
        if os.fstat(opened.fileno()).st_ino == ours:
            opened.close()
            break
        found.append(opened)
    for other in found[:-1]:
        other.close()
    return found[-1] if found else None


def bound(text: str) -> bytes:
    """Return a time as it is in the file: given in RFC 3339, in s since 1970, or as 10m ago."""
    if not text:
        return b""
    seconds: float
    if text[-1] in UNITS and text[:-1].replace(".", "", 1).isdecimal():
        seconds = time.time() - float(text[:-1]) * UNITS[text[-1]]
    elif text.replace(".", "", 1).isdecimal():
        seconds = float(text)
    else:
        return text.encode()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


VERBS = {
    "logs": Verb(
        "CONTAINER", 1, 1, "what it has written",
        [("-f", "--follow", "", "and what it is going to write"),
         ("-t", "--timestamps", "", "with the time of each line"),
         ("-n", "--tail", "N", "only the last N lines"),
         ("", "--since", "TIME", "from then on: 2026-11-30T12:00:00Z, or 10m ago as 10m"),
         ("", "--until", "TIME", "until then")], logs,
    ),
}  # fmt: skip
