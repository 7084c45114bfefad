"""Logs: what the command wrote, line by line, with the time; old lines go when there are too many.

    2026-11-30T12:00:00.123456789Z stdout F a line
    2026-11-30T12:00:00.123456789Z stdout P the beginning of a line that goes on in the next

It is the format of the Container Runtime Interface (kubernetes, "CRI: Log Format"): it keeps any
bytes as they are, and takes nothing to write.
"""

from __future__ import annotations

import os
import time

from stages import linux
from stages.light import suppress
from stages.stage3_cgroups.sizes import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {1: b"stdout", 2: b"stderr"}
LONGEST = 16384
"""Bytes of a line that is kept whole: Docker's, too."""


class Log:
    """The files log, log.1, log.2, … in a container's folder; the youngest is log."""

    full = False

    def __init__(self, folder: str, options: Mapping[str, str]) -> None:
        """Go on with what is there. Options are --log-opt's max-size and max-file."""
        self.path = f"{folder}/log"
        self.most = size("--log-opt max-size", options.get("max-size", "10m"))
        files = options.get("max-file", "3")
        if unknown := {*options} - {"max-size", "max-file"}:
            raise ValueError(f"--log-opt {min(unknown)}: there is max-size, and max-file")
        if not files.isdecimal() or not 0 < int(files) < 100:
            raise ValueError(f"--log-opt max-file={files}: say a number from 1 to 99")
        self.files = int(files)
        self.open()

    def open(self) -> None:
        """Open the file, at its end."""
        flags = linux.O_WRONLY | linux.O_CREAT | os.O_APPEND | linux.O_CLOEXEC
        self.fd = linux.open_file(self.path, flags, 0o600)
        self.length = os.fstat(self.fd).st_size

    def take(self, stream: int, data: bytes) -> None:
        """Keep what came out of stdout or stderr."""
        head = stamp() + b" " + NAMES[stream]
        *lines, rest = data.split(b"\n")
        rows = []
        for line in lines:
            while len(line) > LONGEST:
                rows.append(b"%s P %s\n" % (head, line[:LONGEST]))
                line = line[LONGEST:]
            rows.append(b"%s F %s\n" % (head, line))
        # What may be a question waits for its answer, not for the end of its line.
        if rest:
            rows.append(b"%s P %s\n" % (head, rest))
        some, length = [], 0
        for row in rows:
            some.append(row)
            length += len(row)
            if self.length + length >= self.most:
                self.write(b"".join(some))
                some, length = [], 0
        if some:
            self.write(b"".join(some))

    def deaf(self, _: int) -> bool:
        """Return False: logs are kept for later."""
        return False

    def write(self, text: bytes) -> None:
        """Write it; begin another file where this one is full."""
        with suppress(OSError):  # a full disk is no reason to end the command
            os.write(self.fd, text)
        self.length += len(text)
        if self.length >= self.most:
            self.rotate()

    def rotate(self) -> None:
        """Have each file be one older; the oldest goes."""
        os.close(self.fd)
        for number in range(self.files - 1, 0, -1):
            older = f"{self.path}.{number}"
            younger = f"{self.path}.{number - 1}" if number > 1 else self.path
            with suppress(FileNotFoundError):
                os.rename(younger, older)
        if self.files == 1:
            os.unlink(self.path)
        self.open()


def stamp() -> bytes:
    """Return the time, as RFC 3339 has it, in ns."""
    now = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    return b"%s.%09dZ" % (whole.encode(), now % 1_000_000_000)
