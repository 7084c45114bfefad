"""`labrun matrix`: every axis against the host, each stage, each peer and your own, measured now.

`columns.py` says what is compared, `measure.py` measures it, `grid.py` lays it out, `browse.py`
leads through it at a terminal, and `by_hand.py` knows how to see the same without labrun.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from labs import texts
from labs.texts import say

if TYPE_CHECKING:
    from checks.model import Axis
    from labs.matrix.columns import Column
    from labs.matrix.measure import Results


def command(*, runtimes: Sequence[str], only: Sequence[str], json_file: str | None) -> int:
    """Measure, write `json_file` (`-`: stdout, and nothing else there), and show the table.

    For an ordinary user it starts labrun again as root. Raises Refused, and KeyboardInterrupt on
    Ctrl-C.
    """
    from checks.model import axes
    from labs import check, privilege, rootfs
    from labs.demo.screen import Screen
    from labs.demo.stop import told
    from labs.matrix import browse, columns, grid, measure

    chosen = check.chosen(only)
    asked = [axis for axis in axes().values() if axis in chosen]
    compared, missing = columns.compared(runtimes)
    check.must_be_writable(json_file)
    privilege.become_root(sys.argv[1:])
    place = rootfs.default()
    for peer in missing:
        print(say("matrix.missing", peer=peer), file=sys.stderr)
    screen = None if json_file == "-" else Screen()
    asks = screen is not None and screen.live and sys.stdin.isatty()
    # From the beginning: what is typed while it measures isn't echoed, and waits.
    with browse.keys() if asks else nullcontext() as keys:
        with told("matrix", say("matrix.stopped")):
            results = measure.measure(compared, asked, place)
        if json_file:
            text = json.dumps(as_json(compared, asked, results), ensure_ascii=False, indent=1)
            check.write(json_file, f"{text}\n")
        if screen:
            table = grid.Grid(screen, compared, asked, results)
            if keys:
                browse.Browser(table, place, keys).run()
            else:
                table.print()
    return 0


def as_json(
    compared: "Sequence[Column]", asked: "Sequence[Axis]", results: "Results"
) -> Mapping[str, object]:
    """Return the matrix in the contract's form."""
    return {
        "schema": 1,
        "columns": [column.name for column in compared],
        "rows": [
            {
                "axis": axis.id,
                "title": axis.title[texts.language()],
                "cells": {
                    column.name: {
                        "verdict": str(results[column.name][axis.id].verdict),
                        "evidence": list(results[column.name][axis.id].evidence),
                    }
                    for column in compared
                },
            }
            for axis in asked
        ],
    }
