"""`stats`: what containers take just now, by the counters of their control groups."""

from __future__ import annotations

import os
import time

from stages.stage3_cgroups.more.files import read_word, table
from stages.stage5_container.more.lookup import find, running
from stages.stage5_container.more.top import pids_of
from stages.stage5_container.more.verb import (
    FORMAT,
    MANY,
    Verb,
    bytes_in,
    last,
    say,
    show,
    stdout_is_terminal,
)
from stages.stage5_container.state import everything

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.state import State

COLUMNS = (
    ("CONTAINER ID", "ID"), ("NAME", "Name"), ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"), ("MEM %", "MemPerc"), ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"), ("PIDS", "PIDs"),
)  # fmt: skip
APART = 1.0
"""Seconds between two looks: CPU time is counted, its rate is not."""
CLEAR = "\x1b[H\x1b[J"


def stats(store: Store, operands: Sequence[str], options: Options) -> int:
    """Show it once, or on a terminal again and again."""
    for word in operands:
        running(find(store, word))
    form = last(options, "--format")
    while True:
        rows = measured(chosen(store, operands))
        once = "--no-stream" in options or not stdout_is_terminal()
        if not once:
            say(CLEAR)
        show(rows, COLUMNS, form)
        if once:
            return 0


def chosen(store: Store, operands: Sequence[str]) -> list[tuple[State, dict[str, Any]]]:
    """Return the containers that were asked for, or all, of those that run."""
    states = [find(store, word) for word in operands] if operands else everything(store)
    return [(state, facts) for state in states if (facts := state.facts())["status"] == "running"]


def measured(states: Sequence[tuple[State, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each, by two looks."""
    before = [(time.monotonic(), cpu(facts["groups"])) for _, facts in states]
    time.sleep(APART)
    rows = []
    for (state, facts), (then, used) in zip(states, before, strict=True):
        share = (cpu(facts["groups"]) - used) / (time.monotonic() - then)
        memory, limit = memory_of(facts["groups"])
        received, sent = traffic(facts["pid"])
        read, written = blocks(facts["groups"])
        try:
            pids = len(pids_of(facts))
        except OSError:
            pids = 0  # it has ended since
        rows.append(
            {
                "ID": state.id,
                "Name": state.name,
                "CPUPerc": f"{share * 100:.2f}%",
                "MemUsage": f"{bytes_in(memory, 1024)} / {bytes_in(limit, 1024)}",
                "MemPerc": f"{100 * memory / limit:.2f}%",
                "NetIO": f"{bytes_in(received)} / {bytes_in(sent)}",
                "BlockIO": f"{bytes_in(read)} / {bytes_in(written)}",
                "PIDs": str(pids),
            }
        )
    return rows


def cpu(groups: Mapping[str, str]) -> float:
    """Return the seconds of CPU time that it has had."""
    if path := groups.get("cpuacct"):
        return number(f"{path}/cpuacct.usage") / 1e9
    return table(f"{groups.get('', '')}/cpu.stat").get("usage_usec", 0) / 1e6


def memory_of(groups: Mapping[str, str]) -> tuple[int, int]:
    """Return the bytes that it uses, but for files that could be dropped; and its limit."""
    all_of_it = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if path := groups.get("memory"):
        used, limit = (number(f"{path}/memory.{name}_in_bytes") for name in ("usage", "limit"))
        idle = table(f"{path}/memory.stat").get("total_inactive_file", 0)
    else:
        path = groups.get("", "")
        used, limit = number(f"{path}/memory.current"), number(f"{path}/memory.max")
        idle = table(f"{path}/memory.stat").get("inactive_file", 0)
    return max(used - idle, 0), min(limit or all_of_it, all_of_it)


def blocks(groups: Mapping[str, str]) -> tuple[int, int]:
    """Return the bytes that it has read from disks, and written."""
    read = written = 0
    if path := groups.get("blkio"):
        for line in read_word(f"{path}/blkio.throttle.io_service_bytes").splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[2].isdigit():
                read += int(fields[2]) * (fields[1] == "Read")
                written += int(fields[2]) * (fields[1] == "Write")
    elif path := groups.get(""):
        for line in read_word(f"{path}/io.stat").splitlines():
            counted = dict(word.partition("=")[::2] for word in line.split()[1:])
            read += int(counted.get("rbytes", 0))
            written += int(counted.get("wbytes", 0))
    return read, written


def traffic(pid: int) -> tuple[int, int]:
    """Return the bytes that its links have received, and sent; lo's don't count."""
    received = sent = 0
    for line in read_word(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, counted = line.partition(":")
        fields = counted.split()
        if name.strip() != "lo":
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def number(path: str) -> int:
    """Return a file's number; 0 where it is not there, or says max."""
    word = read_word(path)
    return int(word) if word.isdigit() else 0


VERBS = {
    "stats": Verb(
        "[CONTAINER...]", 0, MANY, "what they take just now",
        [("", "--no-stream", "", "once, also on a terminal"), FORMAT], stats,
    ),
}  # fmt: skip
