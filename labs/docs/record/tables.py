"""What the pages list: which stage closes which axes, and what a limit is on cgroup v1 and v2."""

from html import escape
from typing import Any

from checks.model import axes
from labs.texts import room
from stages.stage3_cgroups import v1, v2
from stages.stage3_cgroups.limits import Limits

STAGES = (1, 2, 3, 4, 5)
LIMITS: dict[str, dict[str, Any]] = {
    "--memory 64m": {"memory": 64 << 20, "memory_swap": 128 << 20},
    "--memory 64m --memory-swap 96m": {"memory": 64 << 20, "memory_swap": 96 << 20},
    "--cpus 0.25": {"quota": 25000},
    "--cpuset-cpus 0": {"cpus": "0"},
    "--cpu-shares 512": {"shares": 512},
    "--pids-limit 64": {"pids": 64},
    "--device-read-bps /dev/sda:1m": {"reads": {"8:0": 1 << 20}},
    "--device-write-bps /dev/sda:1m": {"writes": {"8:0": 1 << 20}},
    "--net-rate 8mbit": {},
}
"""Options, and what stage 3 takes them for on a machine whose disk is 8:0."""


def all_of(language: str) -> dict[str, str]:
    """Return the tables in a language, by the names of their files."""
    return {
        "stages.md": _stages(language),
        "axes.md": _axes(language),
        "limits.html": _limits(language),
    }


def _say(key: str, language: str) -> str:
    return room("docs")[key][language]


def _name(stage: int, language: str) -> str:
    """Return a stage's number and name, as the demo's table has them."""
    return room("demo")[f"stage{stage}"][language]


def _stages(language: str) -> str:
    """Return the five stages: what each is about, and how many axes it is the first to close."""
    heads = [_say(f"column_{name}", language) for name in ("stage", "idea", "closes")]
    rows = [f"| {' | '.join(heads)} |", "| --- | --- | --- |"]
    for stage in STAGES:
        count = sum(axis.stage == stage for axis in axes().values())
        name = _name(stage, language).replace(" ", "\u00a0")
        idea = _say(f"stage{stage}_idea", language)
        rows.append(f"| **{name}** | {idea} | [{count}](#stage-{stage}) |")
    return "\n".join([*rows, ""])


def _axes(language: str) -> str:
    """Return every axis, a folded list for each stage."""
    blocks = []
    for stage in STAGES:
        mine = [axis for axis in axes().values() if axis.stage == stage]
        items = "".join(
            f"<li><code>{axis.id}</code> {escape(axis.title[language], quote=False)}</li>"
            for axis in mine
        )
        summary = _say("axes_of", language).format(stage=_name(stage, language), count=len(mine))
        blocks.append(
            f'<details id="stage-{stage}"><summary>{summary}</summary><ul>{items}</ul></details>'
        )
    return "\n".join([*blocks, ""])


def _limits(language: str) -> str:
    """Return what each option of stage 3 becomes on cgroup v1 and on v2, by the stage itself."""
    names = [_say(f"column_{name}", language) for name in ("option", "v1", "v2")]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for option, values in LIMITS.items():
        limits = Limits({})
        vars(limits).update(values)
        written = [_written(part.settings(limits), language) for part in (v1, v2)]
        cells = "".join(f"<td>{cell}</td>" for cell in written)
        words = "<br>".join(_code(f"--{word}") for word in option.removeprefix("--").split(" --"))
        rows.append(f'<tr><th scope="row">{words}</th>{cells}</tr>')
    return "\n".join(
        [
            '<div class="scrolls" tabindex="0"><table class="measured">',
            f"<thead><tr>{heads}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table></div>",
            "",
        ]
    )


def _written(settings: list[tuple[str, str, str]], language: str) -> str:
    """Return which file gets which text, a line each."""
    lines = [f"{_code(file)} {_code(text)}" for _, file, text in settings]
    return "<br>".join(lines) or escape(_say("no_file", language))


def _code(text: str) -> str:
    return f"<code>{escape(text, quote=False)}</code>"
