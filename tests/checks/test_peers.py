"""What the checks say of programs that nobody here wrote is what those programs do."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import checks
from checks.model import Verdict
from checks.peers import PEERS, missing
from checks.probes import probes
from labs.paths import CHECKOUT
from tests.running import check

FACTS: dict[str, Any] = tomllib.loads(
    Path(checks.__file__).with_name("peers.toml").read_text(encoding="utf-8")
)
INSTALLED_FOR_THIS = {"bwrap", "runc", "crun", "docker", "podman"}


def verdicts(peer: str) -> dict[str, str]:
    """Return what is written down of a peer, by axis."""
    return {axis: verdict for verdict, listed in FACTS[peer]["verdicts"].items() for axis in listed}


@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, marks=[pytest.mark.peers] if peer in INSTALLED_FOR_THIS else [])
        for peer in FACTS
    ],
)
def test_a_peer_is_judged_as_it_behaves(peer: str) -> None:
    assert not missing(peer), f"not installed: {missing(peer)}"
    status, report = check(f"@{peer}", "--only", ",".join(probes()))
    found = {row["id"]: row["verdict"] for row in report["checks"]}
    known = verdicts(peer)
    # Only what is found may choose which version this is.
    others = FACTS[peer].get("elsewhere", {})
    known |= {axis: other for axis, other in others.items() if found[axis] == other}
    assert found == known, [r for r in report["checks"] if r["result"] != "pass"]
    assert status == 1


@pytest.mark.parametrize("peer", FACTS)
def test_every_probe_is_calibrated_and_every_broken_promise_explained(peer: str) -> None:
    assert set(verdicts(peer)) == set(probes())
    assert set(FACTS[peer]["verdicts"]) <= {verdict.value for verdict in Verdict}
    surprises = FACTS[peer]["verdicts"]["broken"] + FACTS[peer]["verdicts"].get("unknown", [])
    assert set(surprises) <= set(FACTS[peer]["why"])


def test_every_adapter_is_calibrated() -> None:
    assert set(FACTS) == set(PEERS)


def test_the_readme_has_the_table_that_the_facts_give() -> None:
    text = (CHECKOUT / "checks" / "README.md").read_text(encoding="utf-8")
    for peer, facts in FACTS.items():
        for axis, why in facts["why"].items():
            assert f"| @{peer} | `{axis}` | {verdicts(peer)[axis]} | {why} |" in text
