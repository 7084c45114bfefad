"""What is compared: the host, the stages that are built, the peers installed, and your own."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from checks.peers import PEERS, missing
from labs import check
from labs.errors import USAGE, Refused
from labs.stages import BUILT, reference
from labs.texts import say

HOST = "host"


@dataclass(frozen=True)
class Column:
    """A runtime under its name; `command` is what `labrun check --runtime` would take."""

    name: str
    command: str


def compared(runtimes: Sequence[str]) -> tuple[list[Column], list[str]]:
    """Return the columns from left to right, and the peers that are not installed.

    `runtimes` are further ones, each as NAME=CMD. Raises Refused for one that is no such thing.
    """
    own = [_own(words) for words in runtimes]
    peers = [name for name in PEERS if name != HOST]
    columns = [
        Column(HOST, f"@{HOST}"),
        *(Column(stage, shlex.quote(reference(stage))) for stage in BUILT),
        *(Column(f"@{peer}", f"@{peer}") for peer in peers if not missing(peer)),
    ]
    for column in own:
        if column.name in {other.name for other in columns}:
            taken = say("matrix.name_taken", name=column.name)
            raise Refused("--runtime", taken, say("matrix.name_it"), status=USAGE)
        columns.append(column)
    return columns, [f"@{peer}" for peer in peers if missing(peer)]


def _own(words: str) -> Column:
    """Return the column for NAME=CMD. Raises Refused."""
    name, separator, command = words.partition("=")
    if not separator or not re.fullmatch(r"[\w.-]+", name):
        raise Refused(
            "--runtime", say("matrix.no_name", words=words), say("matrix.name_it"), status=USAGE
        )
    check.must_run(command)
    return Column(name, command)
