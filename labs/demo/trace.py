"""What a runtime shows of its system calls with `--trace`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LINE = re.compile(r"\[(\d+)\] ([A-Za-z_0-9]+)\((.*?)\)(?: = (-?\d+(?: E\w+ \(.*\))?|/.*))?")

IDLE = re.compile(r", (?:NULL|exit_signal \w+|MS_NOSUID\|MS_NODEV\|MS_NOEXEC)|^NULL, ")
"""Arguments that say nothing to somebody who reads a call in short."""

GROUP = re.compile(r'"/[^"]*/(?=labrun-run-[0-9a-f]+")|"/[^"]*/labrun-run-[0-9a-f]+/')
"""Where a container's group is: what tells is the file in it."""


STACKED = re.compile(
    r'(?<=")/[^"]*/containers/[0-9a-f]+/\w+(?=/)|(?<=(?:upper|lower)dir=)[^,"]+|(?<=workdir=)[^,"]+'
)
"""Where a container's directories are: what tells is which they are for."""


@dataclass(frozen=True)
class Call:
    """One system call: which process made it, its arguments, and its result ("" for none)."""

    pid: int
    name: str
    arguments: str
    result: str

    def __str__(self) -> str:
        """Return the call as the runtime showed it."""
        ending = f" = {self.result}" if self.result else ""
        return f"{self.name}({self.arguments}){ending}"

    def short(self, root: str, wanted: str = "") -> str:
        """Return the call in few words: what it is about, and the error if there was one.

        Where one flag of several was `wanted`, as in `clone3(CLONE_NEWNET`, it stands for all.
        """
        words = IDLE.sub("", self.arguments.partition(", [")[0]).replace(f'"{root}"', '"ROOT"')
        words = GROUP.sub(r'"…/', words)
        words = STACKED.sub("…", words).replace("metacopy=off,", "")
        flag = wanted.partition("(")[2]
        if flag in (flags := words.split("|")) and len(flags) > 1:
            words = f"…|{flag}"
        error = f" {self.result.split()[1]}" if self.result.startswith("-1 ") else ""
        return f"{self.name}({words}){error}"


def calls(stderr: str) -> list[Call]:
    """Return the calls that a runtime's stderr shows, in their order.

    execve is shown before it is made, since it returns only where it failed; then its result
    follows on a line of its own, and belongs to it.
    """
    found: list[Call] = []
    for line in stderr.splitlines():
        if not (match := LINE.fullmatch(line)):
            continue
        pid, name, arguments, result = match.groups("")
        last = found[-1] if found else None
        if arguments == "…" and last and (last.pid, last.name) == (int(pid), name):
            found[-1] = Call(last.pid, name, last.arguments, result)
        else:
            found.append(Call(int(pid), name, arguments, result))
    return found


def those(made: Iterable[Call], wanted: Sequence[str]) -> list[tuple[Call, str]]:
    """Return the calls of these names, or such as `mount("proc"`: with that among the arguments.

    Each with what it was wanted for. A runtime and its child run side by side, and their lines come
    in any order: here the runtime's stand first. A call that both return from is one.
    """
    made = list(made)
    processes = list(dict.fromkeys(call.pid for call in made))
    found: list[tuple[Call, str]] = []
    for call in sorted(made, key=lambda call: processes.index(call.pid)):
        for each in wanted:
            twin = any(
                (one.name, one.arguments) == (call.name, call.arguments) and one.pid != call.pid
                for one, _ in found
            )
            if called([call], each) and not twin:
                found.append((call, each))
                break
    return found


def called(made: Iterable[Call], wanted: str) -> bool:
    """Say whether a call such as `unshare(CLONE_NEWNET)` is among those that were made."""
    name, _, argument = wanted.rstrip(")").partition("(")
    return any(call.name == name and argument in call.arguments for call in made)
