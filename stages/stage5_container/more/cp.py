"""`cp`: files from a container, or into one, whether or not it runs; as a tar, too, with `-`.

What goes where is Docker's (docs.docker.com, reference/cli/docker/container/cp): a directory that
isn't there is made, one that is there is copied into, `SRC/.` is what is in SRC.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import sys
from functools import partial
from typing import NamedTuple

from stages import linux
from stages.stage4_overlayfs.more import tar
from stages.stage4_overlayfs.pack import END
from stages.stage4_overlayfs.unpack import LIMIT
from stages.stage5_container.more.arrivals import Arrivals
from stages.stage5_container.more.roots import root_of
from stages.stage5_container.more.sides import LOOK, Side
from stages.stage5_container.more.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.sides import Item
    from stages.stage5_container.more.verb import Options

    RootOf = Callable[[str], AbstractContextManager[str]]
    """From a container's name to the path of its root, such as /proc/PID/root, while it lasts."""


class End(NamedTuple):
    """One end of a copy: a container and a path in it, or a path here, or `-`."""

    container: str
    path: str

    @property
    def is_stream(self) -> bool:
        """Whether it is a tar on stdin or stdout."""
        return not self.container and self.path == "-"


def end(text: str) -> End:
    """Return what an operand means: with a colon it is a container's, but for /… and .…"""
    name, colon, path = text.partition(":")
    if not colon or not name or text[0] in "/.":
        return End("", text)
    return End(name, f"/{path.lstrip('/')}")


def cp(
    source: str, target: str, opened: RootOf, *, archive: bool = False, follow: bool = False
) -> None:
    """Copy. `archive`: each file keeps its owner; `follow`: SRC may be a link.

    Raises ValueError for operands that don't fit together, OSError with the file that it is about.
    """
    one, other = end(source), end(target)
    if bool(one.container) == bool(other.container):
        raise ValueError("say one of SRC and DST as CONTAINER:PATH, and the other as a path or -")
    with opened(one.container or other.container) as root, both(root) as (inside, host):
        if other.container:
            into(inside, host, one, other, archive=archive, follow=follow)
        else:
            out_of(inside, host, one, other, archive=archive, follow=follow)


@contextlib.contextmanager
def both(root: str) -> Iterator[tuple[Side, Side]]:
    """Open the two trees."""
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    tops = [linux.open_file(root, flags), linux.open_file("/", flags)]
    try:
        yield Side(tops[0], inside=True), Side(tops[1], inside=False)
    finally:
        for top in tops:
            os.close(top)


def into(inside: Side, host: Side, one: End, other: End, *, archive: bool, follow: bool) -> None:
    """Copy from here into a container."""
    # Without --archive all belongs to the container's root: whoever its root directory belongs to.
    status = os.fstat(inside.top)
    owner = None if archive else (status.st_uid, status.st_gid)
    if not one.is_stream:
        path = os.path.join(os.getcwd(), one.path)
        arrive(host, path, inside, other.path, owner, follow=follow)
        return
    found = inside.status(other.path)
    if not found or not stat.S_ISDIR(found.st_mode):
        number = errno.ENOTDIR if found else errno.ENOENT
        raise OSError(number, os.strerror(number), f"{other.container}:{other.path}")
    arrivals = Arrivals(inside, other.path, owner)
    try:
        arrivals.take(tar.entries(tar.Reader(sys.stdin.buffer, LIMIT)))
    finally:
        arrivals.close()


def out_of(inside: Side, host: Side, one: End, other: End, *, archive: bool, follow: bool) -> None:
    """Copy from a container to here."""
    if other.is_stream:
        if os.isatty(1):
            raise ValueError("a tar is nothing for a terminal: say `cp … - >FILE`")
        with origin(inside, one.path, follow=follow) as (start, name):
            write(inside.read(start, name), sys.stdout.buffer)
        return
    owner = None if archive else (os.geteuid(), os.getegid())
    path = os.path.join(os.getcwd(), other.path)
    arrive(inside, one.path, host, path, owner, follow=follow)


def write(items: Iterator[Item], stream: BinaryIO) -> None:
    """Write files as a tar."""
    for entry, pieces in items:
        if entry.kind == tar.DIRECTORY:
            entry.name = (entry.name or b".") + b"/"
        stream.write(tar.header(entry))
        for piece in pieces:
            stream.write(piece)
        stream.write(bytes(-entry.size % tar.UNIT))
    stream.write(END)
    stream.flush()


@contextlib.contextmanager
def origin(side: Side, path: str, *, follow: bool) -> Iterator[tuple[int, bytes]]:
    """Open what is to be copied, once: whoever has its name by then; give also its own name.

    The name is empty where what is in a directory is meant, not the directory.
    """
    contents = path.endswith("/.") or posixpath.normpath(path).strip("/") in ("", ".", "..")
    # `..` at the end is a directory of which the path doesn't say the name.
    name = "" if contents else posixpath.basename(path.rstrip("/"))
    followed = follow or contents or path.endswith("/")
    try:
        start = side.open(path, LOOK if followed else LOOK | linux.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OSError(error.errno, error.strerror, path) from None
    try:
        yield start, os.fsencode("" if name == ".." else name)
    finally:
        os.close(start)


def arrive(
    source: Side,
    path: str,
    target: Side,
    where: str,
    owner: tuple[int, int] | None,
    *,
    follow: bool,
) -> None:
    """Copy a file or a directory from one side to the other."""
    with origin(source, path, follow=follow) as (start, name):
        directory = stat.S_ISDIR(os.fstat(start).st_mode)
        folder, called = place(target, where, name, directory=directory)
        arrivals = Arrivals(target, folder, owner)
        try:
            arrivals.take(source.read(start, called))
        finally:
            arrivals.close()


def place(target: Side, where: str, name: bytes, *, directory: bool) -> tuple[str, bytes]:
    """Return the directory that something goes into, and what it is called there; or raise."""
    there = target.status(where)
    if there and stat.S_ISDIR(there.st_mode):
        return where, name
    if there and (directory or where.endswith("/")):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), where)
    if not there and not directory and where.endswith("/"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), where)
    # A link that is to be written to keeps being one: its target is.
    folder, _, called = target.settled(where).rstrip("/").rpartition("/")
    return folder or "/", os.fsencode(called)


def copy(store: Store, operands: Sequence[str], options: Options) -> int:
    """Copy as the command line says."""
    source, target = operands
    archive, follow = "--archive" in options, "--follow-link" in options
    cp(source, target, partial(root_of, store), archive=archive, follow=follow)
    return 0


VERBS = {
    "cp": Verb(
        "CONTAINER:SRC DST|- or SRC|- CONTAINER:DST", 2, 2, "files from a container, or into it",
        [("-a", "--archive", "", "each file keeps its owner"),
         ("-L", "--follow-link", "", "SRC may be a link to what is meant")], copy,
    ),
}  # fmt: skip
