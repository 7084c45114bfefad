"""What the groups of a container say: its limits in the files of both trees, and its account."""

import re
from collections.abc import Sequence

from checks.model import Finding, Verdict
from checks.trial import Ended, Trial
from labs import gauge
from labs.demo.measure import Measured
from labs.demo.quantity import told
from labs.texts import say

TOLERANCE, TICKS = 0.10, 0.05
"""How far two accounts of the same CPU time may be apart: that part, and seconds."""
TIMES = re.compile(r"(\d+)m([\d.]+)s")

Rows = Sequence[tuple[str, str]]
"""Files, each with what is in it."""


def written(options: Sequence[str]) -> tuple[Rows, Rows]:
    """Return what these options write on v1, and what on v2: the stage's own tables say."""
    from stages.stage3_cgroups import v1, v2
    from stages.stage3_cgroups.limits import Limits

    pairs = zip(options[::2], options[1::2], strict=True)
    limits = Limits({name: [value] for name, value in pairs})
    one = [(f"{kind}/G/{file}", text) for kind, file, text in v1.settings(limits)]
    other = [(f"G/{file}", text) for _, file, text in v2.settings(limits)]
    return one, other


def look(trial: Trial, options: Sequence[str]) -> tuple[Ended, Ended, str, Finding]:
    """Start a container; return the other tree's files, this machine's, its version, the finding.

    Of the tree that isn't here, what would be written; of the one that is, what is in its files.
    Raises NotStarted.
    """
    with trial.started() as container:
        groups = gauge.groups_of(container.pid)
        version = gauge.names(groups).version
        tables = written(options)
        there, elsewhere = tables if version == "v1" else tables[::-1]
        found = [(name, _content(groups, name)) for name, _ in there]
    wrong = [
        say("demo.tree_differs", file=name, found=text or "—", wanted=wanted)
        for (name, text), (_, wanted) in zip(found, there, strict=True)
        # A kernel that doesn't account for swap has no file for it.
        if text != wanted and not (text is None and "sw" in name)
    ]
    same = say("demo.tree_same", count=len(found), version=version)
    finding = Finding(Verdict.BROKEN if wrong else Verdict.KEPT, tuple(wrong or [same]))
    return _table(elsewhere), _table([(n, t or "—") for n, t in found]), version, finding


def _content(groups: gauge.Groups, name: str) -> str | None:
    try:
        return gauge.path(groups, name.rpartition("/")[2]).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _table(rows: Rows) -> Ended:
    """Return files by their directories, as wide as half a terminal."""
    lines, last = [], ""
    for name, value in rows:
        folder, _, file = name.rpartition("/")
        if folder != last:
            lines.append(f"{folder}:")
        last = folder
        lines.append(f"{file} {value}")
    return Ended(0, "".join(f"{line}\n" for line in lines).encode(), b"")


def accounts(own: Ended, measured: Measured) -> tuple[Ended, Finding]:
    """Return the group's account of a load, and whether the load's own says the same.

    `own` is the load's, which ends with what `times` of a shell says: its own time and, on the
    second line, its children's; user and system.
    """
    used = measured.rose(lambda r: None if r.cpu is None else r.cpu * 1e6)
    first, last = measured.readings[0], measured.readings[-1]
    v2 = measured.version == "v2"
    memory = max((r.memory for r in measured.readings if r.memory is not None), default=None)
    pids = max((r.pids for r in measured.readings if r.pids is not None), default=None)
    seconds = None if used is None else used / 1e6
    rows: Rows = [
        ("cpu.stat usage_usec" if v2 else "cpuacct.usage", _or_dash(seconds, "{:.2f} s")),
        ("memory.current" if v2 else "memory.usage_in_bytes", _size(memory)),
        ("pids.current", "—" if pids is None else str(pids)),
    ]
    said = sum(int(m) * 60 + float(s) for m, s in TIMES.findall(own.stdout.decode()))
    passed = f"{last.at - first.at:.1f} s"
    if seconds is None:
        return _lines(rows), Finding(Verdict.UNKNOWN, (say("demo.nothing_counted"),))
    apart = abs(seconds - said)
    evidence = say("demo.accounts", own=f"{said:.2f} s", group=f"{seconds:.2f} s", time=passed)
    alike = bool(said) and apart <= TOLERANCE * said + TICKS
    return _lines(rows), Finding(Verdict.KEPT if alike else Verdict.BROKEN, (evidence,))


def _lines(rows: Rows) -> Ended:
    return Ended(0, "".join(f"{name}: {value}\n" for name, value in rows).encode(), b"")


def _or_dash(value: float | None, form: str) -> str:
    return "—" if value is None else form.format(value)


def _size(value: int | None) -> str:
    return "—" if value is None else say("demo.at_most", most=told("memory", value))
