"""Sizes and rates as Docker and tc(8) spell them."""

from __future__ import annotations

import os

BINARY = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
"""Powers of 1024: to Docker a `m` is a mebibyte, whether or not a `b` or an `ib` follows."""
BITS = {
    # the units of tc(8): `bit` counts bits, `bps` bytes; k is 1000 there, and ki 1024
    f"{prefix}{unit}": scale * bits
    for unit, bits in (("bit", 1), ("bps", 8))
    for prefix, scale in (
        ("", 1),
        *((letter, 1000**n) for n, letter in enumerate("kmgt", 1)),
        *((f"{letter}i", 1024**n) for n, letter in enumerate("kmgt", 1)),
    )
}

MOST = 1 << 62
"""Bytes, and bytes a second: the kernel reads a number beyond 64 bits as another one."""


def split(text: str) -> tuple[float, str]:
    """Return the number in front and the letters behind it, in lower case; ValueError if none."""
    digits = text.rstrip("bBkKmMgGtTpPiIsS ")
    # float() also takes "inf", "1e9" and "1_000", which nobody means.
    if not digits or not digits.isascii() or digits.strip("0123456789."):
        raise ValueError
    return float(digits), text[len(digits) :].strip().lower()


def size(option: str, text: str) -> int:
    """Return a number of bytes: `64m`, `1.5g`, `4096`; raise ValueError, which names the option."""
    try:
        number, unit = split(text)
        # `64m`, `64mb` and `64mib` are one to Docker.
        amount = number * 1024 ** BINARY[unit.removesuffix("b").removesuffix("i")]
    except (ValueError, KeyError):
        raise ValueError(f"{option} {text}: not a size: say bytes, or 64m, 1.5g") from None
    if amount > MOST:
        raise ValueError(f"{option} {text}: no machine has that: say bytes, or 64m, 1.5g")
    return int(amount)


def bit_rate(option: str, text: str) -> int:
    """Return a number of bits a second: `8mbit`, `1gbit`, `500kbps` (bytes); raise ValueError."""
    try:
        number, unit = split(text)
        rate = number * BITS[unit or "bit"]
    except (ValueError, KeyError):
        raise ValueError(f"{option} {text}: not a rate: say 8mbit, 500kbit, 1gbit") from None
    if rate < 8:
        raise ValueError(f"{option} {text}: less than a byte a second: say 8mbit, 500kbit")
    if rate > MOST:
        raise ValueError(f"{option} {text}: no link is that fast: say 8mbit, 500kbit, 1gbit")
    return int(rate)


def cpu_list(option: str, text: str) -> list[range]:
    """Return the CPUs of a list such as `0-2,4`; raise ValueError. See cpuset(7)."""
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        # isdigit() alone takes other alphabets' digits, too.
        numbers = part.isascii() and first.isdigit() and last.isdigit()
        if not numbers or int(last) < int(first):
            raise ValueError(f"{option} {text}: not a list of CPUs: say 0, 0-2 or 0,2")
        found.append(range(int(first), int(last) + 1))
    return found


def device_rate(option: str, text: str) -> tuple[str, int]:
    """Return device numbers, as `254:0`, and bytes a second, of `/dev/vda:1mb`; or ValueError."""
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/"):
        raise ValueError(f"{option} {text}: say DEVICE:RATE, such as /dev/vda:1mb")
    try:
        found = os.stat(path)
    except OSError as error:
        why = f"{path}: {error.strerror}: `lsblk` lists the devices"
        raise ValueError(f"{option} {text}: {why}") from None
    # S_ISBLK, without the module it is in. See inode(7).
    if found.st_mode & 0o170000 != 0o060000:
        raise ValueError(f"{option} {text}: {path} is not a block device: `lsblk` lists those")
    if not (amount := size(option, rate)):
        raise ValueError(f"{option} {text}: a rate of 0 is none: leave the option out")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}", amount
