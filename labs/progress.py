"""How far the student has come: one JSON file, theirs, in their XDG state folder.

    {"schema": 1, "stages": {"stage1": {"steps": {"pwd": WHEN}, "passed": {"reference": WHEN}}}}

A step is in it once it was played to its verdict at a terminal; `passed` says whose runtime passed
every check of the stage, `reference` (the stage's own) or `own` (the student's). WHEN is UTC.

Whatever is wrong with the file, the command goes on: each function says what is wrong in a line,
and nothing that is in the file is ever thrown away. Behind sudo it is read and written by a child
that is the student, so that nothing of root's comes to lie in somebody's home.
"""

import errno
import fcntl
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from labs import paths, privilege
from labs.texts import say

SCHEMA = 1
FILE = "progress.json"
LARGEST = 2**20
"""Bytes that such a file may have: one that is larger isn't one."""
TRIES, PAUSE = 250, 0.02
"""How often, and after how many seconds, a lock is asked for that another labrun holds."""

Whose = Literal["reference", "own"]
Table = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """What is known of one stage: which steps were played, whose runtime passed, and when."""

    steps: Mapping[str, str] = field(default_factory=dict)
    passed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """All that is known; `trouble` is a line for the student, or ""."""

    stages: Mapping[str, Stage] = field(default_factory=dict)
    trouble: str = ""

    def of(self, stage: str) -> Stage:
        """Return what is known of one stage."""
        return self.stages.get(stage, Stage())


class Damaged(Exception):
    """The file isn't what we wrote."""


class Newer(Exception):
    """The file was written by a labrun that knows more than this one."""


class Locked(Exception):
    """Another labrun has the file, and doesn't let go of it: it must have been stopped."""


def read() -> Progress:
    """Return what is known, and in `trouble` why that can't be read, or no more be added to it."""
    held = _file()
    if held is None:
        return Progress(trouble=say("progress.no_home"))
    file, owner = held
    answer = _as(owner, lambda: _read(file))
    stages = {
        name: Stage(steps=table["steps"], passed=table["passed"])
        for name, table in answer.get("stages", {}).items()
    }
    return Progress(stages, _said(answer))


def played(stage: str, step: str) -> str:
    """Note that a step was played to its verdict; return what is wrong, or ""."""
    return _note(stage, "steps", step)


def passed(stage: str, whose: Whose) -> str:
    """Note that a runtime passed every check of a stage; return what is wrong, or ""."""
    return _note(stage, "passed", whose)


def place() -> str:
    """Return where the file is, or would be; "" where there is no place for it."""
    held = _file()
    return str(held[0]) if held else ""


def _note(stage: str, kind: str, key: str) -> str:
    held = _file()
    if held is None:
        return say("progress.no_home")
    file, owner = held
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return _said(_as(owner, lambda: _write(file, stage, kind, key, when)))


def _trouble(key: str, **places: object) -> Table:
    """Return what is wrong as data: the child that says so may not be let into labs/texts."""
    return {"trouble": [key, {name: str(value) for name, value in places.items()}]}


def _said(answer: Table) -> str:
    if "trouble" not in answer:
        return ""
    key, places = answer["trouble"]
    return say(f"progress.{key}", **places)


# ---- whose it is --------------------------------------------------------------------------------


def _file() -> tuple[Path, tuple[int, int]] | None:
    """Return the file, and the uid and gid that it has to have; None where nobody has a home."""
    student = privilege.student()
    if student.home is None and not os.environ.get("XDG_STATE_HOME"):
        return None
    file = paths.state(student.home or Path("/")) / FILE
    if student.uid != 0 or os.geteuid() != 0:
        return file, (student.uid, student.gid)
    # Root, but not behind sudo (`su -m`): still nothing of root's in a folder of somebody else's.
    with suppress(OSError):
        above = next(folder for folder in file.parents if folder.exists()).stat()
        return file, (above.st_uid, above.st_gid)
    return file, (0, 0)


