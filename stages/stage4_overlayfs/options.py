"""The options that stage 4 adds, and what they ask for."""

from __future__ import annotations

import os
import posixpath

from stages import linux
from stages.command_line import Usage
from stages.light import NamedTuple
from stages.stage3_cgroups import options
from stages.stage3_cgroups.options import SHARED, Limited
from stages.stage4_overlayfs.storage import DRIVERS
from stages.stage4_overlayfs.storage import why as why_not_stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTIONS = (
    *options.OPTIONS[:-SHARED],
    ("", "--name", "NAME", "what the container is called, for diff, commit and rm"),
    ("", "--rm", "", "remove it when the command ends, with all that it wrote"),
    ("-v", "--volume", "SRC:DST[:ro]", "SRC, outside, is at DST, inside; ro: to be read only"),
    ("", "--read-only", "", "nothing but volumes and tmpfs can be written"),
    ("", "--tmpfs", "DST", "at DST is an empty file system in memory"),
    ("", "--storage-driver", "NAME", f"{', '.join(DRIVERS)} (overlay)"),
    *options.OPTIONS[-SHARED:],
)

TMPFS = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
"""How Docker mounts one, too."""


class Volume(NamedTuple):
    """A directory or file from outside, "" for an empty tmpfs, and where it is to be inside."""

    source: str
    target: str
    read_only: bool = False

    @property
    def asked(self) -> str:
        """Say what it was asked for with."""
        target = f"/{self.target}"
        return f"--volume {self.source}:{target}" if self.source else f"--tmpfs {target}"


class Stacked(Limited):
    """A container on an image, or on a directory, which both stay as they are."""

    def __init__(self, operands: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
        """Take the operands and options of `run`; raise Usage or ValueError where they are off."""
        if not operands:
            raise Usage("it needs a ROOT or an IMAGE, and a COMMAND")
        # An image may say what is to be run in it; a directory can't.
        self.image = "" if is_path(operands[0]) else operands[0]
        unsaid = bool(self.image) and len(operands) == 1
        super().__init__([operands[0], "?"] if unsaid else operands, options)
        if unsaid:
            self.command = []
        self.store = store_folder()
        self.name = options.get("--name", [""])[-1]
        self.remove = "--rm" in options
        self.driver = options.get("--storage-driver", ["overlay"])[-1]
        if self.driver not in DRIVERS:
            raise ValueError(f"--storage-driver {self.driver}: choose {', '.join(DRIVERS)}")
        self.read_only = "--read-only" in options
        self.volumes = [volume(text) for text in options.get("--volume", ())]
        self.volumes += [Volume("", tmpfs(text)) for text in options.get("--tmpfs", ())]
        # What is mounted first must not hide what comes below it.
        self.volumes.sort(key=lambda one: one.target.count("/"))
        self.user: tuple[int, int] | None = None
        self.entered = {"cgroup"}  # of the namespaces: what the child isn't to be forked into
        if (self.volumes or self.read_only) and "mnt" not in self.namespaces:
            asked = "--read-only" if self.read_only else self.volumes[0].asked
            raise ValueError(f"{asked}: it is a mount: add mnt to --namespaces")

    def why(self, error: OSError) -> str:
        """Return the cause of a failed call of this stage's, and the remedy."""
        return super().why(error) or why_not_stored(error)


def is_path(word: str) -> bool:
    """Return whether a ROOT is a path: all else is an image's name (CONTRACT)."""
    return word in (".", "..") or word.startswith(("/", "./", "../"))


def store_folder() -> str:
    """Return where images and containers are kept: `LABRUN_STORE`, or this user's usual place."""
    if chosen := os.environ.get("LABRUN_STORE"):
        return os.path.abspath(chosen)
    if os.geteuid() == 0:
        return "/var/lib/labrun/store"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{home}/labrun/store"


def volume(text: str) -> Volume:
    """Return what SRC:DST[:ro] asks for; raise ValueError where that can't be told."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not is_path(source):
        raise ValueError(f"--volume {text}: SRC has to be a path: say ./{source} for one from here")
    if mode not in ("", "ro", "rw"):
        raise ValueError(f"--volume {text}: {mode} is none of ro, rw")
    return Volume(os.path.abspath(source), inside(f"--volume {text}", target), mode == "ro")


def tmpfs(text: str) -> str:
    """Return where a tmpfs is to be; raise ValueError for Docker's DST:OPTIONS."""
    target, colon, more = text.partition(":")
    if colon:
        raise ValueError(f"--tmpfs {text}: it takes no options: leave {colon}{more} out")
    return inside(f"--tmpfs {text}", target)


def inside(asked: str, target: str) -> str:
    """Return a path of the container's without `.`, `..` and the / in front; or ValueError."""
    path = posixpath.normpath(target).lstrip("/")
    if not target.startswith("/") or not path:
        raise ValueError(f"{asked}: DST has to be an absolute path, and not / itself")
    return path
