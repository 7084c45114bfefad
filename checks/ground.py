"""A playground: files to be changed, what is done with them, and how they look afterwards.

The same is done twice: by the visitor in a container, and on a plain copy outside. Where the two
end alike, the container's files behave as those of an ordinary file system do.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

OLD = 1_000_000_000
"""When everything in a playground was changed last, in seconds since 1970: long ago."""
BIG = 1 << 20
"""Bytes of the big file of a playground."""
USER, GROUP, NOBODY = 1000, 1001, 65534

Steps = list[tuple[str, Callable[[], Any]]]
Outcomes = list[tuple[str, str]]


def plant(folder: str, users: int) -> None:
    """Make a playground: the directory `folder`, and in it one of everything.

    `users` is how many uids there are where it will be played in.
    """
    os.mkdir(folder)
    for name in ("dir", "dir/deep", "dir/deep/deeper", "emptied", "swapped", "moved"):
        os.mkdir(f"{folder}/{name}")
    texts = ("kept", "gone", "file", "tool", "opened", "dir/one", "dir/two", "dir/deep/three")
    for name in (*texts, "emptied/old", "moved/one", "moved/two", "linked", "owned"):
        Path(folder, name).write_text(f"{name}, as it was\n", encoding="ascii")
    Path(folder, "big").write_bytes(bytes(range(256)) * (BIG // 256))
    os.link(f"{folder}/linked", f"{folder}/linked too")
    os.symlink("kept", f"{folder}/link")
    os.mkfifo(f"{folder}/pipe")
    if users > GROUP:
        os.chown(f"{folder}/owned", USER, GROUP)
    os.chmod(f"{folder}/tool", 0o4755)  # chown(2) would take the set-uid bit away
    os.chmod(f"{folder}/dir", 0o1777)
    # Before Linux 6.6 a file system in memory has none: then nobody has them, and all is equal.
    with contextlib.suppress(OSError):
        os.setxattr(f"{folder}/owned", "user.canary", b"as it was")
        os.setxattr(f"{folder}/moved", "user.canary", b"as it was")
    for place, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            os.utime(f"{place}/{name}", (OLD, OLD), follow_symlinks=False)
    os.utime(folder, (OLD, OLD))


def deletions() -> Steps:
    """Return what deletes, and makes anew what was deleted, in the working directory."""
    return [
        ("unlink gone", lambda: os.unlink("gone")),
        ("stat gone", lambda: os.lstat("gone")),
        ("unlink gone again", lambda: os.unlink("gone")),
        ("list", listed),
        ("create gone", lambda: write("gone", os.O_CREAT | os.O_EXCL, b"new\n")),
        ("read gone", lambda: read("gone")),
        ("unlink the new gone", lambda: os.unlink("gone")),
        ("list again", listed),
        ("symlink gone", lambda: os.symlink("kept", "gone")),
        ("read through it", lambda: read("gone")),
        ("rename file to gone", lambda: os.rename("file", "gone")),
        ("stat file", lambda: os.lstat("file")),
        ("create file", lambda: write("file", os.O_CREAT | os.O_EXCL, b"new\n")),
        ("rmdir a full directory", lambda: os.rmdir("dir")),
        ("unlink dir/one", lambda: os.unlink("dir/one")),
        ("list dir", lambda: listed("dir")),
        ("unlink a pipe", lambda: os.unlink("pipe")),
        ("unlink a link", lambda: os.unlink("link")),
        ("read what it led to", lambda: read("kept")),
        ("list at last", listed),
    ]


def directories() -> Steps:
    """Return what takes directories away and makes others in their place."""
    return [
        ("empty dir", lambda: clear("dir")),
        ("rmdir dir", lambda: os.rmdir("dir")),
        ("stat dir", lambda: os.lstat("dir")),
        ("mkdir dir", lambda: os.mkdir("dir", 0o755)),
        ("list the new dir", lambda: listed("dir")),
        ("stat dir/deep", lambda: os.lstat("dir/deep")),
        ("create dir/one", lambda: write("dir/one", os.O_CREAT | os.O_EXCL, b"new\n")),
        ("mkdir dir/deep", lambda: os.mkdir("dir/deep", 0o755)),
        ("list dir/deep", lambda: listed("dir/deep")),
        ("list dir", lambda: listed("dir")),
        ("empty swapped", lambda: os.rmdir("swapped")),
        ("a file in its place", lambda: write("swapped", os.O_CREAT | os.O_EXCL, b"a file\n")),
        ("unlink kept", lambda: os.unlink("kept")),
        ("a directory in its place", lambda: os.mkdir("kept", 0o755)),
        ("list kept", lambda: listed("kept")),
        ("unlink emptied/old", lambda: os.unlink("emptied/old")),
        ("mkdir fresh", lambda: os.mkdir("fresh", 0o755)),
        ("create fresh/new", lambda: write("fresh/new", os.O_CREAT | os.O_EXCL, b"new\n")),
        ("rename fresh to emptied", lambda: os.rename("fresh", "emptied")),
        ("list emptied", lambda: listed("emptied")),
    ]


def changes(users: int) -> Steps:
    """Return what changes files and directories; `users` is how many uids there are."""
    steps: Steps = [
        ("write in the middle of big", lambda: write("big", 0, b"changed", BIG // 2)),
        ("read big", lambda: hashlib.sha256(read("big")).hexdigest()),
        ("read by a handle from before", changed_while_open),
        ("append to file", lambda: write("file", os.O_APPEND, b"more\n")),
        ("read file", lambda: read("file")),
        ("truncate kept", lambda: os.truncate("kept", 3)),
        ("read kept", lambda: read("kept")),
        ("chmod tool", lambda: os.chmod("tool", 0o4711)),
        ("set a time", lambda: os.utime("tool", (OLD, OLD + 1))),
        ("set an attribute", lambda: os.setxattr("owned", "user.other", b"new")),
        ("read the old attribute", lambda: os.getxattr("owned", "user.canary")),
        ("chmod a directory", lambda: os.chmod("dir", 0o750)),
        ("list it", lambda: listed("dir")),
        ("rename over a file", lambda: os.rename("dir/one", "dir/two")),
        ("read that", lambda: read("dir/two")),
        # What an overlay must be told to do as an ordinary file system does.
        ("write to a file of two names", lambda: write("linked", 0, b"CHANGED")),
        ("read it by the other name", lambda: read("linked too")),
        ("are they one file", lambda: os.path.samefile("linked", "linked too")),
        ("how many names", lambda: os.lstat("linked too").st_nlink),
        ("rename a directory", lambda: os.rename("moved", "dir/elsewhere")),
        ("list it there", lambda: listed("dir/elsewhere")),
        ("read what is in it", lambda: read("dir/elsewhere/one")),
        ("stat its old name", lambda: os.lstat("moved")),
        ("mkdir its old name", lambda: os.mkdir("moved", 0o755)),
        ("list that", lambda: listed("moved")),
    ]
    if users > GROUP:
        steps.insert(0, ("chown gone", lambda: os.chown("gone", USER, GROUP)))
    return steps


def listed(folder: str = ".") -> list[str]:
    """Return the names in a directory, in order."""
    return sorted(os.listdir(folder))


def read(name: str) -> bytes:
    """Return what is in a file."""
    fd = os.open(name, os.O_RDONLY)
    try:
        return os.read(fd, 2 * BIG)
    finally:
        os.close(fd)


def write(name: str, flags: int, data: bytes, at: int = 0) -> None:
    """Write into a file, at an offset."""
    fd = os.open(name, os.O_WRONLY | flags, 0o644)
    try:
        # pwrite(2) with O_APPEND appends all the same.
        os.pwrite(fd, data, at)
    finally:
        os.close(fd)


def changed_while_open() -> bytes:
    """Open a file, change it by another handle, and return what the first one reads."""
    before = os.open("opened", os.O_RDONLY)
    try:
        write("opened", 0, b"CHANGED")
        return os.pread(before, 100, 0)
    finally:
        os.close(before)


def clear(folder: str) -> None:
    """Remove what is in a directory."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            clear(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def play(folder: str, steps: Steps) -> Outcomes:
    """Do the steps in a playground, each whatever became of those before; return what each gave."""
    os.chdir(folder)
    found = []
    for name, step in steps:
        try:
            given = step()
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, "error")
        else:
            outcome = "" if isinstance(given, os.stat_result) else repr(given)
        found.append((name, outcome))
    return found


