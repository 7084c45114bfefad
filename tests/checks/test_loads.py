"""What the judges measure with: loads that bound themselves, and a disk that goes by itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks import load
from checks.bench import Bench
from checks.cgroup import CONTROLLERS
from checks.disk import SIZE, disk, moved
from checks.visitor import Hindered
from tests.running import DEAD_CHECKS, LABRUN, machine, run

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def bench(rootfs: Path) -> Iterator[Bench]:
    with Bench(rootfs) as there:
        yield there


def groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")


def test_a_load_is_in_every_group_of_its_process(bench: Bench) -> None:
    canary = bench.canaries.process
    with load.at_work(canary, load.burn()) as work:
        assert work.told()
        assert groups(work.pid) == groups(canary) != groups(os.getpid())


def test_a_load_ends_by_itself_whatever_its_judge_does(bench: Bench) -> None:
    began = time.monotonic()
    with load.at_work(bench.canaries.process, load.burn()) as work:
        assert work.ended() == signal.SIGALRM
    assert time.monotonic() - began < load.SECONDS + 2


def test_a_load_takes_no_more_memory_and_no_more_processes_than_it_may(bench: Bench) -> None:
    taken = 0
    with load.at_work(bench.canaries.process, load.allocate(1 << 40)) as work:
        while (more := work.told()) is not None:
            taken = more
    assert taken == load.MEMORY
    with load.at_work(bench.canaries.process, load.fork(1000)) as work:
        work.has_children = True
        assert work.told() == [load.PROCESSES - 1, 0]
        born = children(work.pid)
        assert len(born) == load.PROCESSES - 1
    assert not [pid for pid in born if os.path.exists(f"/proc/{pid}")]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()


def test_a_load_of_a_process_that_is_gone_is_no_verdict() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(Hindered), load.at_work(gone.pid, load.burn()):
        pass


def test_a_rate_is_that_after_the_burst_and_of_what_never_settles_the_whole() -> None:
    burst = [(0.1, 1000), (0.5, 1100), (1.0, 1200), (1.5, 1300)]
    assert load.rate(burst, 0.4) == pytest.approx(200)
    assert load.rate([(0.1, 1000), (0.2, 2000)], 0.5) == pytest.approx(10000)
    assert load.rate([(0.1, 1000)], 0.5) == pytest.approx(10000)
    assert load.rate([], 0.5) == 0


def test_statistics_of_a_device_are_found_in_both_versions() -> None:
    v1 = "7:0 Read 4096\n7:0 Write 512\n7:1 Read 1\nTotal 4609"
    v2 = "7:1 rbytes=1 wbytes=2\n7:0 rbytes=4096 wbytes=512 rios=1\n7:2 \n"
    for text, unified in ((v1, False), (v2, True)):
        assert moved(text, "7:0", False, unified=unified) == 4096
        assert moved(text, "7:0", True, unified=unified) == 512
        assert moved(text, "8:0", True, unified=unified) == 0


def backing(number: str) -> Path:
    return Path(f"/sys/dev/block/{number}/loop/backing_file")


def test_a_disk_is_a_block_device_that_keeps_what_is_written(bench: Bench) -> None:
    with disk(bench) as there:
        assert "labrun-disk" in backing(there.number).read_text(encoding="utf-8")
        kinds = [
            load.transfer(there.direct, SIZE, write=write, seconds=1, most=SIZE)
            for write in (True, False)
        ]
        for work in kinds:
            with load.at_work(bench.canaries.process, work) as at_work:
                assert at_work.told()[-1][1] == SIZE
    assert not backing(there.number).exists()


A_DISK = """
import sys
from pathlib import Path
from checks.bench import Bench
from checks.disk import disk
with Bench(Path(sys.argv[1])) as bench, disk(bench) as there:
    print(there.number, flush=True)
    input()
"""


@pytest.mark.xdist_group("machine")
def test_not_even_sigkill_leaves_a_disk_behind(rootfs: Path) -> None:
    judge = subprocess.Popen(
        [sys.executable, "-c", A_DISK, str(rootfs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with judge:
        assert judge.stdout
        number = judge.stdout.readline().decode().strip()
        # The control: it was there.
        assert backing(number).exists()
        judge.kill()
        judge.wait()
    for _ in range(100):
        if not backing(number).exists():
            break
        time.sleep(0.05)  # the kernel detaches it when its last process is gone
    assert not backing(number).exists()
    for _ in range(50):
        run([LABRUN, "clean", "--yes"])
        if not machine()[DEAD_CHECKS]:
            return
        time.sleep(0.1)
    raise AssertionError("what the killed judge left is still there")


def test_on_a_bench_the_tree_of_groups_begins_at_the_benchs_own(bench: Bench) -> None:
    made = "labrun-test-group"
    canary = bench.canaries.process
    folder = "/sys/fs/cgroup"
    if Path(f"{folder}/memory").is_dir():
        folder += "/memory"
    bench.see(lambda: os.mkdir(f"{folder}/{made}"))
    assert [group for group in bench.groups() if group.endswith(f"/{made}")]
    assert not Path(folder, made).exists()
    assert bench.link("cgroup") == os.readlink(f"/proc/{canary}/ns/cgroup")
    assert bench.link("cgroup") != os.readlink("/proc/self/ns/cgroup")


def test_who_is_in_the_benchs_own_group_is_limited_by_none(bench: Bench) -> None:
    for controller in CONTROLLERS:
        # Its own processes are in no group but the bench's.
        assert bench.control(bench.canaries.process, controller).directory is None
