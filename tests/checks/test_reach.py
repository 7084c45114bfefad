"""What reaches a container, and what it reaches: the probes, on stage 5 and on what is broken."""

import sys
from pathlib import Path

import pytest

from checks import names
from checks.bench import Bench
from checks.beyond import BENCH, BEYOND, Beyond, socket_of
from checks.model import Verdict
from checks.probes import observe
from checks.probes.reach import TCP, UDP
from checks.runtimes import Runtime
from checks.trial import Trial
from tests.checks.mutation import Mutant, mutants

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.xdist_group("machine")]

REACH = ("net.publish", "net.nat", "net.peers", "net.dns")
MUTANTS = [mutant for mutant in mutants() if mutant.caught_by <= {*REACH}]


def verdicts(runtime: str, rootfs: Path) -> dict[str, Verdict]:
    found = {}
    for axis in REACH:
        with Bench(rootfs) as bench:
            found[axis] = observe(axis, Trial(Runtime(runtime), bench)).verdict
    return found


def test_stage_5_keeps_all_four(stage5: str, rootfs: Path) -> None:
    assert verdicts(stage5, rootfs) == dict.fromkeys(REACH, Verdict.KEPT)


def test_a_stage_without_them_keeps_none(stage2: str, rootfs: Path) -> None:
    assert verdicts(stage2, rootfs) == dict.fromkeys(REACH, Verdict.BROKEN)


@pytest.mark.once
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_breaks_exactly_its_own(mutant: Mutant, tmp_path: Path, rootfs: Path) -> None:
    found = verdicts(mutant.build(tmp_path, sys.executable), rootfs)
    assert {axis for axis in REACH if found[axis] is Verdict.BROKEN} == mutant.caught_by
    assert {found[axis] for axis in REACH if axis not in mutant.caught_by} <= {Verdict.KEPT}


def test_the_machine_beyond_answers_the_bench_and_nobody_else(rootfs: Path) -> None:
    with Bench(rootfs) as bench, Beyond(bench) as beyond:
        with socket_of(beyond.see_network, TCP, (BEYOND, 0)) as server:
            port = server.getsockname()[1]
            with socket_of(bench.see_network, TCP) as client:
                client.connect((BEYOND, port))
                accepted, (asker, _) = server.accept()
                accepted.close()
                assert asker == BENCH
        # It knows no other network than the one between them.
        with (
            socket_of(beyond.see_network, UDP) as lost,
            pytest.raises(OSError, match="unreachable"),
        ):
            lost.sendto(b"?", ("203.0.114.1", 9))


def test_a_question_and_its_answer_are_read_as_they_are_written() -> None:
    asked, number = names.question("some.host.test")
    answer = names.answering(asked, "192.0.2.7")
    assert names.answer(answer, number) == "192.0.2.7"
    assert names.answer(answer, number ^ 1) == ""
    for length in range(len(answer)):
        assert names.answer(answer[:length], number) == ""
