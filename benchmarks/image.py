"""`python -m benchmarks.image`: what a start costs from a big image, beside a small one.

Of 200 MiB in 10,000 files, and of 4 MiB in 200; both were unpacked before. A start from either
takes the same time, for nothing is copied: the ratio of medians, in interleaved rounds, is near 1
with the kernel's overlay. `--storage-driver vfs` shows what that saves us from.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.start import measure, summary
from benchmarks.unpack import FILES, MEBIBYTES, write_layer
from labs import rootfs
from labs.stages import reference
from stages.stage4_overlayfs.storage import DRIVERS

BIG, SMALL = f"{MEBIBYTES} MiB", "4 MiB"
BOUND = 1.2
"""What the ratio may be at most: Done-when of the stage."""


def add_image(stage4: str, base: Path, name: str, files: int, mebibytes: int) -> None:
    """Import an image of busybox and that many files, and build nothing on it."""
    context = base / name
    context.mkdir()
    write_layer(context / "layer.tar", files, mebibytes)
    (context / "Dockerfile").write_text("FROM box\nADD layer.tar /\n", encoding="ascii")
    subprocess.run(
        [stage4, "build", "-t", name, str(context)], check=True, stdout=subprocess.DEVNULL
    )


def main() -> int:
    """Run the benchmark and print it; return 1 where the ratio is beyond BOUND with overlay."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="starts from each image (31)")
    parser.add_argument("--storage-driver", default="overlay", choices=DRIVERS)
    parser.add_argument("--json", metavar="FILE", help="write the figures here too; - is stdout")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks: it needs root", file=sys.stderr)
        return 3
    stage4, driver = reference("stage4"), options.storage_driver
    with tempfile.TemporaryDirectory() as base:
        os.environ["LABRUN_STORE"] = f"{base}/store"
        imported = [stage4, "image", "import", str(rootfs.default()), "box"]
        subprocess.run(imported, check=True, stdout=subprocess.DEVNULL)
        add_image(stage4, Path(base), "big", FILES, MEBIBYTES)
        add_image(stage4, Path(base), "small", FILES * 4 // MEBIBYTES, 4)
        run = [stage4, "run", "--rm", "--net", "none", "--storage-driver", driver]
        lines = {BIG: [*run, "big", "/bin/true"], SMALL: [*run, "small", "/bin/true"]}
        # The first of each unpacks its image, and isn't counted.
        costs = measure(lines, options.rounds, lambda: None)
    figures = summary(costs, SMALL)
    for name, row in figures.items():
        print(f"{name:8} median {row['median_ms']} ms, fastest {row['fastest_ms']} ms,", end=" ")
        print(f"{row['ratio']:.3f} of {SMALL}")
    print(f"round by round {figures[BIG]['paired']:.3f} of {SMALL}")
    if options.json:
        report = {"schema": 1, "rounds": options.rounds, "driver": driver, "image": figures}
        with open(1 if options.json == "-" else options.json, "w", encoding="utf-8") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    return int(driver == "overlay" and figures[BIG]["ratio"] > BOUND)


if __name__ == "__main__":
    sys.exit(main())
