"""What the checks say of programs that nobody here wrote is what those programs do."""

import os
from pathlib import Path

import pytest

from checks.bench import Bench
from checks.model import Verdict, axes
from checks.peers import PEERS, missing, runtime
from checks.probes import observe, probes
from checks.probes.cgroup import JOINS
from checks.trial import Trial
from labs.paths import CHECKOUT
from tests.peers import FACTS, known, meant, verdicts
from tests.running import assert_unchanged, check, machine

WALLS = [axis for axis in probes() if axes()[axis].stage < 4]
LAYERS = [axis for axis in probes() if axes()[axis].stage == 4]
"""Asked by themselves: with a daemon for each, all together would take minutes."""
LIFE = [axis for axis in probes() if axes()[axis].stage == 5]
INSTALLED_FOR_THIS = {"bwrap", "runc", "crun", "docker", "podman"}


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, marks=[pytest.mark.peers] if peer in INSTALLED_FOR_THIS else [])
        for peer in FACTS
    ],
)
@pytest.mark.parametrize("asked", [WALLS, LAYERS, LIFE], ids=["walls", "layers", "life"])
def test_a_peer_is_judged_as_it_behaves(
    asked: list[str], peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOINS, "5")
    assert not missing(peer), f"not installed: {missing(peer)}"
    status, report = check(f"@{peer}", "--only", ",".join(asked))
    found = {row["id"]: row["verdict"] for row in report["checks"]}
    expected = {axis: verdict for axis, verdict in known(peer, found).items() if axis in asked}
    assert found == expected, [r for r in report["checks"] if r["result"] != "pass"]
    assert status == int(any(row["result"] == "fail" for row in report["checks"]))


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    "peer",
    [pytest.param(peer, marks=pytest.mark.peers) for peer in ("runc", "crun", "docker", "podman")],
)
def test_what_a_peer_starts_and_makes_goes_with_its_bench(peer: str, rootfs: Path) -> None:
    before = machine()
    judged = runtime(f"@{peer}")
    with Bench(rootfs) as bench:
        judged.prepare(bench)
        with Trial(judged, bench).started() as container:
            # The control: the runtime and its container are there, and are the bench's.
            assert container.pid in bench.processes()
            # Whoever watches over the container is left alive when its runtime is killed.
            container.process.kill()
            there = bench.processes()
            scratch = bench.scratch
        groups = [Path(group) for group in bench.groups()]
    assert not [pid for pid in there if scratch in _arguments(pid)]
    assert not [group for group in groups if group.exists()]
    assert not os.path.lexists(scratch)
    assert_unchanged(before)


def _arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except FileNotFoundError:
        return ""


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    "peer", [pytest.param(peer, marks=pytest.mark.peers) for peer in ("docker", "podman")]
)
def test_an_engine_is_not_tried_on_the_machine_itself(peer: str, rootfs: Path) -> None:
    with Bench(rootfs, machine=True) as bench:
        assert observe("net.devices", Trial(runtime(f"@{peer}"), bench)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("peer", FACTS)
def test_every_probe_is_calibrated_and_every_broken_promise_explained(peer: str) -> None:
    assert set(verdicts(peer)) == set(probes()) == {*WALLS, *LAYERS, *LIFE}
    assert set(FACTS[peer]["verdicts"]) <= {verdict.value for verdict in Verdict}
    surprises = FACTS[peer]["verdicts"]["broken"] + FACTS[peer]["verdicts"].get("unknown", [])
    explained = {axis for reason in FACTS[peer]["why"] for axis in meant(peer, reason)}
    assert set(surprises) <= explained


def test_every_adapter_is_calibrated() -> None:
    assert set(FACTS) == set(PEERS)


def test_the_readme_has_the_table_that_the_facts_give() -> None:
    text = (CHECKOUT / "checks" / "README.md").read_text(encoding="utf-8")
    for peer, facts in FACTS.items():
        for reason, why in facts["why"].items():
            (verdict,) = {verdicts(peer)[axis] for axis in meant(peer, reason)}
            assert f"| @{peer} | `{reason}` | {verdict} | {why} |" in text
