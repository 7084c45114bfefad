"""Copy-on-write: what a container writes is its own, and what it was made from stays as it was."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from checks import ground
from checks.bench import Bench
from checks.canaries import nonce
from checks.images import Images, NoImages, Refused
from checks.model import Finding
from checks.mounts import own, parse
from checks.probes import probe, promise
from checks.runtimes import Unsupported
from checks.trial import Container, NoSuchOption, Trial
from checks.visitor import Hindered
from checks.words import say

ALL = 1 << 32
"""How many uids there are where no user namespace says otherwise."""
BALLAST = 8 << 20
"""Bytes by which copies of ROOT would be noticed."""
SLACK = 1 << 20
"""Bytes that a container may cost without having copied anything: directories, notes, a log."""
CONTAINERS = 5
SHOWN = 3
"""How many differences are shown."""


@dataclass
class Ground:
    """A ROOT of the probe's own, with a playground in it, and a plain copy of the playground."""

    bench: Bench
    base: str
    """On the bench's disk, where a file can be found by its handle: on the bench's overlay not, and
    an overlay on top of that could not keep hard links together."""
    name: str
    plain: str
    users: int = ALL
    owner: int = 0

    @property
    def outside(self) -> str:
        """Return how the judge reaches the playground in ROOT."""
        return self.bench.path(f"{self.base}/{self.name}")

    def changed(self, before: dict[str, str]) -> list[str]:
        """Return what of ROOT is no longer as it was, as faults."""
        after = ground.fingerprint(self.bench.path(self.base))
        changed = [name for name, _, _ in ground.differences(before, after)]
        return [say("cow.base_changed", count=len(changed), file=changed[-1])] if changed else []

    def suit(self, container: Container) -> bool:
        """Have ROOT belong to who is root inside; False where it did not, and now does."""
        with open(f"/proc/{container.pid}/uid_map", encoding="ascii") as file:
            rows = [tuple(map(int, row.split())) for row in file]
        owner = next((outside for inside, outside, _ in rows if inside == 0), 0)
        users = max(inside + count for inside, _, count in rows)
        if (owner, users > ground.GROUP) == (self.owner, self.users > ground.GROUP):
            return True
        self.owner, self.users = owner, users
        for folder in (self.outside, self.bench.path(self.plain)):
            shutil.rmtree(folder)
            ground.plant(folder, users)
        base = self.bench.path(self.base)
        for name in (".", *ground.below(base)):
            facts = os.lstat(f"{base}/{name}")
            os.chown(f"{base}/{name}", owner, owner, follow_symlinks=False)
            if not os.path.islink(f"{base}/{name}"):
                os.chmod(f"{base}/{name}", facts.st_mode & 0o7777)
        return False


@contextlib.contextmanager
def prepared(trial: Trial) -> Iterator[Ground]:
    """Make a ROOT of the probe's own, a copy of the bench's.

    Raises Hindered where that doesn't fit on the bench's disk.
    """
    bench = trial.bench
    base, plain, name = (f"{bench.disk}/{nonce(word)}" for word in ("base", "plain", "play"))
    made = Ground(bench, base, os.path.basename(name), plain)
    try:
        copy_root(bench, base)
        ground.plant(made.outside, made.users)
        ground.plant(bench.path(plain), made.users)
        yield made
    finally:
        for folder in (base, plain):
            shutil.rmtree(bench.path(folder), ignore_errors=True)


