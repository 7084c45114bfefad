"""What an executable's first bytes say: for which machine it is, and which loader it needs."""

import struct
from dataclasses import dataclass
from pathlib import Path

PT_INTERP = 3
# System V ABI, e_machine; the machines that Linux distributions are made for.
MACHINES = {
    3: "i386",
    8: "mips",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86-64",
    183: "arm64",
    243: "riscv",
    258: "loongarch",
}


@dataclass(frozen=True)
class Elf:
    """An ELF file's header: `bits` is 32 or 64, `loader` is None in a static executable."""

    bits: int
    machine: int
    loader: str | None

    @property
    def machine_name(self) -> str:
        """The machine in words."""
        return MACHINES.get(self.machine, f"machine {self.machine}")


def read(path: Path) -> Elf | None:
    """Read the header of the file at `path`; None if it is not an ELF file. See elf(5)."""
    with path.open("rb") as file:
        ident = file.read(16)
        if len(ident) < 16 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2):
            return None
        bits = 32 * ident[4]
        order = "<" if ident[5] == 1 else ">"
        try:
            # e_type … e_phnum, as wide as this class has them.
            fields = struct.Struct(order + ("HHIIIIIHHH" if bits == 32 else "HHIQQQIHHH"))
            _, machine, _, _, start, _, _, _, size, count = fields.unpack(file.read(fields.size))
            loader = None
            for index in range(count):
                file.seek(start + index * size)
                header = file.read(size)
                if struct.unpack_from(order + "I", header)[0] != PT_INTERP:
                    continue
                where, length = (
                    struct.unpack_from(order + "I8xI", header, 4)
                    if bits == 32
                    else struct.unpack_from(order + "Q16xQ", header, 8)
                )
                file.seek(where)
                loader = file.read(min(length, 4096)).rstrip(b"\0").decode(errors="replace")
        except (struct.error, OverflowError):
            return None
    return Elf(bits, machine, loader)


def ours() -> Elf:
    """Return the header of the program that is running this: what this machine can run."""
    found = read(Path("/proc/self/exe"))
    assert found
    return found
