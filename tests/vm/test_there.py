"""The matrix in the machine is the one of this machine, or what differs is written down."""

from collections.abc import Mapping
from typing import Any

import pytest

from checks.peers import PEERS
from checks.probes import probes
from labs.stages import BUILT, reference
from tests.peers import known
from tests.running import check
from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

Cells = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def there(guest: Guest) -> Cells:
    """Return the verdicts in the machine, by column and axis."""
    _, told = guest.json("sudo", "labrun", "matrix", "--json", "-")
    rows: list[Any] = told["rows"]
    return {
        column: {
            row["axis"]: row["cells"][column]["verdict"] for row in rows if row["axis"] in probes()
        }
        for column in told["columns"]
    }


def test_it_has_every_column_that_there_is(there: Cells) -> None:
    assert [*there] == ["host", *BUILT, *(f"@{peer}" for peer in PEERS if peer != "host")]


@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.parametrize("stage", BUILT)
def test_a_stage_is_there_as_it_is_here(there: Cells, stage: str) -> None:
    _, report = check(reference(stage), "--only", ",".join(probes()))
    assert there[stage] == {row["id"]: row["verdict"] for row in report["checks"]}


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_is_there_as_the_checks_know_it(there: Cells, peer: str) -> None:
    found = there[peer if peer == "host" else f"@{peer}"]
    assert found == known(peer, found)
