"""`python -m benchmarks.container`: what a start of stage 5 costs, beside `runc run` and Docker.

Each pair runs on the same root file system, in interleaved rounds: without a network beside `runc
run` as it comes, and with stage 5's filter for system calls; on the bridge beside `docker run --rm`
with a daemon of our own. Docker's CPU time is its client's alone.
"""

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.start import COMMAND, DOCKER, Cost, docker_run, measure, summary, write_bundle
from labs import rootfs
from labs.stages import reference
from stages.stage5_container.more.capabilities import chosen, names_of
from stages.stage5_container.more.seccomp import ALLOW, choose, encoded
from stages.stage5_container.more.seccomp import DOCKER as PROFILE
from tests import dockerd

ALONE, BRIDGED = "stage5 --net none", "stage5 bridged"
RUNC, FILTERED = "runc run", "runc run, seccomp"
BOUNDS = {(ALONE, RUNC): 1.2, (BRIDGED, DOCKER): 0.5}
"""What the ratios may be at most."""
AIMS = {(ALONE, RUNC): 1.0, (BRIDGED, DOCKER): 0.3}
SHOWN = [(ALONE, FILTERED)]
"""Ratios that are only shown: by default runc filters no system calls, and stage 5 does."""


@contextmanager
def stage5(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Give a folder, and how a command line of stage 5 begins; the image `box` is in the store."""
    with tempfile.TemporaryDirectory() as base:
        os.environ["LABRUN_STORE"] = f"{base}/store"
        program = reference("stage5")
        imported = [program, "image", "import", str(root), "box"]
        subprocess.run(imported, check=True, stdout=subprocess.DEVNULL)
        yield Path(base), [program, "run", "--rm"]


def alone(root: Path, base: Path, run: list[str], rounds: int) -> dict[str, list[Cost]]:
    """Return the costs without a network, of stage 5 and of runc."""
    lines = {ALONE: [*run, "--net", "none", "box", COMMAND]}
    bundles: dict[str, dict[str, object]] = {RUNC: {}, FILTERED: {"seccomp": seccomp()}}
    for number, (name, parts) in enumerate(bundles.items()):
        folder = base / f"bundle{number}"
        write_bundle(folder, root, **parts)
        identity = f"labrun-{folder.name}-{os.getpid()}"
        lines[name] = ["runc", "run", "--bundle", str(folder), identity]
    return measure(lines, rounds, lambda: None)


def bridged(root: Path, run: list[str], rounds: int) -> dict[str, list[Cost]]:
    """Return the costs on a bridge, of stage 5 and of Docker.

    Apart from the others: for whoever comes next, Docker's daemon is still busy with its last one.
    """
    with docker_run(root) as line:
        return measure({BRIDGED: [*run, "box", COMMAND], DOCKER: line}, rounds, lambda: None)


def seccomp() -> dict[str, object]:
    """Return Docker's profile as config.json of an OCI bundle has it, for this machine."""
    capabilities = names_of(chosen((), (), (1 << 64) - 1))
    _, calls = choose(PROFILE, capabilities, os.uname().machine)
    allowed = encoded(ALLOW, 0)
    rows: list[dict[str, object]] = []
    for name, action, arguments in calls:
        said = [
            {"index": at, "op": f"SCMP_CMP_{how}", "value": value, "valueTwo": other}
            for at, how, value, other in arguments
        ]
        row: dict[str, object] = {"names": [name], "action": "SCMP_ACT_ALLOW", "args": said}
        if action != allowed:
            row |= {"action": "SCMP_ACT_ERRNO", "errnoRet": action & 0xFFFF}
        rows.append(row)
    default = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.EPERM}
    return default | {"syscalls": rows}


def main() -> int:
    """Run the benchmark and print it; return 1 where a ratio is beyond its bound, 3 without peers.

    What counts is the ratio round by round: the median of it says most where others work here, too.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.container", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="runs of each contender (31)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too; - is stdout")
    options = parser.parse_args()
    screen = sys.stderr if options.json == "-" else sys.stdout
    if os.geteuid() != 0:
        print("benchmarks: it needs root", file=sys.stderr)
        return 3
    missing = dockerd.missing() or ("" if shutil.which("runc") else "not installed: runc")
    if missing:
        print(f"benchmarks: {missing}", file=sys.stderr)
        return 3
    root = rootfs.default()
    with stage5(root) as (base, run):
        without = alone(root, base, run, options.rounds)
        costs = without | bridged(root, run, options.rounds)
    figures = {RUNC: summary(costs, RUNC), DOCKER: summary(costs, DOCKER)}
    figures[FILTERED] = summary(without, FILTERED)
    for name, row in figures[RUNC].items():
        print(f"{name:18} median {row['median_ms']:6} ms, fastest {row['fastest_ms']:6} ms,",
              f"CPU {row['cpu_ms']:6} ms", file=screen)  # fmt: skip
    ratios, late = [], False
    for ours, theirs in SHOWN:
        print(f"{ours}: {figures[theirs][ours]['paired']:.2f} of {theirs}", file=screen)
    for (ours, theirs), bound in BOUNDS.items():
        ratio = figures[theirs][ours]["paired"]
        aim, late = AIMS[ours, theirs], late or ratio > bound
        ratios.append({"of": ours, "to": theirs, "ratio": ratio, "bound": bound, "aim": aim})
        print(f"{ours}: {ratio:.2f} of {theirs} (at most {bound}, aim {aim})", file=screen)
    if options.json:
        report = {"schema": 1, "rounds": options.rounds, "start": figures[RUNC], "ratios": ratios}
        with open(1 if options.json == "-" else options.json, "w", encoding="utf-8") as file:
            file.write(json.dumps(report, indent=2) + "\n")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