def copy_root(bench: Bench, target: str) -> None:
    """Copy ROOT to a folder on the bench's disk, without what is mounted in it. Raises Hindered."""
    os.mkdir(bench.path(target))
    source = bench.path(bench.root)
    done = subprocess.run(
        ["cp", "--archive", "--one-file-system", f"{source}/.", bench.path(target)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise Hindered(say("cow.no_copy", reason=lines[-1] if lines else done.returncode))


@contextlib.contextmanager
def entered(
    trial: Trial, made: Ground, *options: str, root: str = ""
) -> Iterator[tuple[Container, str]]:
    """Start a container on the probe's ROOT; give it, and where the playground is inside."""
    with contextlib.ExitStack() as stack:
        folder = f"/{made.name}"
        try:
            started = trial.started(root=root or made.base, options=options)
            container = stack.enter_context(started)
        except Unsupported:
            # One that has no ROOT at all: the playground is where it is on the host.
            folder = made.base + folder
            container = stack.enter_context(trial.started(options=options))
        if not root and not made.suit(container):
            stack.pop_all().close()
            yield stack.enter_context(entered(trial, made, *options))
            return
        yield container, folder


def compared(
    made: Ground, container: Container, folder: str, steps: Callable[[], ground.Steps]
) -> list[str]:
    """Do the same inside and on the plain copy; return where the two differ, as faults."""
    users, plain = made.users, made.plain
    inside = container.visit(lambda: ground.play(folder, steps()))
    outside = made.bench.see(lambda: ground.play(plain, steps()))
    faults = [
        say("cow.step", step=step, inside=_result(got), outside=_result(wanted))
        for (step, got), (_, wanted) in zip(inside, outside, strict=True)
        if got != wanted
    ]
    found = container.visit(lambda: ground.described(folder, users))
    wanted = made.bench.see(lambda: ground.described(plain, users))
    faults += [
        say("cow.looks", file=name, inside=got, outside=want)
        for name, want, got in ground.differences(wanted, found)
    ]
    more = len(faults) - SHOWN
    return [*faults[:SHOWN], *([say("cow.more", count=more)] if more > 0 else [])]


def _result(outcome: str) -> str:
    """Return what a step gave, short, as evidence."""
    return {"": "-", "None": "done"}.get(outcome, outcome)[:80]


def behaves(
    trial: Trial, steps: Callable[[int], ground.Steps], done: Callable[[int], str]
) -> Finding:
    """Return whether steps end as on an ordinary file system, and leave ROOT as it was."""
    with prepared(trial) as made, entered(trial, made) as (container, folder):
        before = ground.fingerprint(trial.bench.path(made.base))
        faults = compared(made, container, folder, lambda: steps(made.users))
        faults += made.changed(before)
    count = len(steps(made.users))
    return promise(faults, done(count), say("cow.base_same", count=len(before)))


@probe("cow.whiteout")
def whiteout(trial: Trial) -> Finding:
    """What is deleted is gone inside, can be made anew, and is in ROOT as before."""
    return behaves(trial, lambda _: ground.deletions(), lambda n: say("cow.deletions", count=n))


@probe("cow.opaque")
def opaque(trial: Trial) -> Finding:
    """A directory that takes another's place has nothing of that one's in it."""
    return behaves(trial, lambda _: ground.directories(), lambda n: say("cow.directories", count=n))


@probe("cow.copyup")
def copyup(trial: Trial) -> Finding:
    """What is changed is changed inside only, and keeps all else: names, owners, attributes."""
    return behaves(trial, ground.changes, lambda n: say("cow.changes", count=n))


@probe("cow.base")
def base(trial: Trial) -> Finding:
    """ROOT's bytes and metadata are the same after whatever a container did."""
    with prepared(trial) as made:
        faults: list[str] = []
        with entered(trial, made) as (container, folder):
            before = ground.fingerprint(trial.bench.path(made.base))
            handle = os.open(f"{made.outside}/big", os.O_RDONLY)
            try:
                users = made.users
                container.visit(lambda: ground.play(folder, ground.changes(users)))
                container.visit(lambda: ground.play(folder, ground.deletions()))
                container.visit(lambda: ground.play(folder, ground.directories()))
                try:
                    container.visit(lambda: ground.clear(folder))
                except OSError as error:
                    faults.append(say("cow.not_cleared", reason=error.strerror))
                through = os.pread(handle, 2 * ground.BIG, 0)
            finally:
                os.close(handle)
            if left := container.visit(lambda: ground.listed(folder)):
                faults.append(say("cow.left", files=", ".join(left)))
            container.end()
        faults += made.changed(before)
        if through != bytes(range(256)) * (ground.BIG // 256):
            faults.append(say("cow.handle_other"))
        # The next one begins where this one began.
        with entered(trial, made) as (container, folder):
            users = made.users
            there = container.visit(lambda: ground.described(folder, users))
        wanted = ground.described(trial.bench.path(made.plain), users)
        if lacking := ground.differences(wanted, there):
            faults.append(say("cow.next_other", count=len(lacking), file=lacking[0][0]))
    return promise(
        faults, say("cow.base_same", count=len(before)), say("cow.handle"), say("cow.next")
    )


@probe("cow.peers")
def peers(trial: Trial) -> Finding:
    """Two containers of one ROOT, at once, write to the same files, and neither sees the other."""
    texts = {word: f"{nonce(word)}\n".encode() for word in ("one", "other", "later")}
    faults: list[str] = []

    def write(container: Container, folder: str, name: str, text: bytes) -> None:
        try:
            container.visit(lambda: ground.write(f"{folder}/{name}", os.O_CREAT | os.O_TRUNC, text))
        except OSError as error:
            faults.append(say("cow.peer_stuck", file=name, reason=error.strerror))

    def delete(container: Container, folder: str, name: str) -> None:
        try:
            container.visit(lambda: os.unlink(f"{folder}/{name}"))
        except OSError as error:
            faults.append(say("cow.peer_stuck", file=name, reason=error.strerror))

    def read(container: Container, folder: str, name: str) -> bytes:
        try:
            return container.visit(lambda: ground.read(f"{folder}/{name}").decode()).encode()
        except OSError as error:
            return (error.strerror or str(error)).encode()

    with prepared(trial) as made, entered(trial, made) as (one, folder):
        write(one, folder, "kept", texts["one"])
        write(one, folder, "new", texts["one"])
        with entered(trial, made) as (other, there):
            if (seen := read(other, there, "kept")) != b"kept, as it was\n":
                faults.append(say("cow.peer_seen", file="kept", seen=seen))
            write(other, there, "kept", texts["other"])
            write(other, there, "new", texts["other"])
            # The first writes what it has not touched before, while the other is there.
            write(one, folder, "file", texts["later"])
            # A deletion takes the work directory, too, which is the union's own.
            delete(one, folder, "gone")
            write(one, folder, "gone", texts["later"])
            for each, place, files in (
                (one, folder, {"kept": "one", "new": "one", "file": "later", "gone": "later"}),
                (other, there, {"kept": "other", "new": "other"}),
            ):
                for name, word in files.items():
                    if (seen := read(each, place, name)) != texts[word]:
                        faults.append(say("cow.peer_seen", file=name, seen=seen))
            for name in ("file", "gone"):
                if (seen := read(other, there, name)) != f"{name}, as it was\n".encode():
                    faults.append(say("cow.peer_seen", file=name, seen=seen))
    return promise(faults, say("cow.peers", files="kept, new, file, gone"))


@probe("cow.sharing")
def sharing(trial: Trial) -> Finding:
    """Containers of one image cost no copies of it; and one that is removed gives all back."""
    bench = trial.bench
    with prepared(trial) as made, contextlib.ExitStack() as stack:
        with open(f"{made.outside}/ballast", "xb") as file:
            file.write(os.urandom(BALLAST))
        image, note = _image(trial, made)
        holds: list[Container] = []

        def hold() -> None:
            container, folder = stack.enter_context(entered(trial, made, root=image))
            holds.append(container)
            mine = f"{folder}/mine"
            text = f"{container.pid}\n".encode()
            container.visit(lambda: ground.write(mine, os.O_CREAT | os.O_EXCL, text))

        faults: list[str] = []
        try:
            hold()
            # The first of an image may have unpacked it.
            before = used(bench, holds)
            for _ in range(CONTAINERS - 1):
                hold()
            cost = used(bench, holds) - before
            if cost > (CONTAINERS - 1) * SLACK:
                faults.append(say("cow.copies", **_figures(cost)))
        except FileExistsError:
            return promise([say("cow.shared_all")])
        except OSError as error:
            return promise([say("cow.peer_stuck", file="mine", reason=error.strerror)])
        stack.pop_all().close()
        left = _left_by_a_removed_one(trial, made, image)
        if left is None:
            note.append(say("cow.no_rm"))
        elif left > SLACK:
            faults.append(say("cow.rm_kept", size=left / 2**20))
        else:
            note.append(say("cow.rm_gave", size=BALLAST / 2**20))
    return promise(faults, say("cow.shared", **_figures(cost)), *note)


def _figures(cost: int) -> dict[str, float]:
    """Return what the containers after the first took, as evidence has it: in MiB."""
    return {"count": CONTAINERS - 1, "size": max(cost, 0) / 2**20, "image": BALLAST / 2**20}


def _image(trial: Trial, made: Ground) -> tuple[str, list[str]]:
    """Make an image of the probe's ROOT; where there are none, ROOT itself is what is shared."""
    name = f"{nonce('shared')}:1"
    try:
        Images(trial).take_folder(made.base, name)
    except (NoImages, Refused) as error:
        return "", [str(error)]
    return name, []


def _left_by_a_removed_one(trial: Trial, made: Ground, image: str) -> int | None:
    """Return the bytes that a container has left that was to be removed, None where that can't be.

    It writes as much as would be noticed, and then ends by itself.
    """
    before = used(trial.bench, [])
    try:
        with entered(trial, made, "--rm", root=image) as (container, folder):
            place = f"{folder}/written"
            data = os.urandom(BALLAST)
            container.visit(lambda: ground.write(place, os.O_CREAT, data))
            container.end()
    except (Unsupported, NoSuchOption):
        return None
    return used(trial.bench, []) - before


def used(bench: Bench, containers: list[Container]) -> int:
    """Return the bytes that are in use on all file systems in memory, wherever they are mounted.

    On the bench they are all that can be written to, but for folders that are the machine's own;
    and those that only a container sees are counted, too. On the machine itself others write to
    them: there it is the bench's disk alone.
    """
    disk, machine = bench.disk, bench.machine

    def look() -> dict[str, int]:
        found = {}
        for mount in parse(own()):
            ours = mount.point == disk or not machine
            if mount.type == "tmpfs" and ours and mount.visible:
                facts = os.statvfs(mount.point)
                found[str(mount.device)] = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        return found

    found = bench.see(look)
    for container in containers:
        root = Path(f"/proc/{container.pid}/root")
        table = parse(os.fsdecode(Path(f"/proc/{container.pid}/mountinfo").read_bytes()))
        device = root.stat().st_dev
        if any(mount.type == "tmpfs" and mount.device == device for mount in table):
            facts = os.statvfs(root)
            found[str(device)] = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    return sum(found.values())
