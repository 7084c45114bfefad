"""Sequences of file operations that hypothesis thinks up, done to a union and to a plain copy.

Both have to answer each operation alike, and to end as the same tree: mounted, mounted again, and
committed to an image. A sequence that parts them is made as short as it can be before it is shown.
"""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as some

from stages import linux
from tests.stages.storing import Bench, Layer, difference, tree

THERE = (
    *("etc", "etc/motd", "etc/passwd", "etc/three", "old", "old/kept", "old/new", "one", "two"),
    *("srv", "srv/a", "su", "link", "usr", "usr/share", "usr/share/doc", "usr/share/man"),
    "usr/share/man/one",
)
"""Paths of the image, some of which only lower layers have."""
NEW = (
    "x",
    "y",
    "x/y",
    "y/x",
    "etc/x",
    "old/x",
    "srv/x",
    "usr/share/x",
    "usr/share/man/x",
    "etc/x/y",
)
Operation = Callable[[str, str, bytes], object]


def create(one: str, other: str, number: bytes) -> None:
    os.close(os.open(one, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))


def append(one: str, other: str, number: bytes) -> None:
    written(one, os.O_APPEND, number)


def write(one: str, other: str, number: bytes) -> None:
    written(one, os.O_TRUNC | os.O_CREAT, number * 3)


def written(path: str, flags: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def truncate(one: str, other: str, number: bytes) -> None:
    if not os.path.islink(one):
        os.truncate(one, len(number) * 2)


def unlink(one: str, other: str, number: bytes) -> None:
    os.unlink(one)


def mkdir(one: str, other: str, number: bytes) -> None:
    os.mkdir(one, 0o750)


def rmdir(one: str, other: str, number: bytes) -> None:
    os.rmdir(one)


def make_again(one: str, other: str, number: bytes) -> None:
    if stat.S_ISDIR(os.lstat(one).st_mode):
        shutil.rmtree(one)
        os.mkdir(one, 0o755)


def rename(one: str, other: str, number: bytes) -> None:
    os.rename(one, other)


def link(one: str, other: str, number: bytes) -> None:
    os.link(one, other, follow_symlinks=False)


def symlink(one: str, other: str, number: bytes) -> None:
    os.symlink(number, one)


def mkfifo(one: str, other: str, number: bytes) -> None:
    os.mkfifo(one)


def chmod(one: str, other: str, number: bytes) -> None:
    if not os.path.islink(one):
        os.chmod(one, 0o700 + int(number))


def chown(one: str, other: str, number: bytes) -> None:
    os.chown(one, int(number), 7, follow_symlinks=False)


def setxattr(one: str, other: str, number: bytes) -> None:
    os.setxattr(one, "user.number", number, follow_symlinks=False)


def removexattr(one: str, other: str, number: bytes) -> None:
    os.removexattr(one, "user.number", follow_symlinks=False)


def mount_again(one: str, other: str, number: bytes) -> None:
    """Be what whoever plays it does."""


ONE = (create, append, write, truncate, unlink, mkdir, rmdir, make_again, symlink, mkfifo)
STATUS = (chmod, chown, setxattr, removexattr)
TWO = (rename, link)


@dataclass(frozen=True)
class Step:
    """One operation, and what it is done to."""

    operation: Operation
    one: str = ""
    other: str = ""
    number: int = 0

    def __repr__(self) -> str:
        """Return it as a reader would write it down."""
        words = [word for word in (self.one, self.other) if word]
        words += [str(self.number)] if self.number else []
        return f"{self.operation.__name__} {' '.join(words)}".strip()

    def do(self, top: str) -> str:
        """Do it below `top`; return how it failed, "" where it didn't."""
        try:
            number = str(self.number).encode()
            self.operation(f"{top}/{self.one}", f"{top}/{self.other}", number)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return ""


def sequences(left_out: Collection[Operation]) -> some.SearchStrategy[list[Step]]:
    """Return sequences of about 40 steps, which get shorter by losing any of them."""
    paths, numbers = some.sampled_from((*THERE, *NEW)), some.integers(1, 63)
    two = [operation for operation in TWO if operation not in left_out]
    steps = some.one_of(
        some.builds(Step, some.sampled_from(ONE + STATUS), paths, some.just(""), numbers),
        # Twice as often: what two paths are about is what unions get wrong.
        some.builds(Step, some.sampled_from(ONE), paths, some.just(""), numbers),
        some.builds(Step, some.sampled_from(two), paths, paths),
        some.builds(Step, some.sampled_from(two), paths, paths),
        *([] if mount_again in left_out else [some.builds(Step, some.just(mount_again))]),
    )
    # One list would have five, however long it may be.
    parts = some.lists(steps, max_size=12)
    return some.tuples(*[parts] * 8).map(lambda found: [step for part in found for step in part])


def in_memory(path: Path) -> None:
    """Have a directory in memory, where the kernel's tmpfs can do all that is played (Linux 6.6).

    Whatever is unpacked is synced: a disk would be waited for some hundred times.
    """
    linux.mount("tmpfs", path, "tmpfs", 0, "mode=755")
    try:
        os.setxattr(path, "user.number", b"1")
        os.removexattr(path, "user.number")
    except OSError:
        linux.umount2(path, 0)


def alike(when: str, top: str, expected: dict[str, object], *, counts: bool = True) -> None:
    """See that a tree is the expected one."""
    differs = difference(tree(top, times=False, counts=counts), expected)
    assert differs == {}, f"{when}: {differs}"


def compare_with_plain(
    path: Path,
    driver: str,
    layers: list[Layer],
    examples: int,
    left_out: Collection[Operation] = (),
) -> None:
    """Play `examples` sequences on a driver, and on plain copies."""
    path /= "memory"
    path.mkdir()
    in_memory(path)
    bench = Bench(path, driver)
    bench.image(*layers)
    known = {*bench.driver.names(bench.layers)}
    unpacked = {name: f"{bench.root}/layers/{driver}/{name}" for name in known}
    before = {name: tree(top, inner=True) for name, top in unpacked.items() if os.path.isdir(top)}
    plain = str(path / "plain")

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        # A long one is what we want; and explaining would run it some hundred times more.
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(steps=sequences(left_out))
    def play(steps: list[Step]) -> None:
        note(f"what parts them: {'; '.join(map(repr, steps))}")
        top = bench.container()
        try:
            subprocess.run(["cp", "-a", top, plain], check=True)
            for step in steps:
                if step.operation is mount_again:
                    top = bench.again()
                    continue
                end = step.do(top)
                # What a union can't rename it leaves to mv(1), which copies: no comparison.
                if end != "EXDEV":
                    other = step.do(plain)
                    assert end == other, f"{step}: {end or 'done'}, and {other or 'done'} there"
            expected = tree(plain, times=False)
            alike("mounted", top, expected)
            alike("mounted again", bench.again(), expected)
            # And what is committed is that tree, too. But a layer that only deletes a name of a
            # file doesn't hold the others: those still count it, as with Docker.
            bench.image(*layers, bench.committed())
            expected = tree(plain, times=False, counts=False)
            alike("committed", bench.container("c2"), expected, counts=False)
        finally:
            # Whole again for the next, which may be a shorter one of these.
            for name in ("c1", "c2"):
                bench.driver.remove(name)
            for name in {*bench.driver.names(bench.layers)} - known:
                bench.driver.discard(name)
            bench.layers = list(layers)
            shutil.rmtree(plain, ignore_errors=True)

    play()
    for name, expected in before.items():
        differs = difference(tree(unpacked[name], inner=True), expected)
        assert differs == {}, f"layer {name}: {differs}"
    bench.end()
