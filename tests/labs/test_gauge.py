"""The gauge reads what both versions of cgroups count, and finds what runs."""

from pathlib import Path

import pytest

from labs import gauge
from labs.gauge import Limits, Reading

V1 = {
    "cpuacct/cpuacct.usage": "1500000000\n",
    "cpu/cpu.stat": "nr_periods 30\nnr_throttled 28\nthrottled_time 12\n",
    "cpu/cpu.cfs_quota_us": "25000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.usage_in_bytes": "1048576\n",
    "memory/memory.memsw.usage_in_bytes": "1572864\n",
    "memory/memory.limit_in_bytes": "33554432\n",
    "memory/memory.memsw.limit_in_bytes": "67108864\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "pids/pids.current": "3\n",
    "pids/pids.max": "16\n",
    "pids/pids.events": "max 2\n",
    "blkio/blkio.throttle.io_service_bytes": (
        "7:0 Read 100\n7:0 Write 4096\n7:0 Total 4196\n7:1 Write 4\nTotal 4200\n"
    ),
    "blkio/blkio.throttle.read_bps_device": "",
    "blkio/blkio.throttle.write_bps_device": "7:0 4194304\n",
}
V2 = {
    "cpu.stat": "usage_usec 1500000\nnr_periods 30\nnr_throttled 28\n",
    "cpu.max": "25000 100000\n",
    "memory.current": "1048576\n",
    "memory.swap.current": "524288\n",
    "memory.max": "33554432\n",
    "memory.swap.max": "33554432\n",
    "memory.events": "low 0\nmax 3\noom 1\noom_kill 1\n",
    "pids.current": "3\n",
    "pids.max": "16\n",
    "pids.events": "max 2\n",
    "io.stat": "7:0 rbytes=100 wbytes=4096 rios=1 wios=1\n7:1 wbytes=4\n",
    "io.max": "7:0 rbps=max wbps=4194304 riops=max wiops=max\n",
}
COUNTED = Reading(
    cpu=1.5,
    memory=1 << 20,
    swap=1 << 19,
    pids=3,
    read=100,
    written=4100,
    killed=1,
    refused=2,
    periods=30,
    throttled=28,
)
ALLOWED = Limits(cpus=0.25, memory=32 << 20, swap=32 << 20, pids=16, written=4 << 20)


def tree(folder: Path, files: dict[str, str]) -> gauge.Groups:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if files is V2:
        return {"": folder}
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_both_trees_are_read_alike(files: dict[str, str], tmp_path: Path) -> None:
    groups = tree(tmp_path, files)
    reading = gauge.read(groups)
    assert reading.at > 0
    assert {**vars(reading), "at": 0.0} == vars(COUNTED)
    assert gauge.limits(groups) == ALLOWED


@pytest.mark.parametrize(
    ("files", "name", "text"),
    [
        (V1, "memory/memory.limit_in_bytes", "9223372036854771712\n"),
        (V2, "memory.max", "max\n"),
    ],
)
def test_no_limit_is_none(files: dict[str, str], name: str, text: str, tmp_path: Path) -> None:
    groups = tree(tmp_path, files)
    (tmp_path / name).write_text(text)
    assert gauge.limits(groups).memory is None


def test_a_group_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    reading = gauge.read({"": tmp_path / "gone"})
    assert {**vars(reading), "at": 0.0} == vars(Reading())
    assert gauge.limits({"": tmp_path / "gone"}) == Limits()


def test_on_v2_the_group_above_speaks_for_one_whose_memory_nobody_counts(tmp_path: Path) -> None:
    tree(tmp_path, V2)
    (tmp_path / "cgroup.procs").touch()
    inner = tmp_path / "labrun-run-0a1b2c3d"
    inner.mkdir()
    (inner / "cpu.stat").write_text("usage_usec 5\n")
    (inner / "cgroup.procs").touch()
    assert gauge.read({"": inner}).memory is None
    around = gauge.read({"": inner}, around=True)
    assert (around.cpu, around.memory) == (5e-6, 1 << 20)


def test_a_process_is_found_in_the_groups_that_the_kernel_says() -> None:
    groups = gauge.groups_of(1)
    assert groups
    for folder in groups.values():
        assert (folder / "cgroup.procs").exists()
    with pytest.raises(OSError, match="No such file"):
        gauge.groups_of(1 << 22)


def test_a_rate_is_what_a_counter_rose_by_a_second() -> None:
    before, after = Reading(at=1.0, sent=100), Reading(at=3.0, sent=500)
    assert gauge.rate(before, after, lambda r: r.sent) == 200
    assert gauge.rate(before, before, lambda r: r.sent) is None
    assert gauge.rate(before, after, lambda r: r.read) is None
    # A counter that begins anew, as a device's does, is no negative rate.
    assert gauge.rate(before, Reading(at=2.0, sent=0), lambda r: r.sent) == 0
