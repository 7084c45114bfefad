"""What a load needs around it: a disk of its own, or somebody who listens at the other end.

Both are this machine's, and gone with the `with` block, or with this process.
"""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from checks import kernel
from checks.bench import Bench
from checks.disk import disk
from checks.trial import Container, NotStarted
from labs.demo import sink
from labs.gauge import Reading
from labs.texts import say

SECTOR = 512
"""Bytes by which the kernel counts, whatever the disk's own blocks are."""
NODE = "/tmp/disk"
"""Where a container finds it."""


@dataclass
class Ground:
    """What is there for a load."""

    places: Mapping[str, str] = field(default_factory=dict)
    """Where it is, for the step's command and options."""
    hello: Callable[[Container], str] = lambda container: "go"
    """What to tell the command once it runs."""
    counted: Callable[[Reading], Reading] = lambda reading: reading
    """Adds to a reading what the container's groups don't count here."""


@contextmanager
def lay(kind: str, bench: Bench) -> Iterator[Ground]:
    """Lay the ground that a step asks for by its name, "" for none.

    Raises Hindered, OSError and NotStarted.
    """
    if kind == "disk":
        with _disk(bench) as device:
            yield Ground({"disk": device, "node": NODE}, counted=partial(_by_device, device))
    elif kind == "network":
        with listeners(bench) as hello:
            yield Ground(hello=hello)
    else:
        yield Ground()


def _by_device(device: str, reading: Reading) -> Reading:
    """Return a reading with what a disk counts itself, where the group has no account of it.

    On v2 a group is counted for where somebody asked for a limit. See block/stat.rst.
    """
    if reading.written is not None:
        return reading
    fields = Path("/sys/block", Path(device).name, "stat").read_text(encoding="ascii").split()
    return replace(reading, read=int(fields[2]) * SECTOR, written=int(fields[6]) * SECTOR)


@contextmanager
def _disk(bench: Bench) -> Iterator[str]:
    """Make a disk in memory, with its node in ROOT's /tmp: on the bench's mounts, not in ROOT."""
    with disk(bench) as device:
        number = os.makedev(*map(int, device.number.split(":")))
        place = str(bench.root / "tmp")

        def show() -> None:
            kernel.mount("tmpfs", place, "tmpfs", kernel.MS_NOSUID, "mode=755,size=64k")
            os.mknod(f"{bench.root}{NODE}", stat.S_IFBLK | 0o600, number)

        bench.see(show)
        try:
            yield device.name
        finally:
            bench.see(lambda: kernel.umount(place))


@contextmanager
def listeners(bench: Bench) -> Iterator[Callable[[Container], str]]:
    """Give what starts a listener at a container's gateway, and returns its address and port."""
    started: list[subprocess.Popen[bytes]] = []

    def hello(container: Container) -> str:
        address = _gateway(container)
        if not address:
            raise NotStarted(say("demo.no_gateway"))
        argv = [sys.executable, "-IS", sink.__file__, address]
        process = bench.popen(argv, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout
        if not (port := process.stdout.readline().decode().strip()):
            raise NotStarted(say("demo.no_listener", address=address))
        return f"{address} {port}"

    try:
        yield hello
    finally:
        for process in started:
            with process:
                process.kill()


def _gateway(container: Container) -> str:
    """Return the address of a container's default gateway, "" where it has none.

    /proc/PID/net/route has addresses as numbers, the lowest byte first. See proc_pid_net(5).
    """
    with suppress(OSError):
        for line in Path(f"/proc/{container.pid}/net/route").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return ".".join(str(byte) for byte in bytes.fromhex(fields[2])[::-1])
    return ""
