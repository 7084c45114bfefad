"""What a runtime shows of its system calls with `--trace`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LINE = re.compile(r"\[(\d+)\] ([a-z_0-9]+)\((.*?)\)(?: = (-?\d+(?: E\w+ \(.*\))?|/.*))?")


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

    def short(self, root: str) -> str:
        """Return the call in few words: the first argument, and the error if there was one."""
        first = self.arguments.partition(", [")[0].replace(f'"{root}"', '"ROOT"')
        error = f" {self.result.split()[1]}" if self.result.startswith("-1 ") else ""
        return f"{self.name}({first}){error}"


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


def those(made: Iterable[Call], names: Sequence[str]) -> list[Call]:
    """Return the calls of these names."""
    return [call for call in made if call.name in names]


def called(made: Iterable[Call], wanted: str) -> bool:
    """Say whether a call such as `unshare(CLONE_NEWNET)` is among those that were made."""
    name, _, argument = wanted.rstrip(")").partition("(")
    return any(call.name == name and argument in call.arguments for call in made)
