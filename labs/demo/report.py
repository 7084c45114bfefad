"""What a demo measured, as JSON in the contract's form."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from checks.trial import Ended
from labs.demo.played import Played, Side
from labs.errors import FAILED, Refused
from labs.texts import say

STDOUT = "-"


def as_json(stage: str, played: Iterable[Played]) -> dict[str, object]:
    """Return the report; `axis` is null where a step is about none."""
    return {"schema": 1, "stage": stage, "steps": [_step(done) for done in played]}


def _step(done: Played) -> dict[str, object]:
    row: dict[str, object] = {
        "id": done.step.id,
        "axis": done.step.axis or None,
        "command": list(done.container.command),
        "host": _side(done.host),
        "container": _side(done.container),
        "verdict": str(done.finding.verdict),
        "expected": str(done.step.expected),
        "evidence": list(done.finding.evidence),
    }
    if done.step.options:
        row["options"] = list(done.step.options)
    if between := done.sides[1:-1]:
        row["beside"] = [
            {"stage": side.stage, "options": list(side.options), **_ended(side.ended)}
            for side in between
        ]
    if done.links:
        row["namespaces"] = {
            kind: {"host": link.host, "container": link.container}
            for kind, link in done.links.items()
        }
    return row


def _side(side: Side) -> dict[str, object]:
    """Return one side; where it was plotted, with its series."""
    row = _ended(side.ended)
    if side.measured:
        series = side.measured.series
        points = [[round(at, 3), round(value, 3)] for at, value in series.points]
        row["series"] = [
            {"name": series.name, "unit": series.unit, "limit": series.limit, "points": points}
        ]
    return row


def _ended(ended: Ended) -> dict[str, object]:
    return {
        "stdout": ended.stdout.decode("utf-8", "replace"),
        "stderr": ended.stderr.decode("utf-8", "replace"),
        "status": ended.status,
    }


def check(file: str) -> None:
    """Raise Refused for a file that could not be written when the demo is over."""
    folder = Path(file).parent
    if file != STDOUT and (Path(file).is_dir() or not folder.is_dir()):
        raise Refused("--json", say("demo.no_folder", file=file), say("demo.json.remedy"))


def write(report: dict[str, object], file: str) -> None:
    """Write a report to a file, `-` for stdout. Raises Refused where it can't be written."""
    text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    if file == STDOUT:
        # JSON is UTF-8 wherever it goes: see RFC 8259, section 8.1.
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()
        return
    try:
        Path(file).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        why = f"{file}: {error.strerror}"
        raise Refused("--json", why, say("demo.json.remedy"), status=FAILED) from None
