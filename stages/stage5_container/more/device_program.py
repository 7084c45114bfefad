"""The rules for devices as a program of eBPF, for control groups of v2.

The kernel calls it with a device and what is wanted of it, and opens the device where it returns
1. It is a list of comparisons, each of which jumps to the next where it fails. See bpf(2), and the
kernel's include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx; bpf/standardization/instruction-set.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS = {"b": 1, "c": 2}
"""BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR."""
ACCESS = {"m": 1, "r": 2, "w": 4}
"""BPF_DEVCG_ACC_MKNOD, _READ, _WRITE."""

LOAD, COPY, AND, SHIFT = 0x61, 0xBC, 0x54, 0x74
"""BPF_LDX|BPF_W|BPF_MEM; BPF_ALU|BPF_MOV|BPF_X, |BPF_AND|BPF_K and |BPF_RSH|BPF_K, of 32 bits."""
UNEQUAL, SET, EXIT = 0x55, 0xB7, 0x95
"""BPF_JMP|BPF_JNE|BPF_K; BPF_ALU64|BPF_MOV|BPF_K; BPF_JMP|BPF_EXIT."""


def step(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Return one instruction: struct bpf_insn, of which the registers have four bits each."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def program(allowed: Iterable[str]) -> bytes:
    """Return the program that allows what devices.allow of v1 would, such as `c 136:* rwm`."""
    # r1 is the context: access_type (access << 16 | kind), major, minor.
    steps = [
        step(LOAD, 2, 1, 0),
        step(COPY, 3, 2),
        step(AND, 2, value=0xFFFF),  # r2: the kind
        step(SHIFT, 3, value=16),  # r3: the access
        step(LOAD, 4, 1, 4),  # r4: the major number
        step(LOAD, 5, 1, 8),  # r5: the minor number
    ]
    for rule in allowed:
        kind, numbers, access = rule.split()
        refused = 7 & ~sum(ACCESS[letter] for letter in access)
        tests: list[list[bytes]] = [[], [step(UNEQUAL, 2, value=KINDS[kind])]]
        if refused:
            # What is wanted beyond what is allowed: nothing is.
            copied = [step(COPY, 1, 3), step(AND, 1, value=refused)]
            tests.append([*copied, step(UNEQUAL, 1, value=0)])
        for register, number in zip((4, 5), numbers.split(":"), strict=True):
            if number != "*":
                tests.append([step(UNEQUAL, register, value=int(number))])
        flat = [one for test in tests for one in test]
        # A jump counts the instructions behind it: to behind the two that say yes.
        for at, one in enumerate(flat):
            if one[0] == UNEQUAL:
                fields = list(struct.unpack("<BBhi", one))
                fields[2] = len(flat) - at + 1
                flat[at] = struct.pack("<BBhi", *fields)
        steps += [*flat, step(SET, 0, value=1), step(EXIT)]
    return b"".join([*steps, step(SET, 0, value=0), step(EXIT)])
