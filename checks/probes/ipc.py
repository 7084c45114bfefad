"""Inter-process communication: what a stranger on the host left for others to find."""

import os
from collections.abc import Callable

from checks import kernel
from checks.model import Finding
from checks.probes import probe, same_namespace, wall
from checks.probes.fs import reaches
from checks.trial import Trial
from checks.words import say


@probe("ipc.shm")
def shm(trial: Trial) -> Finding:
    """Neither a System V segment of the host's can be attached, nor a POSIX one opened."""
    canaries = trial.bench.canaries
    segment, secret, file = canaries.shm, canaries.secret, canaries.posix_shm

    def read() -> str:
        return kernel.shm_read(segment, len(secret)).decode("ascii", "replace")

    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "ipc")
        opened = bool(file) and container.visit(lambda: reaches(file, secret))
        try:
            content = container.visit(read)
        except OSError as error:
            seen = say("ipc.shm_none", id=segment, reason=error.strerror)
        else:
            if content == secret:
                return wall(False, say("ipc.shm_read", id=segment), evidence)
            seen = say("ipc.shm_other", id=segment)
    if opened:
        return wall(False, say("ipc.posix_read", path=file), evidence)
    posix = [say("ipc.posix_none", path=file)] if file else []
    return wall(not shared, seen, *posix, evidence)


@probe("ipc.sem")
def sem(trial: Trial) -> Finding:
    """A System V semaphore of the host's cannot be used."""
    id_, value = trial.bench.canaries.sem, trial.bench.canaries.semaphore
    what = say("ipc.semaphore", id=id_)
    return _by_number(trial, what, id_, lambda: kernel.sem_value(id_) == value)


@probe("ipc.msg")
def msg(trial: Trial) -> Finding:
    """A System V queue of the host's cannot be read."""
    id_, secret = trial.bench.canaries.msg, trial.bench.canaries.secret.encode()
    what = say("ipc.queue", id=id_)
    return _by_number(trial, what, id_, lambda: kernel.msg_peek(id_, len(secret)) == secret)


def _by_number(trial: Trial, what: str, id_: int, find: Callable[[], bool]) -> Finding:
    """Return whether the canary is found inside by its number."""
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "ipc")
        if id_ < 0:
            return wall(not shared, evidence)
        try:
            found = container.visit(find)
        except OSError as error:
            none = say("ipc.none", what=what, reason=error.strerror)
            return wall(not shared, none, evidence)
    if found:
        return wall(False, say("ipc.read", what=what), evidence)
    return wall(not shared, say("ipc.other", what=what), evidence)


@probe("ipc.mqueue")
def mqueue(trial: Trial) -> Finding:
    """A POSIX queue of the host's can be opened neither by its name nor as a file."""
    name = trial.bench.canaries.mqueue
    with trial.started() as container:
        shared, evidence = same_namespace(trial, container.pid, "ipc")
        if not name:
            return wall(not shared, evidence)
        if container.visit(lambda: os.path.lexists(f"/dev/mqueue{name}")):
            return wall(False, say("ipc.mqueue_file", path=f"/dev/mqueue{name}"), evidence)
        try:
            container.visit(lambda: kernel.mq_open(name))
        except OSError as error:
            none = say("ipc.mqueue_none", name=name, reason=error.strerror)
            return wall(not shared, none, evidence)
    return wall(False, say("ipc.mqueue_open", name=name), evidence)