def described(folder: str, users: int) -> dict[str, str]:
    """Return how each file of a playground looks, by its path; `.` is the folder itself.

    The same files elsewhere look the same: of times, only whether they are old. A uid that is none
    of so many `users` is nobody's, as in a user namespace.
    """
    found: dict[str, str] = {}
    first: dict[tuple[int, int], str] = {}
    for name in (".", *below(folder)):
        path = f"{folder}/{name}"
        facts = os.lstat(path)
        ids = [id_ if id_ < users else NOBODY for id_ in (facts.st_uid, facts.st_gid)]
        words = [stat.filemode(facts.st_mode), "{}:{}".format(*ids)]
        if stat.S_ISREG(facts.st_mode):
            words.append(hashlib.sha256(read(path)).hexdigest()[:12])
            words.append("old" if facts.st_mtime <= OLD + 1 else "new")
            same = first.setdefault((facts.st_dev, facts.st_ino), name)
            words += [f"= {same}"] if same != name else []
        elif stat.S_ISLNK(facts.st_mode):
            words.append(os.readlink(path))
        if not stat.S_ISLNK(facts.st_mode):
            words += attributes(path)
        found[name] = " ".join(words)
    return found


def attributes(path: str) -> list[str]:
    """Return the extended attributes that anybody may set, with their values."""
    try:
        names = sorted(name for name in os.listxattr(path) if name.startswith("user."))
        return [f"{name}={os.getxattr(path, name)!r}" for name in names]
    except OSError:
        return []


def below(folder: str) -> list[str]:
    """Return every path below a directory, relative to it, in order."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def fingerprint(folder: str) -> dict[str, str]:
    """Return of each file below a directory all that a change of it would change, by its path.

    Only the time of the last reading may differ. Files are hashed, whatever their times say.
    """
    found = {}
    for name in (".", *below(folder)):
        path = f"{folder}/{name}"
        facts = os.lstat(path)
        words: list[object] = [
            *(oct(facts.st_mode), facts.st_uid, facts.st_gid, facts.st_ino, facts.st_nlink),
            *(facts.st_rdev, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns),
        ]
        if stat.S_ISREG(facts.st_mode):
            with open(path, "rb") as file:
                words.append(hashlib.file_digest(file, "sha256").hexdigest())
        elif stat.S_ISLNK(facts.st_mode):
            words.append(os.readlink(path))
        with contextlib.suppress(OSError):
            names = os.listxattr(path, follow_symlinks=False)
            words += [(each, os.getxattr(path, each, follow_symlinks=False)) for each in names]
        found[name] = repr(words)
    return found


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return path, wanted and found of each file that is in one only, or other in the second."""
    return [
        (name, wanted.get(name, "-"), found.get(name, "-"))
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
