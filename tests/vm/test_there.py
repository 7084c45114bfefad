"""The matrix in the machine is the one of this machine, or what differs is written down.

Of the axes of stages 1 and 2: a limit takes seconds to measure, and under emulation minutes in each
column. test_groups has Docker and Podman judged on those, test_lessons the last stage on all that
is not here.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from checks.model import axes
from checks.peers import PEERS
from labs.stages import BUILT, reference
from tests.peers import known, verdicts
from tests.running import check
from tests.vm.guest import IN_THE_MATRIX, Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]
A_MATRIX = 3000
"""Seconds for every axis in every column."""

Cells = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def there(guest: Guest) -> Cells:
    """Return the verdicts in the machine, by column and axis."""
    words = ["sudo", "labrun", "matrix", "--only", ",".join(IN_THE_MATRIX), "--json", "-"]
    _, told = guest.json(*words, patience=A_MATRIX)
    rows: list[Any] = told["rows"]
    return {
        column: {row["axis"]: row["cells"][column]["verdict"] for row in rows}
        for column in told["columns"]
    }


def test_it_has_every_column_that_there_is(there: Cells) -> None:
    assert [*there] == ["host", *BUILT, *(f"@{peer}" for peer in PEERS if peer != "host")]


@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.parametrize("stage", BUILT)
def test_a_stage_is_there_as_it_is_here(there: Cells, stage: str) -> None:
    _, report = check(reference(stage), "--only", ",".join(IN_THE_MATRIX))
    assert there[stage] == {row["id"]: row["verdict"] for row in report["checks"]}


def test_the_last_stage_keeps_them_all(there: Cells) -> None:
    assert there[BUILT[-1]] == {id_: axes()[id_].required for id_ in IN_THE_MATRIX}


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_is_there_as_the_checks_know_it(there: Cells, peer: str) -> None:
    found = there[peer if peer == "host" else f"@{peer}"]
    # What is not asked here is taken to be as it is written down.
    expected = known(peer, verdicts(peer) | dict(found))
    assert found == {axis: expected[axis] for axis in IN_THE_MATRIX}
