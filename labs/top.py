"""`labrun top`: the containers that run on this machine, what they use, and what they may use.

Found by their groups, in whatever tree of cgroups this machine has; nothing is asked of a runtime.
"""

import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from labs import gauge
from labs.demo import report
from labs.demo.keys import KEY, QUIT, SAME, Keys
from labs.demo.quantity import label, told
from labs.demo.screen import Screen
from labs.gauge import Limits, Reading, Running
from labs.texts import say

PAUSE = 1.0
"""Seconds from one sample to the next."""
ONCE = 0.5
"""Seconds over which rates are taken where there is only one sample."""
NEAR = 0.9
"""From which part of its limit on a value stands out."""
LEAST = 100
"""Columns from which there is room for commands."""


@dataclass(frozen=True)
class Row:
    """One container, as it was just now."""

    name: str
    command: str
    limits: Limits
    now: Reading
    cpu: float | None
    read: float | None
    written: float | None
    received: float | None
    sent: float | None

    def as_json(self) -> dict[str, object]:
        """Return it for a program: CPUs, bytes, processes, bytes a second."""
        return {
            "name": self.name,
            "command": self.command,
            "cpu": {"cpus": _rounded(self.cpu), "limit": self.limits.cpus},
            "memory": {"bytes": self.now.memory, "limit": self.limits.memory},
            "pids": {"count": self.now.pids, "limit": self.limits.pids},
            "disk": {
                "read": _rounded(self.read),
                "written": _rounded(self.written),
                "read_limit": self.limits.read,
                "written_limit": self.limits.written,
            },
            "network": {"received": _rounded(self.received), "sent": _rounded(self.sent)},
        }


def command(json_file: str | None) -> int:
    """Show what runs until `q`; at a pipe, or into a file, one sample. Return the exit status."""
    if json_file:
        report.check(json_file)
    screen = Screen()
    if not json_file and screen.live and sys.stdin.isatty():
        return _watch(screen)
    before = look()
    if before:
        time.sleep(ONCE)
    rows = sample(before, look())
    if json_file:
        report.write({"schema": 1, "containers": [row.as_json() for row in rows]}, json_file)
    if json_file != report.STDOUT:
        screen.show(page(screen, rows))
    return 0


def _watch(screen: Screen) -> int:
    """Show one sample after the other, until a key says that it is enough."""
    keys = Keys()
    before = look()
    # It draws where we say so, and not from a thread of its own.
    with keys, Live(console=screen.out, auto_refresh=False, screen=True) as live:
        pause = ONCE
        while True:
            # A short one first: there is no rate before the second sample.
            if _quits(keys.terminal, pause):
                return 0
            now = look()
            hint = Text(say("top.keys"), style="dim")
            live.update(Group(*page(screen, sample(before, now)), Text(), hint), refresh=True)
            before, pause = now, PAUSE


def _quits(terminal: int, patience: float) -> bool:
    """Wait, and say whether `q` was pressed meanwhile, or the terminal has gone."""
    until = time.monotonic() + patience
    while select.select([terminal], [], [], max(0.0, until - time.monotonic()))[0]:
        try:
            read = os.read(terminal, 64).decode("utf-8", "replace")
        except OSError:
            return True
        if not read or QUIT in (SAME.get(key, key.lower()) for key in KEY.findall(read)):
            return True
    return False


Looked = Mapping[str, tuple[Running, Reading]]


def look() -> Looked:
    """Read the groups of every container that runs."""
    return {
        each.name: (each, gauge.read(each.groups, each.pids[0] if each.own_network else 0))
        for each in gauge.running()
    }


def sample(before: Looked, now: Looked) -> list[Row]:
    """Return a row for each container that runs now; rates only for what ran before, too."""
    rows = []
    for name, (container, reading) in now.items():
        first = before[name][1] if name in before else reading
        rows.append(
            Row(
                name=name,
                command=_command(container),
                limits=gauge.limits(container.groups),
                now=reading,
                cpu=gauge.rate(first, reading, lambda r: r.cpu),
                read=gauge.rate(first, reading, lambda r: r.read),
                written=gauge.rate(first, reading, lambda r: r.written),
                received=gauge.rate(first, reading, lambda r: r.received),
                sent=gauge.rate(first, reading, lambda r: r.sent),
            )
        )
    return rows


def _command(container: Running) -> str:
    """Return what a container's first process was started as."""
    for pid in container.pids:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        text = b" ".join(words).decode("utf-8", "replace")
        # What would move the cursor, or ring the bell, is for no terminal.
        return "".join(c if c.isprintable() else " " for c in text)
    return ""


def page(screen: Screen, rows: Sequence[Row]) -> list[RenderableType]:
    """Return the table, or that there is nothing to show."""
    if not rows:
        return [screen.prose(say("top.nothing"))]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim", pad_edge=False)
    table.add_column(say("top.column_name"), no_wrap=True)
    wide = screen.width >= LEAST
    if wide:
        # The one that may be folded, and so the one that gives way; its text doesn't fold.
        table.add_column(say("top.column_command"))
    for name in ("cpu", "memory", "pids", "disk", "network"):
        # On a narrow screen a rate has its unit below: what names a container is never cut.
        folds = name in ("disk", "network")
        table.add_column(say(f"top.column_{name}"), justify="right", no_wrap=not folds)
    for row in rows:
        cells = [
            Text(row.name.removeprefix(gauge.RUN), style="bold"),
            *([_in_a_line(row.command)] if wide else []),
            _of("cpu", row.cpu, row.limits.cpus),
            _of("memory", row.now.memory, row.limits.memory),
            _of("pids", row.now.pids, row.limits.pids),
            _both("written", row.read, row.written),
            _both("sent", row.received, row.sent),
        ]
        table.add_row(*cells)
    return [table]


def _in_a_line(command: str) -> Text:
    """Return a command as far as there is room."""
    return Text(" ".join(command.split()), no_wrap=True, overflow="ellipsis")


def _of(series: str, value: float | None, limit: float | None) -> Text:
    """Return a value and its limit; near the limit it stands out."""
    if value is None:
        return Text("—", style="dim")
    most = "" if limit is None else f" / {label(series, limit)}"
    near = limit is not None and value >= limit * NEAR
    return Text(f"{label(series, value)}{most}", style="bold cyan" if near else "")


def _both(series: str, one: float | None, other: float | None) -> Text:
    """Return both directions of what moves: in, and out."""
    if one is None or other is None:
        return Text("—", style="dim")
    return Text(told(series, one + other))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
