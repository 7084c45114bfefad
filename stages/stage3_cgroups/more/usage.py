"""What the kernel has counted of a container, by whichever interface."""

from __future__ import annotations

from stages.stage3_cgroups.more.files import read_word, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Usage:
    """A container's counters; what can't be read is 0. `source` names the files by counter.

    `oom_kills` and `refused_forks` are numbers of times, `memory_peak` bytes, `periods` and
    `throttled` numbers of CPU periods, `waited` and `cpu` seconds.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.oom_kills = self.refused_forks = self.memory_peak = self.periods = self.throttled = 0
        self.waited = self.cpu = 0.0
        self.source: dict[str, str] = {}

    def read_v1(self, paths: Mapping[str, str]) -> None:
        """Read the files of v1, a tree for each controller."""
        if path := paths.get("memory"):
            self.oom_kills = table(f"{path}/memory.oom_control").get("oom_kill", 0)
            self.memory_peak = number(f"{path}/memory.max_usage_in_bytes")
            self.source["memory"] = "memory.limit_in_bytes"
        if path := paths.get("cpu"):
            counted = table(f"{path}/cpu.stat")
            self.periods = counted.get("nr_periods", 0)
            self.throttled = counted.get("nr_throttled", 0)
            self.waited = counted.get("throttled_time", 0) / 1e9  # v1 counts nanoseconds
            self.source["cpu"] = "cpu.cfs_quota_us"
        if path := paths.get("cpuacct"):
            self.cpu = number(f"{path}/cpuacct.usage") / 1e9
        if path := paths.get("pids"):
            self.refused_forks = table(f"{path}/pids.events").get("max", 0)
            self.source["pids"] = "pids.max"

    def read_v2(self, path: str) -> None:
        """Read the files of v2."""
        self.oom_kills = table(f"{path}/memory.events").get("oom_kill", 0)
        # Linux 5.19 keeps the peak; without it, what is there now has to do.
        peak = number(f"{path}/memory.peak") or number(f"{path}/memory.current")
        self.memory_peak = self.memory_peak or peak
        counted = table(f"{path}/cpu.stat")
        self.periods = self.periods or counted.get("nr_periods", 0)
        self.throttled = self.throttled or counted.get("nr_throttled", 0)
        self.waited = self.waited or counted.get("throttled_usec", 0) / 1e6
        self.cpu = self.cpu or counted.get("usage_usec", 0) / 1e6
        self.refused_forks = self.refused_forks or table(f"{path}/pids.events").get("max", 0)
        for controller, file in (
            ("memory", "memory.max"),
            ("cpu", "cpu.max"),
            ("pids", "pids.max"),
        ):
            self.source.setdefault(controller, file)


def number(path: str) -> int:
    """Return a file's number; 0 where it is not there."""
    word = read_word(path)
    return int(word) if word.isdigit() else 0
