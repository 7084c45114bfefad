"""Disks: how fast they are read and written."""

from checks import load
from checks.disk import SIZE, disk, moved
from checks.model import Finding
from checks.probes import asked, kept, limit, probe
from checks.trial import Trial
from checks.visitor import Hindered
from checks.words import say

RATE = 1 << 20
"""Bytes a second: `1mb`, as Docker reads it."""
TOLERANCE = 0.1
SECONDS, SETTLED = 2.3, 0.3
"""How long is measured, and what is left out of it: a group that was idle may begin with a burst.

The rate is that between the ends of two transfers, so it does not matter how many there were."""
MOST = 16 * RATE
"""Bytes that end it at once: 2.3 s at any rate near the limit are far fewer."""
TRIES = 3
STATISTICS = ("blkio.throttle.io_service_bytes", "io.stat")


@probe("io.read")
def io_read(trial: Trial) -> Finding:
    """What a load reads of a disk, past the cache, comes at the rate that was asked for."""
    return _throughput(trial, "--device-read-bps", "read_bps", write=False)


@probe("io.write")
def io_write(trial: Trial) -> Finding:
    """What a load writes to a disk, past the cache, goes at the rate that was asked for."""
    return _throughput(trial, "--device-write-bps", "write_bps", write=True)


def _throughput(trial: Trial, option: str, name: str, *, write: bool) -> Finding:
    bench = trial.bench
    bench.control(bench.pid, "io")
    with disk(bench) as device, asked(trial, option, f"{device.name}:1mb") as (container, notes):
        control = bench.control(container.pid, "io")
        shown = kept(control, f"blkio.throttle.{name}_device", "io.max")

        def measured(pid: int) -> float:
            work = load.transfer(device.direct, SIZE, write=write, seconds=SECONDS, most=MOST)
            with load.at_work(pid, work) as loaded:
                return load.rate(loaded.told() or [], SETTLED)

        def counted() -> tuple[int, str]:
            found = [
                (moved(text, device.number, write, unified=control.unified), str(file))
                for file, text in control.texts(*STATISTICS)
            ]
            return max(found, default=(0, ""))

        before, _ = counted()
        for _ in range(TRIES):
            rate = measured(container.pid)
            if abs(rate / RATE - 1) <= TOLERANCE or rate > 2 * RATE:
                break
        after, file = counted()
        # The control: the same from outside.
        outside = measured(bench.canaries.process)
    seen = [say("io.rate", rate=rate / RATE, outside=outside / RATE)]
    if file:
        seen.append(
            say("io.counted", file=file, device=device.number, size=(after - before) / RATE)
        )
    seen += [*notes, shown]
    if outside < 2 * RATE:
        raise Hindered(say("io.slow", rate=outside / RATE))
    faults = [say("io.too_slow")] if rate < RATE * (1 - TOLERANCE) else []
    return limit(rate <= RATE * (1 + TOLERANCE), faults, *seen)
