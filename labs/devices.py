"""What a killed `stage4` leaves of the storage driver devicemapper: devices, and their pool.

A pool is ours by its name, in which there is the hash of the store's path, together with the files
that it is made of, which are in that store. What is mounted, or is being made, is in use.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from stages.stage4_overlayfs.more.devicemapper import NOTE, Pool, devices, is_idle, prefix_of
from stages.stage4_overlayfs.options import store_folder

POOL = re.compile("labrun-[0-9a-f]{8}-pool")
BLOCK = Path("/sys/block")


def unused() -> list[str]:
    """Return what could be removed now."""
    found = []
    for pool in pools():
        there = pool.others()
        idle = [name for name in there if _is_idle(pool, name)]
        found += idle + [pool.name] * (idle == there)
    return found + [loop for loop, _ in _lost_loops()]


def remove() -> None:
    """Remove it. Raises OSError."""
    for pool in pools():
        if os.path.exists(f"{pool.folder}/data"):
            with pool:
                pass  # to use it is to sweep it, and it goes where nobody else uses it
        elif all(_is_idle(pool, name) for name in pool.others()):
            pool.bury()
    for _, pool in _lost_loops()[:1]:
        with pool:
            pass  # it takes them up again, and they go with it


def pools() -> list[Pool]:
    """Return the pools of stores, whether the store is still there or not."""
    found = []
    for name in filter(POOL.fullmatch, devices()):
        roots = {os.path.dirname(os.path.dirname(file)) for file in _files(name)}
        # By its name alone it could be anybody's.
        found += [Pool(root) for root in roots if name == f"{prefix_of(root)}-pool"][:1]
    return found


def _files(name: str) -> Iterator[str]:
    """Yield the files that a device is made of, by way of loop devices."""
    for dm in BLOCK.glob("dm-*"):
        with contextlib.suppress(OSError):  # removed since
            if (dm / "dm/name").read_text().strip() == name:
                yield from map(_backing, (dm / "slaves").iterdir())


def _backing(device: Path) -> str:
    """Return the file behind a loop device, be it removed; "" for another device, or a free one."""
    with contextlib.suppress(OSError):
        path = (device / "loop/backing_file").read_text(errors="surrogateescape")
        return path.removesuffix("\n").removesuffix(" (deleted)")
    return ""


def _is_idle(pool: Pool, name: str) -> bool:
    """Return whether nobody has a device mounted, and nobody is making it."""
    note = f"{pool.folder}/pending/{name.removeprefix(f'{pool.prefix}-draft-')}"
    with contextlib.suppress(FileNotFoundError):
        held = os.open(note, NOTE)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(held)
    return is_idle(name)


def _lost_loops() -> list[tuple[str, Pool]]:
    """Return loop devices of this store's files that never came into a pool, or came out of one."""
    pool = Pool(store_folder())
    if pool.name in devices() or not os.path.exists(f"{pool.folder}/data"):
        return []
    files = {os.path.realpath(f"{pool.folder}/{name}") for name in ("data", "metadata")}
    return [(f"/dev/{loop.name}", pool) for loop in BLOCK.glob("loop*") if _backing(loop) in files]