def _as(owner: tuple[int, int], work: Callable[[], Table]) -> Table:
    """Do some work on the file as its owner, who is perhaps not us, and return what came of it."""
    with _signals_held():
        if os.geteuid() != 0 or owner[0] == 0:
            return work()
        answer, told = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setgroups([])
                os.setresgid(owner[1], owner[1], owner[1])
                os.setresuid(owner[0], owner[0], owner[0])
                with os.fdopen(told, "w") as pipe:
                    json.dump(work(), pipe)
            finally:
                # Whatever went wrong, this process must never go on as a second labrun.
                os._exit(0)
        os.close(told)
        with os.fdopen(answer) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
    if not text:
        return _trouble("not_theirs", uid=owner[0])
    said: Table = json.loads(text)
    return said


@contextmanager
def _signals_held() -> Iterator[None]:
    """Have Ctrl-C and its kin wait for a moment: a file is being written."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- the file -----------------------------------------------------------------------------------


def _read(file: Path) -> Table:
    try:
        file = Path(os.path.realpath(file))
        table = _load(file)
    except Damaged:
        return _trouble("damaged", file=file)
    except Newer:
        return _trouble("newer", file=file)
    except OSError as error:
        return _trouble("unreadable", file=file, reason=error.strerror)
    try:
        _must_be_writable(file)
    except OSError as error:
        return table | _trouble("unwritable", file=file, reason=error.strerror)
    return table


def _write(file: Path, stage: str, kind: str, key: str, when: str) -> Table:
    """Add one fact to what is in the file now, whoever has written it meanwhile."""
    trouble: Table = {}
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file that is kept elsewhere and linked to from here stays where it is.
        file = Path(os.path.realpath(file))
        with _lock(file):
            try:
                table = _load(file)
            except Damaged:
                table = _empty()
                trouble = _trouble("set_aside", file=file, aside=_set_aside(file))
            facts = table["stages"].setdefault(stage, {"steps": {}, "passed": {}})[kind]
            if key not in facts:
                _must_be_writable(file)
                facts[key] = when
                _replace(file, table)
    except Newer:
        trouble = _trouble("newer", file=file)
    except Locked:
        trouble = _trouble("locked", file=file)
    except OSError as error:
        trouble = _trouble("unwritable", file=file, reason=error.strerror)
    return trouble


def _empty() -> Table:
    return {"schema": SCHEMA, "stages": {}}


def _load(file: Path) -> Table:
    """Return what is in the file. Raises Damaged, Newer, and OSError where it can't be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return _empty()
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(file))
        text = opened.read(LARGEST + 1)
    try:
        table = json.loads(text) if len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not isinstance(table.get("schema"), int):
        raise Damaged
    if table["schema"] > SCHEMA:
        raise Newer
    if not _is_whole(table):
        raise Damaged
    return table


def _is_whole(table: Table) -> bool:
    """Say whether a table has the form that we write; more than that may be in it, and stays."""
    stages = table.get("stages")
    return isinstance(stages, dict) and all(
        isinstance(stage, dict)
        and all(
            isinstance(facts := stage.get(kind), dict)
            and all(isinstance(when, str) for when in facts.values())
            for kind in ("steps", "passed")
        )
        for stage in stages.values()
    )


def _must_be_writable(file: Path) -> None:
    """Raise OSError where the file, or what would be made for it, could not be written."""
    there = next(path for path in (file, *file.parents) if os.path.lexists(path))
    for path in {there, there if there.is_dir() else there.parent}:
        if not os.access(path, os.W_OK):
            number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number), str(path))


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Keep other labruns from writing meanwhile; the lock goes with the process that holds it.

    Raises Locked where one of them doesn't let go.
    """
    descriptor = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for left in reversed(range(TRIES)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not left:
                    raise Locked from None
                time.sleep(PAUSE)  # a wait in flock(2) itself could not be given up
            except OSError:
                # A file system without locks: then without.
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


def _set_aside(file: Path) -> Path:
    """Rename a damaged file to the first name that is free, and return that."""
    number = 1
    while os.path.lexists(aside := file.with_name(f"{file.name}.damaged-{number}")):
        number += 1
    file.rename(aside)
    return aside


def _replace(file: Path, table: Table) -> None:
    """Write the file whole or not at all, also where the power fails. See rename(2), fsync(2)."""
    new = file.with_suffix(".new")
    try:
        with open(new, "w", encoding="utf-8") as written:
            json.dump(table, written, ensure_ascii=False, indent=1)
            written.write("\n")
            written.flush()
            os.fsync(written.fileno())
        new.replace(file)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
