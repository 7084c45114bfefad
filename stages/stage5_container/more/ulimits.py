"""Limits of each process, as a shell's `ulimit` sets them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBERS = {
    # Docker's word (go-units, ulimit.go), and the number of its RLIMIT_… on all of the machines
    # that labrun runs on. See getrlimit(2)
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}


def limits(texts: Iterable[str]) -> list[tuple[int, int, int]]:
    """Return number, soft and hard limit of each `NAME=SOFT[:HARD]`, -1 for none; or ValueError."""
    found = {}
    for text in texts:
        name, _, values = text.partition("=")
        soft, colon, hard = values.partition(":")
        if name not in NUMBERS:
            raise ValueError(f"--ulimit {text}: it is none of {', '.join(sorted(NUMBERS))}")
        try:
            low, high = int(soft), int(hard if colon else soft)
        except ValueError:
            raise ValueError(f"--ulimit {text}: say {name}=SOFT or {name}=SOFT:HARD") from None
        if low < -1 or high < -1 or max(low, high) >= 1 << 63:
            raise ValueError(f"--ulimit {text}: say whole numbers from 0, or -1 for no limit")
        if high != -1 and (low == -1 or low > high):
            raise ValueError(f"--ulimit {text}: the soft limit is beyond the hard one")
        found[name] = (NUMBERS[name], low, high)
    return list(found.values())
