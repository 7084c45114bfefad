"""`labrun doctor`: what this machine can do, where that was read, and the remedy for what it can't.

`table.py` holds the questions, a room a subject the probes that answer them, `attempt.py` the child
in which a probe may try something without changing the machine.
"""

import json
import os
import sys
from pathlib import Path

from labs.doctor.row import STAGES, Finding, Row, lacks, words
from labs.errors import CANNOT, FAILED, Refused


def examine() -> dict[Row, Finding]:
    """Ask the machine every row of the table. Call it before any thread exists: it forks."""
    if not os.path.exists("/proc/self/mountinfo"):
        remedy = "mount -t proc proc /proc"
        if os.geteuid() != 0:
            remedy = f"sudo {remedy}"
        raise Refused("doctor", words("no_proc"), remedy, status=CANNOT)

    from labs.doctor.facts import Facts
    from labs.doctor.table import ROWS

    facts = Facts()
    return {row: row.probe(facts) for row in ROWS}


def command(json_file: str | None) -> int:
    """Print the report, write it as JSON to `json_file` (`-` is stdout, with nothing else there).

    Return 0 when all five stages can run here, else CANNOT.
    """
    answers = examine()

    from labs.doctor import screen

    if json_file != "-":
        screen.Report(screen.console()).print(answers)
    if json_file:
        text = json.dumps(screen.as_json(answers), ensure_ascii=False, indent=1) + "\n"
        if json_file == "-":
            sys.stdout.write(text)
        else:
            try:
                Path(json_file).write_text(text, encoding="utf-8")
            except OSError as error:
                said = f"{json_file}: {error.strerror}"
                raise Refused("doctor", said, words("json_remedy"), status=FAILED) from None
    return CANNOT if any(lacks(answers, stage) for stage in STAGES) else 0
