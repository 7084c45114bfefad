"""What a start costs: `RUNTIME run ROOT /bin/true`, each contender once a round, in turn.

Rounds are interleaved, so that what else the machine does hits all contenders alike; the median is
taken, so that a round that was disturbed counts little.
"""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from labs.stages import reference
from tests import dockerd

COMMAND = "/bin/true"
LIMITS = {"--memory": "64m", "--cpus": "0.5", "--cpu-shares": "512", "--pids-limit": "64"}
"""What stage 3 is asked for, and `runc run` in its own words: RESOURCES."""
RESOURCES = {
    "resources": {
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
        "cpu": {"period": 100_000, "quota": 50_000, "shares": 512},
        "pids": {"limit": 64},
    }
}

DOCKER = "docker run"


class Cost(NamedTuple):
    """What one run takes: seconds from before fork to after wait, and of the processors' time.

    The time is that of the process and of all that were waited for below it: not a daemon's.
    """

    seconds: float
    cpu: float


@contextmanager
def contenders(root: Path, docker: bool = False) -> Iterator[dict[str, list[str]]]:
    """Give the command line of each contender that is installed.

    `runc spec` proposes the five namespaces that stage 2 has by default, without a network in them:
    its like is `--net none`; with limits in its bundle it is that of stage 3 with the same. That of
    a bridged container is `docker run`, with a daemon of our own.
    """
    with tempfile.TemporaryDirectory() as bundle, ExitStack() as stack:
        limits = [word for option in LIMITS.items() for word in option]
        stage3 = [reference("stage3"), "run", "--net", "none"]
        stage2 = [reference("stage2"), "run"]
        lines = {
            "stage2 --net none": [*stage2, "--net", "none", str(root), COMMAND],
            "stage2 bridged": [*stage2, str(root), COMMAND],
            "stage3 --net none": [*stage3, *limits, str(root), COMMAND],
            "stage1": [reference("stage1"), "run", str(root), COMMAND],
            "chroot": ["chroot", str(root), COMMAND],
            "bwrap": ["bwrap", "--bind", str(root), "/", "--chdir", "/", COMMAND],
        }
        if shutil.which("runc"):
            for name, limited in (("runc run", False), ("runc run, limits", True)):
                folder = Path(bundle, "limited" if limited else "plain")
                write_bundle(folder, root, **(RESOURCES if limited else {}))
                lines[name] = ["runc", "run", "--bundle", str(folder), f"{name[:4]}-{os.getpid()}"]
        if docker and not dockerd.missing():
            lines[DOCKER] = stack.enter_context(docker_run(root))
        yield {name: line for name, line in lines.items() if shutil.which(line[0])}


@contextmanager
def docker_run(root: Path) -> Iterator[list[str]]:
    """Give the command line of `docker run --rm`, as long as the block lasts: with its daemon."""
    with dockerd.started(bridged=True) as daemon:
        daemon.load_rootfs(root)
        client = ["docker", "--config", str(daemon.base / "client")]
        client += ["--host", daemon.environment["DOCKER_HOST"]]
        yield [*client, "run", "--rm", "busybox", COMMAND]


def write_bundle(folder: Path, root: Path, **parts: Any) -> None:
    """Write the bundle that `runc spec` proposes, with our root and command, and more `parts`.

    Those are of `linux` in config.json; a part that it proposes, too, is added to.
    """
    folder.mkdir()
    subprocess.run(["runc", "spec", "--bundle", folder], check=True)
    config = json.loads((folder / "config.json").read_bytes())
    config["root"] = {"path": str(root), "readonly": True}
    config["process"] |= {"terminal": False, "args": [COMMAND]}
    for name, part in parts.items():
        config["linux"][name] = config["linux"].get(name, {}) | part
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def once(line: Sequence[str]) -> Cost:
    """Return what one run takes.

    Raises RuntimeError where it fails: a failed start is quick, and no result.
    """
    program = shutil.which(line[0]) or line[0]
    began = time.perf_counter()
    pid = os.posix_spawn(program, list(line), os.environ)
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{' '.join(line)}: status {os.waitstatus_to_exitcode(status)}")
    return Cost(seconds, used.ru_utime + used.ru_stime)


def measure(
    lines: Mapping[str, Sequence[str]], rounds: int, progress: Callable[[], None]
) -> dict[str, list[Cost]]:
    """Return the cost in each round, by contender; each round begins with another of them."""
    names = list(lines)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for line in lines.values():
        once(line)  # warm caches: no student starts a runtime only once
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            costs[name].append(once(lines[name]))
        progress()
    return costs


def summary(costs: Mapping[str, Sequence[Cost]], base: str) -> dict[str, dict[str, float]]:
    """Return median and fastest run and median CPU time in ms, and the ratio of medians to `base`.

    `paired` is the median of the ratios in each round: what a busy machine spoils less.
    """
    unit = statistics.median(cost.seconds for cost in costs[base])
    return {
        name: {
            "median_ms": round(1000 * statistics.median(cost.seconds for cost in runs), 2),
            "fastest_ms": round(1000 * min(cost.seconds for cost in runs), 2),
            "cpu_ms": round(1000 * statistics.median(cost.cpu for cost in runs), 2),
            "ratio": round(statistics.median(cost.seconds for cost in runs) / unit, 3),
            "paired": round(paired(runs, costs[base]), 3),
        }
        for name, runs in costs.items()
    }


def paired(ours: Sequence[Cost], theirs: Sequence[Cost]) -> float:
    """Return the median of the ratios of two contenders, round by round."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(one.seconds / other.seconds for one, other in pairs)
