"""The doctor's report on a terminal, in a pipe, and as JSON."""

import sys

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from labs import machine
from labs.doctor.row import STAGES, Answers, Finding, Row, State, lacks, words

SIGNS = {State.YES: "✓", State.NO: "✗", State.LIMITED: "≤", State.UNKNOWN: "?"}
STYLES = {State.YES: "green", State.NO: "red", State.LIMITED: "cyan", State.UNKNOWN: "dim"}

TITLE = 12
STAGES_WIDTH = 8


def console() -> Console:
    """Return standard output; where it can't spell a sign, a question mark stands for it."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


class Report:
    """The answers, group by group, and then what each stage can do."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.spelled = _can_spell(out)

    def sign(self, state: State) -> Text:
        """Return the sign of a state, or its word where signs can't be written."""
        sign = SIGNS[state] if self.spelled else words(f"state_{state}")
        return Text(sign, style=STYLES[state])

    def line(self, sign: Text, title: str, said: Text, stages: str = "") -> None:
        """Print one row, folded inside its own column, with the stages at the right edge."""
        head = Text.assemble(sign, " " * ((2 if self.spelled else 10) - sign.cell_len))
        head.append(set_cell_size(title, TITLE), style="bold").append(" ")
        room = max(self.out.width - head.cell_len - STAGES_WIDTH, 20)
        first, *others = said.wrap(self.out, room)
        for other in (first, *others):
            other.rstrip()
        if stages:
            first.append(" " * (room - first.cell_len))
            first.append(stages.rjust(STAGES_WIDTH), style="dim")
        self.write(head + first)
        for other in others:
            self.write(Text(" " * head.cell_len) + other)

    def write(self, text: Text) -> None:
        """Print a text as it is, in signs that the output can spell."""
        if not self.spelled:
            text = Text(text.plain.replace("·", "-").replace("→", "->"))
        self.out.print(text, soft_wrap=True)

    def remedy(self, remedy: str) -> None:
        """Print what to type, unfolded: a folded command can't be copied."""
        self.write(Text(f"    → {remedy}"))

    def print(self, answers: Answers) -> None:
        """Print everything."""
        self.write(Text(words("heading", **machine.host()), style="bold"))
        if self.spelled:
            legend = (
                Text.assemble(self.sign(state), " ", words(f"state_{state}")) for state in State
            )
            self.write(Text("   ").join(legend))
        self.write(Text(words("legend"), style="dim"))
        group = ""
        for row, finding in answers.items():
            if row.group != group:
                group = row.group
                self.out.print()
                self.write(Text(words(f"group.{group}"), style="bold underline"))
            self.row(row, finding)
        self.out.print()
        self.write(Text(words("stages"), style="bold underline"))
        for stage in STAGES:
            self.stage(stage, answers)

    def row(self, row: Row, finding: Finding) -> None:
        """Print one answer."""
        said = Text(finding.fact).append(f" · {finding.where}", style="dim")
        self.line(self.sign(finding.state), row.title, said, _span(row))
        # Of what needs root, the row `root` has said the remedy; repeated it would drown the rest.
        repeated = finding.remedy == words("again_as_root") and row.id != "machine.root"
        if finding.remedy and not repeated:
            self.remedy(finding.remedy)

    def stage(self, stage: int, answers: Answers) -> None:
        """Print whether a stage can run here, what it lacks, and each remedy once."""
        lacking = lacks(answers, stage)
        title = words(f"stage{stage}")
        if not lacking:
            self.line(self.sign(State.YES), title, Text(words("can")))
            return
        surely = [row for row in lacking if answers[row].state is State.NO]
        others = [row for row in surely if row.id != "machine.root"]
        if others == surely:
            said = words("cannot", lacks=_names(lacking))
        elif others:
            said = words("cannot_also", lacks=_names(others))
        else:
            said = words("cannot_as_user")
        self.line(self.sign(State.NO), title, Text(said))
        for remedy in dict.fromkeys(answers[row].remedy for row in lacking):
            self.remedy(remedy)


def _names(rows: list[Row]) -> str:
    """Return the rows' names, each group named once: `namespace pid net, cgroup memory`."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row.title)
    return words("comma").join(
        " ".join((words(f"group.{group}"), *titles)) for group, titles in groups.items()
    )


def _can_spell(out: Console) -> bool:
    try:
        "".join(SIGNS.values()).encode(out.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _span(row: Row) -> str:
    """Return the stages of a row: `2-5` need it, `(4)` can do without."""
    parts = [_range(row.required_by), f"({_range(row.optional_for)})" if row.optional_for else ""]
    return " ".join(filter(None, parts))


def _range(stages: tuple[int, ...]) -> str:
    """Return `1-5` for neighbours, `3,5` for others."""
    if len(stages) > 2 and stages[-1] - stages[0] == len(stages) - 1:
        return f"{stages[0]}-{stages[-1]}"
    return ",".join(map(str, stages))


def as_json(answers: Answers) -> dict[str, object]:
    """Return the report in the contract's form."""
    return {
        "schema": 1,
        "host": machine.host(),
        "stages": {
            f"stage{stage}": {
                "can": not lacks(answers, stage),
                "lacks": [row.id for row in lacks(answers, stage)],
            }
            for stage in STAGES
        },
        "rows": [
            {
                "id": row.id,
                "state": str(finding.state),
                "required_by": [f"stage{stage}" for stage in row.required_by],
                "optional_for": [f"stage{stage}" for stage in row.optional_for],
                "fact": finding.fact,
                "where": finding.where,
                "remedy": finding.remedy,
            }
            for row, finding in answers.items()
        ],
    }
