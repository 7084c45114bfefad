"""How much a container may take: the options as numbers, checked before anything is made."""

from __future__ import annotations

import os

from stages.stage3_cgroups.sizes import cpu_list, device_rate, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_MEMORY = 6 << 20
"""Bytes: Docker's own least. With less, what starts the command would be killed before it."""
PERIOD = 100_000
"""Microseconds over which a CPU quota is counted: the kernel's default, and Docker's."""


class Limits:
    """What was asked for; None or empty where nothing was.

    `memory` and `memory_swap` (both together) are bytes, `memory_swap` -1 for any swap. `quota` is
    microseconds of CPU time in each PERIOD; `cpus` a list such as "0-2"; `shares` a weight beside
    others', 1024 by default; `pids` a number of processes; `reads` and `writes` bytes a second for
    a device's numbers, such as "254:0".
    """

    def __init__(self, options: Mapping[str, Sequence[str]]) -> None:
        """Take the options of `run`; raise ValueError, which names the option, where one is off."""
        last = {name: values[-1] for name, values in options.items()}
        self.memory, self.memory_swap = memory(last.get("--memory"), last.get("--memory-swap"))
        self.swap_asked = "--memory-swap" in last
        self.quota = quota(last["--cpus"]) if "--cpus" in last else None
        self.cpus = last.get("--cpuset-cpus")
        if self.cpus is not None:
            check_cpus(self.cpus)
        self.shares = whole("--cpu-shares", last, 2, 262144, none=0)
        self.pids = whole("--pids-limit", last, 1, 1 << 22, none=-1)
        reads, writes = "--device-read-bps", "--device-write-bps"
        self.reads = dict(device_rate(reads, text) for text in options.get(reads, ()))
        self.writes = dict(device_rate(writes, text) for text in options.get(writes, ()))

    def controllers(self) -> set[str]:
        """Return which controllers it takes, as v2 names them. See cgroups(7)."""
        asked = {
            "memory": self.memory,
            "cpu": self.quota or self.shares,
            "cpuset": self.cpus,
            "pids": self.pids,
            "io": self.reads or self.writes,
        }
        return {name for name, value in asked.items() if value}


def memory(limit: str | None, with_swap: str | None) -> tuple[int | None, int | None]:
    """Return the bytes of memory, and of memory and swap together."""
    if limit is None:
        if with_swap is not None:
            raise ValueError(f"--memory-swap {with_swap}: it needs --memory beside it")
        return None, None
    amount = size("--memory", limit)
    if amount < LEAST_MEMORY:
        raise ValueError(f"--memory {limit}: less than 6m can't hold what starts a command")
    if with_swap == "-1":
        return amount, -1
    if with_swap is None:
        return amount, 2 * amount
    together = size("--memory-swap", with_swap)
    if together < amount:
        why = f"it counts memory and swap together: say at least --memory's {limit}"
        raise ValueError(f"--memory-swap {with_swap}: {why}")
    return amount, together


def quota(text: str) -> int:
    """Return a number of CPUs such as `0.25` as microseconds in each PERIOD."""
    most = os.cpu_count() or 1
    try:
        microseconds = round(float(text) * PERIOD) if not text.strip("0123456789.") else 0
    except ValueError:
        microseconds = 0
    # The kernel takes no less than a millisecond, and time beyond all CPUs can't be had.
    if not PERIOD // 100 <= microseconds <= most * PERIOD:
        raise ValueError(f"--cpus {text}: say a number from 0.01 to {most}, the CPUs that are here")
    return microseconds


def check_cpus(text: str) -> None:
    """Raise ValueError for CPUs that this process couldn't run on either."""
    mine = os.sched_getaffinity(0)
    for cpus in cpu_list("--cpuset-cpus", text):
        # The first that is missing, of however many.
        missing = next((cpu for cpu in cpus if cpu not in mine), None)
        if missing is not None:
            here = ",".join(map(str, sorted(mine)))
            raise ValueError(f"--cpuset-cpus {text}: CPU {missing} can't be had here; {here} can")


def whole(option: str, given: Mapping[str, str], least: int, most: int, none: int) -> int | None:
    """Return an option's whole number; None where it isn't given, or is `none`."""
    if option not in given:
        return None
    text = given[option]
    try:
        number = int(text)
    except ValueError:
        number = most + 1
    if number == none:
        return None
    if not least <= number <= most:
        raise ValueError(f"{option} {text}: say a whole number from {least} to {most}")
    return number
