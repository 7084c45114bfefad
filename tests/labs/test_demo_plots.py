"""A plot shows what was counted, and its verdict is what the figures say."""

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from checks.model import Verdict
from labs import texts
from labs.demo import judge, plots
from labs.demo.measure import Measured, Series
from labs.demo.quantity import label, told
from labs.demo.script import Plot
from labs.docs.record import measured as recorded
from labs.gauge import Limits, Reading


@pytest.fixture(autouse=True)
def english() -> None:
    texts.speak("en")


def cpu(share: float, limit: float | None, throttled: int = 0) -> Measured:
    readings = [
        Reading(at=n / 20, cpu=share * n / 20, periods=n // 2, throttled=throttled * n // 2)
        for n in range(61)
    ]
    return Measured(Plot("cpu", 0.25), limit, readings, stopped=True)


def memory(most: int, limit: float | None, killed: int) -> Measured:
    readings = [Reading(at=n / 20, memory=most * n // 20, killed=0) for n in range(21)]
    readings.append(Reading(at=1.1, memory=0, killed=killed))
    return Measured(Plot("memory", 32 << 20), limit, readings)


@pytest.mark.parametrize(
    ("share", "throttled", "verdict"),
    [
        (0.25, 1, Verdict.LIMITED),
        (0.27, 1, Verdict.LIMITED),
        (0.23, 0, Verdict.LIMITED),
        (0.28, 1, Verdict.UNLIMITED),
        (1.0, 0, Verdict.UNLIMITED),
        # Less than the quota: by others, where it was reached at times; else nobody knows why.
        (0.2, 1, Verdict.LIMITED),
        (0.2, 0, Verdict.UNKNOWN),
    ],
)
def test_a_rate_is_limited_within_ten_per_cent(
    share: float, throttled: int, verdict: Verdict
) -> None:
    before, found = judge.judge(cpu(1.0, None), cpu(share, 0.25, throttled))
    assert (before, found.verdict) == (Verdict.UNLIMITED, verdict)
    assert f"{share:.2f} CPU on average" in found.evidence[0]


def test_a_load_that_would_not_reach_the_limit_proves_nothing() -> None:
    before, found = judge.judge(cpu(0.25, None), cpu(0.25, 0.25))
    assert (before, found.verdict) == (Verdict.UNKNOWN, Verdict.UNKNOWN)
    assert judge.judge(memory(20 << 20, None, 0), memory(20 << 20, 32 << 20, 0))[1].verdict is (
        Verdict.UNKNOWN
    )


@pytest.mark.parametrize(
    ("most", "killed", "verdict"),
    [
        (32 << 20, 1, Verdict.LIMITED),
        (33 << 20, 0, Verdict.UNLIMITED),
        (20 << 20, 0, Verdict.UNKNOWN),
    ],
)
def test_memory_is_limited_where_the_kernel_killed_for_it(
    most: int, killed: int, verdict: Verdict
) -> None:
    bound = memory(most, 32 << 20, killed)
    assert judge.judge(memory(64 << 20, None, 0), bound)[1].verdict is verdict


@pytest.mark.parametrize(
    ("swap", "verdict"),
    [(0, Verdict.LIMITED), (32 << 20, Verdict.UNLIMITED), (None, Verdict.UNKNOWN)],
)
def test_swap_is_limited_by_what_the_files_allow(swap: int | None, verdict: Verdict) -> None:
    def load(limit: float | None, allowed: int | None, most: int) -> Measured:
        readings = [Reading(at=n / 20, memory=most, swap=0, killed=1) for n in range(20)]
        return Measured(Plot("swap", 32 << 20), limit, readings, allowed=Limits(swap=allowed))

    found = judge.judge(load(None, None, 40 << 20), load(32 << 20, swap, 32 << 20))[1]
    assert found.verdict is verdict


def test_nothing_that_was_counted_is_no_verdict() -> None:
    empty = Measured(Plot("cpu", 0.25), 0.25)
    assert judge.judge(empty, empty)[1].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("width", [20, 36, 56])
@pytest.mark.parametrize("rows", [1, 6, 14])
def test_a_plot_fits_and_has_the_limit_as_a_line(width: int, rows: int) -> None:
    series = Series("cpu", 0.25, [(n / 10, 0.2) for n in range(10)])
    lines = plots.draw(series, 1.2, 3.0, width, rows)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(rows, plots.LEAST_ROWS + 1)
    (line,) = [line for line in lines if plots.DASH in line]
    assert line.lstrip().startswith("0.25┤")
    assert lines[-1].endswith("3.0 s")
    # It is over after one second of three: nothing is drawn behind it.
    bars = [re.sub(rf".*[┤│]|{plots.DASH}", "", row).rstrip() for row in lines[:-1]]
    assert 1 <= max(map(len, bars)) <= width // 2


def test_what_is_compared_has_one_scale_unless_that_hides_one() -> None:
    low, high = Series("pids", 16, [(0, 15)]), Series("pids", None, [(0, 50)])
    assert len(set(plots.scales([high, low]))) == 1
    tops = plots.scales([Series("written", None, [(0, 1e9)]), Series("written", 4e6, [(0, 4e6)])])
    assert tops[0] > 100 * tops[1]


@pytest.mark.parametrize(
    ("series", "value", "long", "short"),
    [
        ("cpu", 0.25, "0.25 CPU", "0.25"),
        ("memory", 32 << 20, "32.0 MiB", "32M"),
        ("memory", 1023.9 * 1024, "1.0 MiB", "1M"),
        ("pids", 16, "16", "16"),
        ("written", 4 << 20, "4.0 MiB/s", "4M"),
        ("sent", 1e6, "8.0 Mbit/s", "8M"),
    ],
)
def test_quantities_have_few_digits(series: str, value: float, long: str, short: str) -> None:
    assert (told(series, value), label(series, value)) == (long, short)


OLD = """<figure class="played measured">
<svg class="picture plot" aria-label="x"><path d="M1,2 L3,4"/></svg>
<code># stage3 --cpus 0.25
0m0.680s 0m0.000s
(stopped after 3.0 s)</code>
<p class="verdict limited">≤ LIMITED</p><ul><li>0.25 CPU on average, 28 of 30 periods</li></ul>
</figure>"""


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("L3,4", "L5,6", True),
        ("0.25 CPU", "0.26 CPU", True),
        ("28 of 30", "30 of 31", True),
        ("0m0.680s", "0m0.710s", True),
        ("after 3.0 s", "after 3.1 s", True),
        ("LIMITED", "UNLIMITED", False),
        ("--cpus 0.25", "--cpus 0.5", False),
        ("on average", "at most", False),
    ],
)
def test_a_recording_is_stale_where_more_than_its_figures_differ(
    old: str, new: str, alike: bool, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text(OLD)
    other.write_text(OLD.replace(old, new))
    assert recorded.alike(one, other) is alike
    # What isn't said to be measured is compared to the letter.
    for file in (one, other):
        file.write_text(file.read_text().replace(" measured", ""))
    assert not recorded.alike(one, other)
