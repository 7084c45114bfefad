"""Stage 5 when the kernel says no: each call of a run made to fail, in a run of its own.

Nothing is run with fewer walls than were asked for, and nothing is left.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.running import abandoned_groups, run
from tests.stages.failing import Failing, Told
from tests.stages.lives import Engine, eventually
from tests.stages.networks import Place

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.xdist_group("stage5 faults"),
    pytest.mark.once,
]

WALLS = """
grep -E '^(Uid|Gid|Groups|NSpid|Cap|NoNewPrivs|Seccomp)' /proc/self/status
cut -d' ' -f4- /proc/self/mountinfo
for link in /proc/self/ns/*; do
    case " $HOSTS " in *" $(readlink $link) "*) echo shared $link;; esac
done
grep -E ':(memory|devices):' /proc/self/cgroup
ip -o addr; ip route; ulimit -a; hostname; pwd; id; echo end
"""
"""What a command sees of its walls: as much as from inside can be told."""
ALIKE = ("open", "openat#", "mkdir", "rmdir", "mknod", "symlink", "rename", "unlink")
"""Of what reads nearly alike, one in each process."""
TOLERATED = re.compile(r'mkdir\("/sys/fs/cgroup/(?!memory|devices)')
"""Some groups only count: a run goes on without them, as in stage 3."""


class Life(NamedTuple):
    """A command line, and what its calls have in common with none of those before."""

    options: tuple[str, ...]
    enough: int
    """Calls that it makes at least, and no other before it."""


LIVES = {
    "alone": Life(
        (
            *("--net", "none", "-u", "1234", "--hostname", "inner", "-w", "/etc", "-m", "64m"),
            *("--tmpfs", "/new/t", "--read-only"),
        ),
        60,
    ),
    "plugged in": Life(("-p", "8080:80", "-p", "8081:81/udp"), 15),
    "a user of its own": Life(
        ("--net", "none", "--init", "--namespaces", "pid,net,mnt,ipc,uts,user,cgroup"), 8
    ),
    "in the background": Life(("-d", "--name", "back", "-p", "8080:80"), 4),
    "exec": Life(("-w", "/etc", "-u", "1234"), 10),
}

SELDOM = 40
"""How often a run is tried for a call that not every run makes."""


class Host:
    """What calls are made to fail on: a store, a network, and who makes the runs."""

    def __init__(self, engine: Engine, failing: Failing, folder: Path) -> None:
        self.engine, self.failing, self.folder = engine, failing, folder
        self.place = Place(failing.process.pid)
        self.tried: set[str] = set()

    def with_failed(self, argv: list[str], call: str) -> Told:
        """Run it with a call made to fail; some come only where two processes meet just so."""
        for _ in range(SELDOM):
            if (told := self.failing.run(argv, call)).failed:
                break
        return told

    def network(self) -> tuple[set[str], str]:
        """Return the links of the runs' network, and all rules."""
        links = {row["ifname"] for row in json.loads(self.place.does("ip", "-j", "link"))}
        return links, self.place.does("nft", "list", "ruleset")

    def new(self, calls: list[str]) -> list[str]:
        """Return the calls that nobody has tried, by whichever process."""
        found = []
        for call in calls:
            process, _, words = call.partition(" ")
            name = words.partition("(")[0]
            kind = f"{'parent' if '/' not in process else process[-6:]} {name}"
            key = kind if name in ALIKE else words
            if key not in self.tried and not TOLERATED.match(words):
                self.tried.add(key)
                found.append(call)
        return found


@pytest.fixture(scope="module")
def host(stage5: str, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    # Before any test's own fixtures, as it is made once for all of them.
    if os.geteuid() != 0:
        pytest.skip("cannot: needs root")
    store, folder = (tmp_path_factory.mktemp(name) for name in ("store", "folder"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABRUN_STORE", str(store))
        engine = Engine(stage5, store)
        engine.says("image", "import", str(rootfs), "box")
        assert engine.inside("echo unpacked") == "unpacked"  # from now on runs have the same calls
        with Failing({"LABRUN_STORE": str(store)}, before=("unshare", "-n")) as failing:
            yield Host(engine, failing, folder)
        assert engine.residue() == []
        assert not abandoned_groups()


def same(text: str) -> str:
    """Return what is said of walls, without what differs from run to run."""
    return re.sub("[0-9a-f]*[0-9][0-9a-f]*", "#", text)


def judge(host: Host, call: str, told: Told, good: str) -> None:
    """See that a run with a failed call has kept its promises."""
    what = (call, told)
    assert told.failed, what
    assert told.left == [], what
    # What was interrupted has said a part: no wall was another.
    assert same(good).startswith(same(told.out)), what
    assert told.status in ((0, 125) if told.out else (125,)) or "execve(" in call, what
    if told.status == 125 and "sigwaitinfo" not in call:  # pid 1 has no stderr any more
        assert told.err.startswith("stage5: "), what
        assert told.err.count("\n") == 1, what
    if told.out:
        # It has run, and something of it couldn't be taken away: that goes with the next prune.
        host.failing.run(["system", "prune", "-f"])
    assert host.engine.residue() == [], what


@pytest.mark.parametrize("life", ["alone", "plugged in", "a user of its own"])
def test_whatever_call_fails_nothing_runs_with_fewer_walls_and_nothing_is_left(
    host: Host, life: str
) -> None:
    options = ("-v", f"{host.folder}:/v:ro", "-e", f"HOSTS={links()}", *LIVES[life].options)
    argv = ["run", "--rm", *options, "box", "/bin/sh", "-c", WALLS]
    host.failing.run(argv)  # the first one makes the bridge, which stays
    good = host.failing.run(argv)
    assert (good.status, good.err, good.left) == (0, "", []), good
    assert good.out.endswith("end\n")
    before = host.network()
    calls = host.new(good.calls)
    assert len(calls) >= LIVES[life].enough
    for call in calls:
        judge(host, call, host.with_failed(argv, call), good.out)
        if life == "plugged in":
            assert host.network() == before, call
    assert host.network() == before


def test_whatever_call_fails_of_one_in_the_background_it_is_there_whole_or_not_at_all(
    host: Host,
) -> None:
    options = ("--rm", "-v", f"{host.folder}:/v", "-e", f"HOSTS={links()}")
    # Of one that is given up its network goes first: that is no wall.
    line = f"{{ {WALLS.replace('ip -o addr; ip route; ', '')}}} >/v/told; exec sleep 1000"
    argv = ["run", *options, *LIVES["in the background"].options, "box", "/bin/sh", "-c", line]
    told = host.folder / "told"

    def live(call: str = "") -> tuple[Told, str]:
        """Run it, and end it where it runs; return what is said, and what it has said."""
        told.unlink(missing_ok=True)
        made = host.failing.run(argv, call, stays=True)
        if made.status == 0:
            eventually(lambda: told.exists() and "end\n" in told.read_text(), bool)
        else:
            assert host.engine.names("-a") == set(), made
        ended = host.failing.run(["rm", "-f", "back"])
        assert (ended.status, ended.left) == (0, []), (made, ended)
        assert host.engine.residue() == [], made
        return made, told.read_text() if told.exists() else ""

    live()
    good, walls = live()
    assert (good.status, good.err) == (0, "")
    before = host.network()
    calls = host.new(good.calls)
    assert len(calls) >= LIVES["in the background"].enough
    for call in calls:
        made, said = live(call)
        assert made.status in (0, 126 if "execve(" in call else 125), (call, made)
        assert same(walls).startswith(same(said)), (call, made)
        assert host.network() == before, call


def test_whatever_call_of_exec_fails_nothing_runs_with_fewer_walls_and_the_container_goes_on(
    host: Host,
) -> None:
    host.engine.begin("inn")
    try:
        options = ("-e", f"HOSTS={links()}", *LIVES["exec"].options)
        argv = ["exec", *options, "inn", "/bin/sh", "-c", WALLS]
        good = host.failing.run(argv)
        assert (good.status, good.err, good.left) == (0, "", []), good
        assert good.out.endswith("end\n")
        # All of them: whoever comes in comes by another way.
        host.tried.clear()
        calls = host.new(good.calls)
        assert len(calls) >= LIVES["exec"].enough
        rows = host.engine.says("top", "inn")
        for call in calls:
            told = host.failing.run(argv, call)
            assert (told.failed, told.left) == (True, []), (call, told)
            assert same(good.out).startswith(same(told.out)), (call, told)
            assert told.status == (126 if "execve(" in call else 125) or told.out, (call, told)
            assert told.err.count("\n") == 1, (call, told)
        assert host.engine.says("top", "inn") == rows
    finally:
        run([host.engine.command, "rm", "-f", "inn"])


def links() -> str:
    """Return the host's namespaces, but for the network that the runs have."""
    return " ".join(os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns"))
