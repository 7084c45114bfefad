"""Each mutant is caught by the checks that it names, and by no other."""

import os
import sys
from pathlib import Path

import pytest

from checks.model import axes
from checks.probes.cgroup import JOINS
from labs import machine as machine_facts
from tests.checks.mutation import Mutant, mutants
from tests.running import check, machine, results

pytestmark = pytest.mark.usefixtures("as_root", "rootfs")
SLEEP = 300 + os.getpid()  # seconds that no other test sleeps
LIFE = {axis.id for axis in axes().values() if axis.stage == 5 and axis.id.startswith("run.")}


def judged_on(mutant: Mutant) -> list[str]:
    """Return the arguments that say which checks judge a mutant of a stage: all up to its own.

    Those of stage 3 differ from the reference in its control groups and its queues alone, those of
    stage 4 in its layers, those of stage 5 in what it adds: in how a container is looked after, or
    in what is around it. So they are judged on these, and on the promises that such a change can
    break: all together would take twice as long. That a stage keeps what those before it promise
    is the reference's to show.
    """
    stage = mutant.stage
    if stage in ("stage1", "stage2"):
        return [stage]
    own = {axis.id for axis in axes().values() if f"stage{axis.stage}" == stage}
    own &= LIFE if mutant.caught_by & LIFE else own - LIFE
    return [stage, "--only", ",".join([*sorted(own), "fs.root", "host.residue", "run.status"])]


@pytest.mark.once
@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_fails_exactly_its_own_checks(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutant.only not in ("", machine_facts.host()["cgroup"]):
        pytest.skip(f"cannot: it takes control groups of another kind, {mutant.only}")
    # One that joins late does so at every start: it need not be waited for twenty times.
    monkeypatch.setenv(JOINS, "5")
    runtime = mutant.build(tmp_path, sys.executable)
    status, report = check(runtime, *judged_on(mutant))
    assert results(report, "fail") == mutant.caught_by
    assert results(report, "cannot") == set()
    assert status == 1


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_its_reference_with_a_change(mutant: Mutant, tmp_path: Path) -> None:
    # Those that can't be judged on this machine must not rot here either.
    mutant.build(tmp_path, sys.executable)
    for change in mutant.changes:
        compile((tmp_path / change["file"]).read_bytes(), change["file"], "exec")


def test_every_check_that_ships_catches_a_mutant() -> None:
    caught = {id_ for mutant in mutants() for id_ in mutant.caught_by}
    assert caught == set(axes())


def test_a_change_that_no_longer_fits_is_an_error(tmp_path: Path) -> None:
    rotten = Mutant(
        "rotten",
        "",
        "stage1",
        frozenset(),
        ({"file": "stages/linux.py", "old": "no such text", "new": ""},),
    )
    with pytest.raises(ValueError, match="0 times"):
        rotten.build(tmp_path, sys.executable)


@pytest.mark.once
def test_a_runtime_that_wrecks_its_host_leaves_this_machine_as_it_was(tmp_path: Path) -> None:
    wrecker = tmp_path / "wrecker"
    wrecker.write_text(
        "#!/bin/sh\n"
        "hostname wrecked\n"
        "mount -t tmpfs wreck /tmp\n"
        "umount -l /proc\n"
        "ip link add wreck0 type veth\n"
        "ip route add 192.0.2.77/32 dev lo\n"
        "mkdir /tmp/wreck /run/wreck\n"
        "touch /dev/shm/wreck\n"
        f"(trap '' HUP TERM; exec sleep {SLEEP}) >/dev/null 2>&1 &\n"
        'shift 2; exec "$@"\n',
        encoding="utf-8",
    )
    wrecker.chmod(0o755)
    before = machine()
    status, report = check(str(wrecker), "stage1", "--only", "fs.root,host.residue")
    after = machine()
    assert status == 1
    assert "host.residue" in results(report, "fail")
    assert after == before
    assert not Path("/tmp/wreck").exists()
    assert not Path("/dev/shm/wreck").exists()
    assert not [
        p for p in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{SLEEP}".encode() in _read(p)
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
