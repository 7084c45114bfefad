"""What reaches a container, and what it reaches: where these promises are kept, where not."""

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

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.xdist_group("machine")]

REACH = ("net.publish", "net.nat", "net.peers", "net.dns")


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
