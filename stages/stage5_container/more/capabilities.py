"""Capabilities: what is left of root's power, by name.

Root's power comes in 41 pieces, each with a name and a number. See capabilities(7).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    # in the order of their numbers, from 0 on: linux/capability.h
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
BITS = {name: 1 << number for number, name in enumerate(NAMES)}

USUAL = (
    # what Docker leaves to root without a word about it: moby, daemon/pkg/oci/caps/defaults.go
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
    *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)


def chosen(add: Iterable[str], drop: Iterable[str], own: int) -> int:
    """Return the capabilities that are asked for, as bits; `own` are those that we could hand on.

    As for Docker (moby, daemon/pkg/oci/caps/utils.go, TweakCapabilities): with ALL added, all but
    the dropped ones; with ALL dropped, the added ones alone. Of the usual ones, what can't be had
    is left out. Raises ValueError for names that nobody knows, and added ones that can't be had.
    """
    added, dropped = named("--cap-add", add), named("--cap-drop", drop)
    if "ALL" in added:
        return own & ~bits(dropped - {"ALL"})
    wanted = bits(added)
    if missing := wanted & ~own:
        why = "it isn't ours to give: see CapPrm in /proc/self/status"
        raise ValueError(f"--cap-add {names_of(missing)[0]}: {why}")
    if "ALL" in dropped:
        return wanted
    return bits({*USUAL} - dropped) & own | wanted


def named(option: str, words: Iterable[str]) -> set[str]:
    """Return the names that are meant: in any case, with CAP_ in front or not."""
    found = set()
    for word in words:
        name = word.upper().removeprefix("CAP_")
        if name != "ALL" and name not in BITS:
            raise ValueError(f"{option} {word}: no capability has this name: see capabilities(7)")
        found.add(name)
    return found


def bits(names: Iterable[str]) -> int:
    """Return the sum of their bits."""
    return sum(BITS[name] for name in names)


def names_of(capabilities: int) -> list[str]:
    """Return what bits are called, those without a name yet by their number."""
    numbers = [number for number in range(64) if capabilities >> number & 1]
    return [NAMES[number] if number < len(NAMES) else str(number) for number in numbers]
