"""`python -m benchmarks`: measure what a start costs, and print it as a table or as JSON."""

import argparse
import json
import os
import sys

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.start import contenders, measure, summary
from labs import machine, rootfs


def main() -> int:
    """Run the benchmark; return 0, or 3 where the peer to compare with is not installed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="runs of each contender (60)")
    parser.add_argument("--base", default="runc run", help="the contender that is 1.0 (runc run)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too; - is stdout")
    parser.add_argument("--docker", action="store_true", help="start a daemon, and compare it too")
    options = parser.parse_args()
    screen = Console(stderr=options.json == "-")
    if os.geteuid() != 0:
        print("benchmarks: need root, as the runtimes do: run it with sudo", file=sys.stderr)
        return 3
    with contenders(rootfs.default(), options.docker) as lines:
        if options.base not in lines:
            print(
                f"benchmarks: {options.base} is not installed: "
                "`sudo ./labrun test --all` installs the peers",
                file=sys.stderr,
            )
            return 3
        with Progress(console=screen, transient=True) as bar:
            task = bar.add_task("starting and waiting", total=options.rounds)
            costs = measure(lines, options.rounds, lambda: bar.advance(task))
    figures = summary(costs, options.base)
    facts = machine.host() | {
        "cpus": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "rounds": options.rounds,
    }
    table = Table("start of /bin/true", "median", "fastest", "CPU", f"against {options.base}")
    for name, row in sorted(figures.items(), key=lambda item: item[1]["ratio"]):
        times = (f"{row[key]} ms" for key in ("median_ms", "fastest_ms", "cpu_ms"))
        table.add_row(name, *times, f"{row['ratio']:.2f}")
    screen.print(table)
    screen.print(", ".join(f"{name} {value}" for name, value in facts.items()), style="dim")
    if options.json:
        text = json.dumps({"schema": 1, "machine": facts, "start": figures}, indent=2) + "\n"
        with open(1 if options.json == "-" else options.json, "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
