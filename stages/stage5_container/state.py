"""What is known of a container when it doesn't run, and found out about it when it does.

containers/ID/config.json   how it was made: the words of the command line, the image's name
containers/ID/state.json    how it is: written by whoever has locked the container, and nobody else
containers/ID/stopped       somebody wants it to end: no policy starts it again
containers/ID/…             its name, image and lock (stage 4), logs, /etc/hosts and its like

A file is written whole and then renamed, so who reads it never sees a half. What it says may be
stale: a monitor that was killed, or a machine that was switched off, has written nothing. So who
reads also looks whether the process is still the one it was: by its number *and* when it began, for
numbers are used again, on this boot of the machine.
"""

from __future__ import annotations

import errno
import os
import time

from stages import light, linux
from stages.light import dumps, loads, read_text, suppress
from stages.stage4_overlayfs import containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stages.stage4_overlayfs.store import Store

    Facts = dict[str, Any]

LIVE = ("starting", "running", "restarting")
KILLED = 128 + linux.SIGKILL
"""How a command ends whose monitor was killed: the kernel kills it, too (PR_SET_PDEATHSIG)."""
NEW: Facts = {
    "status": "created", "pid": 0, "birth": 0, "monitor": 0, "monitor_birth": 0, "boot": "",
    "started_at": 0, "finished_at": 0, "exit_code": 0, "error": "", "oom_killed": False,
    "restarts": 0, "groups": {}, "address": "", "link": "", "ports": [], "stop_signal": 0,
}  # fmt: skip
"""Times are in ns since 1970; births in clock ticks since the boot, as proc(5) has them."""
NOWHERE: Facts = {"groups": {}, "address": "", "link": "", "ports": []}
"""What is no longer true of one that has ended."""


class State:
    """One container, as its folder tells."""

    def __init__(self, store: Store, identity: str) -> None:
        """Take the container's ID."""
        self.store, self.id = store, identity
        self.folder = f"{store.root}/containers/{identity}"

    @property
    def name(self) -> str:
        """Return what it is called now."""
        return containers.name_of(self.store, self.id)

    def config(self) -> Facts:
        """Return how it was made; raise FileNotFoundError for one that stage 4 has made."""
        found = read(f"{self.folder}/config.json")
        if not found:
            why = "it has no life of its own: it is of stage 4, or half made: `rm` removes it"
            raise FileNotFoundError(errno.ENOENT, why, self.id)
        return found

    def facts(self) -> Facts:
        """Return how it is, whatever the last one to write it down could know."""
        found = NEW | read(f"{self.folder}/state.json")
        if found["status"] in LIVE and not is_alive(found, "monitor"):
            if found["status"] == "starting":
                return found | {"status": "exited" if found["started_at"] else "created"}
            found |= {"status": "exited", "exit_code": KILLED, "pid": 0} | NOWHERE
            found["error"] = "its monitor was killed, or the machine switched off"
            found["finished_at"] = found["finished_at"] or found["started_at"]
        return found

    def note(self, **facts: object) -> None:
        """Write down what has changed; the caller has the container locked."""
        write(f"{self.folder}/state.json", NEW | read(f"{self.folder}/state.json") | facts)

    def begin(self) -> None:
        """Note who looks after it from now on: this process."""
        me, boot = os.getpid(), boot_id()
        self.note(status="starting", monitor=me, monitor_birth=birth(me), boot=boot, pid=0)

    def started(self, child: int, **facts: object) -> None:
        """Note that its command runs."""
        now = time.time_ns()
        self.note(status="running", pid=child, birth=birth(child), started_at=now, **facts)

    def ended(self, status: int, *, again: bool = False, **facts: object) -> None:
        """Note how its command ended, and whether it is going to be started again."""
        self.note(
            status="restarting" if again else "exited",
            pid=0, exit_code=status, finished_at=time.time_ns(), **NOWHERE, **facts,
        )  # fmt: skip

    @property
    def unwanted(self) -> bool:
        """Return whether somebody has asked for its end."""
        return os.path.exists(f"{self.folder}/stopped")

    def want(self, wanted: bool) -> None:
        """Note that somebody wants it to run, or to end."""
        if wanted:
            with suppress(FileNotFoundError):
                linux.unlink(f"{self.folder}/stopped")
        else:
            flags = linux.O_WRONLY | linux.O_CREAT | linux.O_CLOEXEC
            os.close(linux.open_file(f"{self.folder}/stopped", flags, 0o600))


def everything(store: Store) -> Iterator[State]:
    """Yield the containers that have a life of their own, the youngest first."""
    found = []
    for identity in os.listdir(f"{store.root}/containers"):
        with suppress(OSError):
            state = State(store, identity)
            found.append((state.config()["created"], identity, state))
    for _, _, state in sorted(found, reverse=True):
        yield state


def birth(pid: int) -> int:
    """Return when a process began, in clock ticks since the boot; 0 where there is none, or a dead.

    See proc_pid_stat(5).
    """
    try:
        # The second field is the program's name, in which there may be anything.
        fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def is_alive(facts: Facts, who: str = "pid") -> bool:
    """Return whether a process is still the one that was written down: `pid`, or `monitor`."""
    pid, born = facts[who], facts["birth" if who == "pid" else f"{who}_birth"]
    return bool(pid and born and birth(pid) == born and facts["boot"] == boot_id())


def boot_id() -> str:
    """Return what no other boot of this machine has. See random(4)."""
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def read(path: str) -> Facts:
    """Return a file's facts; none where there is no such file, or none that is whole."""
    try:
        found = loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: str, facts: Facts) -> None:
    """Write facts into a file, whole or not at all."""
    write_text(path, dumps(facts))


def write_text(path: str, text: str) -> None:
    """Write a file, whole or not at all."""
    folder, _, name = path.rpartition("/")
    draft = f"{folder}/.{name}.{os.getpid()}"
    try:
        light.write_text(draft, text)
        linux.rename(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
