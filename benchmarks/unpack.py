"""`python -m benchmarks.unpack`: what unpacking a layer costs, beside `tar` on the same bytes.

The layer is of 200 MiB in 10,000 files; rounds are interleaved, as in the benchmark of a start, and
the ratio of medians is what counts. Contenders are whole processes: Python's own start is in it.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.start import Cost, once, summary
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.pack import END

FILES, FOLDERS, MEBIBYTES = 10_000, 200, 200
PEER = "tar"
UNPACK = """
import sys
from stages.stage4_overlayfs.unpack import unpack
from stages.stage4_overlayfs.whiteouts import OverlayForm
with open(sys.argv[1], "rb", buffering=0) as stream:
    unpack(stream, sys.argv[2], OverlayForm())
"""


def write_layer(path: Path, files: int = FILES, mebibytes: int = MEBIBYTES) -> None:
    """Write a layer of files whose bytes no file system can share or leave out."""
    chance, size = random.Random(4), (mebibytes << 20) // files
    each = FILES // FOLDERS
    noise = chance.randbytes(1 << 20)
    with path.open("wb") as file:
        file.write(tar.header(tar.Entry(b"usr/", tar.DIRECTORY, 0o755)))
        for number in range(files):
            folder = b"usr/%03d/" % (number // each)
            if number % each == 0:
                file.write(tar.header(tar.Entry(folder, tar.DIRECTORY, 0o755)))
            entry = tar.Entry(folder + b"%05d" % number, tar.FILE)
            entry.size, entry.mtime, entry.uid = size, 10**18 + number, number % 3
            at = chance.randrange(len(noise) - size)
            file.write(tar.header(entry) + noise[at : at + size] + bytes(-size % tar.UNIT))
        file.write(END)


def measure(
    lines: Mapping[str, Sequence[str]],
    target: Path,
    rounds: int,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[Cost]]:
    """Return the cost of each round, by contender; each has an empty target, and idle disks."""
    names = list(lines)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            target.mkdir()
            costs[name].append(once(lines[name]))
            shutil.rmtree(target)
            time.sleep(0.05)
        progress()
    return costs


def main() -> int:
    """Run the benchmark and print it; return 0, or 3 where `tar` is not installed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unpack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="unpackings of each contender (7)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too; - is stdout")
    options = parser.parse_args()
    if not shutil.which(PEER):
        print(f"benchmarks: {PEER} is not installed", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as base:
        layer, target = Path(base, "layer.tar"), Path(base, "target")
        write_layer(layer)
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
        lines = {
            "unpack": [sys.executable, "-S", "-c", UNPACK, str(layer), str(target)],
            PEER: [PEER, "-x", "--numeric-owner", "-p", "-f", str(layer), "-C", str(target)],
        }
        costs = measure(lines, target, options.rounds)
    figures = summary(costs, PEER)
    for name, row in figures.items():
        print(f"{name:8} median {row['median_ms']} ms, fastest {row['fastest_ms']} ms,", end=" ")
        print(f"{row['ratio']:.2f} of {PEER}")
    print(f"round by round {figures['unpack']['paired']:.2f} of {PEER}")
    if options.json:
        text = json.dumps({"schema": 1, "rounds": options.rounds, "unpack": figures}, indent=2)
        with open(1 if options.json == "-" else options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
