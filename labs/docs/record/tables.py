"""What the pages list of the axes: which stage closes how many, and which."""

from html import escape

from checks.model import axes
from labs.texts import room

STAGES = (1, 2, 3, 4, 5)


def all_of(language: str) -> dict[str, str]:
    """Return the tables in a language, by the names of their files."""
    return {"stages.md": _stages(language), "axes.md": _axes(language)}


def _say(key: str, language: str) -> str:
    return room("docs")[key][language]


def _stages(language: str) -> str:
    """Return the five stages: what each is about, and how many axes it is the first to close."""
    heads = [_say(f"column_{name}", language) for name in ("stage", "idea", "closes")]
    rows = [f"| {' | '.join(heads)} |", "| --- | --- | --- |"]
    for stage in STAGES:
        count = sum(axis.stage == stage for axis in axes().values())
        name = _say(f"stage{stage}", language)
        idea = _say(f"stage{stage}_idea", language)
        rows.append(f"| **{stage}\u00a0·\u00a0{name}** | {idea} | [{count}](#stage-{stage}) |")
    return "\n".join([*rows, ""])


def _axes(language: str) -> str:
    """Return every axis, a folded list for each stage."""
    blocks = []
    for stage in STAGES:
        mine = [axis for axis in axes().values() if axis.stage == stage]
        name = _say(f"stage{stage}", language)
        items = "".join(
            f"<li><code>{axis.id}</code> {escape(axis.title[language], quote=False)}</li>"
            for axis in mine
        )
        summary = _say("axes_of", language).format(stage=stage, name=name, count=len(mine))
        blocks.append(
            f'<details id="stage-{stage}"><summary>{summary}</summary><ul>{items}</ul></details>'
        )
    return "\n".join([*blocks, ""])
