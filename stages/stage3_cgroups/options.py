"""The options that stage 3 adds, and what they ask for."""

from __future__ import annotations

from stages import command_line
from stages.stage2_namespaces import options
from stages.stage2_namespaces.options import Isolated
from stages.stage3_cgroups.limits import Limits
from stages.stage3_cgroups.more.why import why
from stages.stage3_cgroups.sizes import bit_rate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHARED = len(command_line.OPTIONS) - 2
"""How many rows at the table's end every stage has: --trace, --debug, --help."""

OPTIONS = (
    *options.OPTIONS[:-SHARED],
    (
        "-m",
        "--memory",
        "SIZE",
        "memory, page cache included: bytes, or 64m, 1.5g; above it, killed",
    ),
    ("", "--memory-swap", "SIZE", "memory and swap together (twice --memory); -1: any swap"),
    ("", "--cpus", "N", "CPU time a second: 0.25 is a quarter of one CPU"),
    ("", "--cpuset-cpus", "LIST", "which CPUs: 0, 0-2 or 0,2"),
    ("", "--cpu-shares", "N", "its share where CPUs are short, beside others' (1024)"),
    ("", "--pids-limit", "N", "processes and threads; -1: any number"),
    ("", "--device-read-bps", "DEV:RATE", "bytes a second read from a disk: /dev/vda:1mb;"),
    ("", "", "", "for each disk once"),
    ("", "--device-write-bps", "DEV:RATE", "bytes a second written to a disk"),
    ("", "--net-rate", "RATE", "bits a second that eth0 sends, and receives: 8mbit, as tc(8)"),
    ("", "--explain", "", "at the end, say on stderr what the limits did to the command"),
    *options.OPTIONS[-SHARED:],
)


class Limited(Isolated):
    """A container, what it is not to see, and how much it may take."""

    def __init__(self, operands: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
        """Take the operands and options of `run`; raise Usage or ValueError where they are off."""
        super().__init__(operands, options)
        self.limits = Limits(options)
        self.explain = "--explain" in options
        self.net_rate = 0
        if "--net-rate" in options:
            rate = options["--net-rate"][-1]
            self.net_rate = bit_rate("--net-rate", rate)
            if self.net != "bridge" or "net" not in self.namespaces:
                raise ValueError(f"--net-rate {rate}: it is eth0's rate: say --net bridge, as root")

    def why(self, error: OSError) -> str:
        """Return the cause of a failed call of this stage's, and the remedy."""
        return why(error, self.rootless)
