"""A recorded step as HTML: text that can be selected, and that follows the page's colours."""

from collections.abc import Mapping, Sequence
from html import escape

from rich.console import Console
from rich.text import Text

from checks.model import Verdict, axes
from labs import texts, verdicts
from labs.demo import boxes, pages, picture, stack
from labs.demo.played import Played
from labs.demo.proof import PROOFS
from labs.demo.screen import Screen
from labs.demo.script import Demo
from labs.demo.summary import CLOSED
from labs.docs.record import measured as measured_
from labs.docs.record import plots
from labs.texts import say

WIDTH = 76
"""Columns of a side, which fill a desktop's page; on a phone they are moved sideways."""
ROOM = 14
MOST = 8
"""Facts of a step, at most."""


def spans(text: Text, console: Console) -> str:
    """Return a text as HTML: what is bold, and what is dim."""
    written = ""
    for segment in text.render(console):
        piece = escape(segment.text, quote=False)
        style = segment.style
        if style and style.bold:
            piece = f"<b>{piece}</b>"
        if style and style.dim:
            piece = f"<i>{piece}</i>"
        written += piece
    return written


def _code(text: str) -> str:
    return f"<code>{escape(text, quote=False)}</code>"


def step(screen: Screen, demo: Demo, done: Played) -> str:
    """Return what happened in a step: both sides, the verdict with its evidence, and the calls."""
    counted = done.finding.verdict is Verdict.LIMITED or done.step.looks in PROOFS
    kind = measured_.MEASURED if done.step.plot or counted else "played"
    lines = [f'<figure class="{kind}">', '<div class="sides">']
    for side, title, content in boxes.written(done, WIDTH, ROOM):
        free = side.measured and side.measured.limit is None
        name, label = "container" if side.stage and not free else "host", escape(title)
        lines.append(
            f'<div class="side {name}"><p>{label}</p>{plots.drawn(done, side)}'
            f'<pre tabindex="0" aria-label="{label}">'
            f"<code>{spans(content, screen.out)}</code></pre></div>"
        )
    lines += ["</div>", "<figcaption>"]
    sign = escape(screen.sign(done.finding.verdict).plain)
    facts = "".join(f"<li>{_prose(fact)}</li>" for fact in pages.telling(done, MOST))
    lines.append(f'<p class="verdict {done.finding.verdict.value}">{sign}</p><ul>{facts}</ul>')
    calls, missing = pages.did(demo, done)
    did = " · ".join(map(_code, calls))
    if missing:
        did += " " + say("demo.missing", call=_code(missing))
    if pages.did_it(done):
        lines.append(f'<p class="did">{escape(say("demo.did"))} {did}</p>')
    if done.links:
        lines.append(
            f'<p class="did">{escape(say("demo.namespaces"))} {escape(pages.split(done))}</p>'
        )
    return "\n".join([*lines, "</figcaption>", "</figure>", ""])


def pictured(done: Played) -> str:
    """Return a step's picture, as text that is moved sideways on a phone; "" where it has none."""
    if done.layers:
        lines = stack.draw(done.layers, WIDTH)
    elif done.networks:
        lines = picture.draw(done.networks, WIDTH)
    else:
        return ""
    drawn = "\n".join(lines)
    return (
        '<figure class="played"><div class="side"><pre tabindex="0"><code>'
        f"{escape(drawn, quote=False)}</code></pre></div></figure>\n"
    )


def predictions(played: Sequence[Played]) -> str:
    """Return each step's question with its choices, and none of the answers."""
    items = []
    for done in played:
        asked = done.step
        choices = "".join(
            f"<li>{_prose(choice.text.filled(done.places))}</li>"
            for choice in asked.choices.values()
        )
        items.append(
            f"<li><b>{_prose(str(asked.title))}</b> {_prose(asked.question.filled(done.places))}"
            f'<ol type="a">{choices}</ol></li>'
        )
    return "\n".join(['<ol class="predict">', *items, "</ol>", ""])


def _prose(text: str) -> str:
    """Return a sentence with its `code` as HTML has it."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def measured(before: Mapping[str, Verdict], after: Mapping[str, Verdict]) -> str:
    """Return the axes as a table: without a container, in this stage, and who closes the rest."""
    names = ("axis", "before", "after", "closes")
    heads = "".join(f'<th scope="col">{escape(say(f"demo.column_{name}"))}</th>' for name in names)
    rows = []
    for axis, verdict in after.items():
        row = axes()[axis]
        title = escape(row.title[texts.language()], quote=False)
        closes = "" if verdict in CLOSED else say(f"demo.stage{row.stage}")
        rows.append(
            f'<tr><th scope="row"><code>{axis}</code><br>{title}</th>'
            f"<td>{_sign(before[axis])}</td><td>{_sign(verdict)}</td><td>{escape(closes)}</td></tr>"
        )
    lines = [
        '<div class="scrolls" tabindex="0"><table class="measured">',
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody></table></div>",
        "",
    ]
    return "\n".join(lines)


def _sign(verdict: Verdict) -> str:
    sign = verdicts.SIGNS[verdict][0]
    return f'<span class="verdict {verdict.value}">{sign} {escape(verdicts.word(verdict))}</span>'
