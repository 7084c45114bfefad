"""The pages of a demo, each as blocks from top to bottom."""

import re
from collections.abc import Sequence
from itertools import product

from rich.cells import cell_len
from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text

from checks.model import Verdict
from labs import verdicts
from labs.demo import boxes, picture, stack
from labs.demo.played import Played
from labs.demo.proof import PROOFS
from labs.demo.screen import Screen
from labs.demo.script import Demo, Places, Step
from labs.demo.trace import called, those
from labs.demo.wrap import TIE, bar
from labs.texts import say

Blocks = list[RenderableType]

NUMBERED = re.compile(r":\[\d+\]|/proc/\d+/")
"""What differs between two containers in what is said of both."""
FEWEST, MOST = 4, 14
"""Lines of output that a box shows: on a low screen, and on one as high as can be."""
PLOTTED, PROVED = 11, 10
"""Lines that a plot, or what lies in a container's layers, should have before all facts have."""


def head(screen: Screen, demo: Demo, right: str, root: str) -> Blocks:
    """Return the two lines that say where we are, and which directory is ROOT."""
    left = say("demo.stage", number=demo.number, title=demo.title)
    line = Text(left, style="bold")
    gap = screen.width - line.cell_len - cell_len(right)
    if right:
        line.append(" " * max(gap, 1) + right, "dim")
    where = Text(f"ROOT = {root}", style="dim")
    rule = Rule(where, align="left", style="dim", characters="─" if screen.spells else "-")
    return [line, rule]


def step_head(screen: Screen, demo: Demo, step: Step, root: str) -> Blocks:
    """Return the head of a step's page."""
    number = list(demo.steps).index(step) + 1
    return head(screen, demo, f"{number}/{len(demo.steps)} · {step.title}", root)


def opening(screen: Screen, demo: Demo, places: Places) -> Blocks:
    """Return what the demo is about."""
    return [
        *head(screen, demo, "", places["root"]),
        screen.prose(demo.opening.filled(places)),
        Text(),
    ]


def intro(screen: Screen, step: Step, places: Places) -> Blocks:
    """Return what the step does, and why."""
    return [screen.prose(step.intro.filled(places)), Text()]


def question(screen: Screen, step: Step, places: Places) -> Blocks:
    """Return the question to predict, with its choices."""
    blocks: Blocks = [
        screen.prose(step.question.filled(places), say("demo.before"), "bold"),
        *(
            screen.prose(choice.text.filled(places), f"  {key}")
            for key, choice in step.choices.items()
        ),
        Text(),
    ]
    return blocks


def result(
    screen: Screen,
    demo: Demo,
    done: Played,
    guess: str = "",
    *,
    rows: int = 0,
    head: Sequence[RenderableType] = (),
    asked: Sequence[RenderableType] = (),
) -> Blocks:
    """Return what happened: both sides, the verdict, what did it and why.

    On a screen of `rows` lines (0: without end) the output is cropped until the page fits, below
    `head` and `asked`. Where that isn't enough, it goes without a blank line, then with the most
    telling facts alone, then without `asked`, and at last without what did it.
    """
    did, why = _did(screen, demo, done), _why(screen, done, guess)
    whole, short = [*head, *asked], [*head]
    every = len(telling(done, len(done.finding.evidence)))
    page: Blocks = []
    ways = [
        (whole, [Text()], every, did),
        (whole, [], every, did),
        *((whole, [], few, did) for few in range(min(every - 1, 4), 1, -1)),
        *((short, [], few, did) for few in range(min(every, 4), 0, -1)),
        (short, [], 1, []),
    ]
    least = [FEWEST]
    if done.step.looks in PROOFS:
        least.insert(0, PROVED)
    elif done.step.plot and screen.plots:
        least.insert(0, PLOTTED)
    for fewest, (top, gap, facts, by) in product(least, ways):
        rest = [*verdict(screen, done, facts), *by, *gap, *why]
        room = MOST
        if rows:
            taken = sum(map(screen.lines, [*top, *rest])) + boxes.below(screen, done)
            stacked = 2 if screen.width < boxes.NARROW else 1
            room = min(max((rows - taken) // stacked - 2, fewest), MOST)
        page = [*top, boxes.sides(screen, done, room), *rest]
        if not rows or sum(map(screen.lines, page)) <= rows:
            break
    return page


def growing(screen: Screen, demo: Demo, done: Played) -> Blocks:
    """Return a step whose plots still grow: where the result will be."""
    head_ = step_head(screen, demo, done.step, done.places["root"])
    asked = screen.prose(done.step.question.filled(done.places), style="bold")
    taken = sum(map(screen.lines, [*head_, asked])) + 4
    room = min(max(screen.height - taken - 2, FEWEST), MOST)
    playing = screen.prose(say("demo.playing"), style="dim")
    return [*head_, asked, boxes.sides(screen, done, room), playing]


def verdict(screen: Screen, done: Played, most: int) -> Blocks:
    """Return the verdict with at most so many facts, and a word where it isn't the expected one."""
    sign = screen.sign(done.finding.verdict)
    facts = telling(done, most) or [""]
    if hidden := len(telling(done, len(done.finding.evidence))) - len(facts):
        facts[-1] += " " + say("demo.more_facts", count=hidden).replace(" ", TIE)
    margin = sign.cell_len + 2
    blocks: Blocks = []
    for number, fact in enumerate(facts):
        line = screen.prose(fact, " " * (margin - 2))
        if number == 0:
            line = Text.assemble(sign, line[sign.cell_len :])
        blocks.append(line)
    if not done.as_expected and done.step.expected is not Verdict.KEPT:
        expected = verdicts.word(done.step.expected)
        blocks.append(screen.prose(say("demo.unexpected", expected=expected)))
    return blocks


def telling(done: Played, most: int) -> list[str]:
    """Return at most so many facts: the first of each axis, then the second ones, and so on.

    They stay in their order, and none is told twice.
    """
    facts = [
        (rank, axis, fact)
        for axis, finding in enumerate(done.findings.values())
        for rank, fact in enumerate(finding.evidence)
    ]
    seen: set[str] = set()
    fresh = []
    for rank, axis, fact in sorted(facts):
        # Each axis was measured on a container of its own, which says the same of its namespaces.
        alike = NUMBERED.sub("", fact)
        if alike not in seen:
            seen.add(alike)
            fresh.append((rank, axis, fact))
    return [fact for rank, axis, fact in facts if (rank, axis, fact) in fresh[:most]]


def _did(screen: Screen, demo: Demo, done: Played) -> Blocks:
    """Return the system calls that did it, as they were seen in a run, and what is new by them."""
    label = say("demo.did")
    if not did_it(done):
        blocks: Blocks = []
    elif not done.calls:
        blocks = [screen.prose(say("demo.no_calls"), label)]
    else:
        shown, missing = did(demo, done)
        text = " · ".join(shown)
        if missing:
            text += " " + say("demo.missing", call=missing)
        blocks = [screen.prose(text, label)]
    if done.links:
        blocks.append(screen.prose(split(done), say("demo.namespaces")))
    return blocks


def did_it(done: Played) -> bool:
    """Say whether it is system calls of one run that a step is about.

    A script starts the runtime more than once, and not only to run a container.
    """
    return not done.step.turns or bool(done.step.calls)


def split(done: Played) -> str:
    """Return which namespaces are new in a step's container, and which are the host's."""
    new = [kind for kind, link in done.links.items() if link.new]
    old = [kind for kind, link in done.links.items() if not link.new]
    return say("demo.namespaces_split", new=_named(new), old=_named(old))


def _named(kinds: Sequence[str]) -> str:
    return " ".join(kinds) or say("demo.namespaces_none")


def did(demo: Demo, done: Played) -> tuple[Sequence[str], str]:
    """Return the calls that did it, in few words each, and the one that is missing, or ""."""
    made = those(done.calls, demo.calls_of(done.step))
    every = [call.short(done.places["root"], each) for call, each in made]
    # On v1 a process joins one group after the other, in the same words.
    shown = [short for n, short in enumerate(every) if not n or short != every[n - 1]]
    missing = done.step.missing
    return shown, "" if called(done.calls, missing) else missing


def _why(screen: Screen, done: Played, guess: str) -> Blocks:
    """Return the explanation, and what there is to say to a guess.

    Both are about what was expected: where something else came out, it had another reason.
    """
    if not done.as_expected:
        return []
    blocks: Blocks = [screen.prose(done.step.why.filled(done.places))]
    if guess:
        reply = done.step.choices[guess].reply.filled(done.places)
        blocks.append(screen.prose(reply, style="italic"))
    return blocks


def calls(screen: Screen, demo: Demo, done: Played) -> Blocks:
    """Return every system call of the run, those that make the container in bold."""
    page: Blocks = [*step_head(screen, demo, done.step, done.places["root"])]
    if not done.calls:
        return [*page, screen.prose(say("demo.no_calls")), Text()]
    page.append(screen.prose(say("demo.calls")))
    for call in done.calls:
        style = "bold" if those([call], demo.calls_of(done.step)) else ""
        line = Text(f"[{call.pid}] {call}", style=style, no_wrap=True, overflow="ellipsis")
        page.append(line)
    return [*page, Text()]


def facts(screen: Screen, demo: Demo, done: Played) -> Blocks:
    """Return every fact that was measured, by axis, and the namespaces."""
    page: Blocks = [*step_head(screen, demo, done.step, done.places["root"])]
    page.append(screen.prose(say("demo.facts")))
    for axis, finding in done.findings.items():
        page.append(
            Text.assemble(
                (axis, "bold"),
                " " if axis else "",
                screen.sign(finding.verdict, axis=bool(axis)),
            )
        )
        page += [screen.prose(fact, " ") for fact in finding.evidence]
    if done.links:
        page += [Text(), screen.prose(say("demo.facts_links"))]
        for link in done.links.values():
            sign = "≠" if link.new else "="
            style = "bold" if link.new else "dim"
            page.append(Text(f"   {link.host:<20} {sign} {link.container}", style=style))
    return [*page, Text()]


def drawn(screen: Screen, done: Played) -> Blocks:
    """Return the picture of a step's networks, or of its container's layers."""
    if done.layers:
        lines = stack.draw(done.layers, screen.width, spells=screen.spells)
        return [Text("\n".join(lines), no_wrap=True), screen.prose(say("demo.stack"), style="dim")]
    if not done.networks:
        return [screen.prose(say("demo.no_picture"))]
    lines = picture.draw(done.networks, screen.width, spells=screen.spells)
    return [Text("\n".join(lines), no_wrap=True), screen.prose(say("demo.picture"), style="dim")]


def pictured(screen: Screen, demo: Demo, done: Played) -> Blocks:
    """Return the page with a step's picture."""
    head_ = step_head(screen, demo, done.step, done.places["root"])
    return [*head_, *drawn(screen, done), Text()]


def keys(screen: Screen, names: Sequence[str]) -> Blocks:
    """Return the line that says which keys there are; a key and its meaning stay together."""
    words = [say(f"demo.key_{name}") for name in names]
    return [Text(line, style="dim") for line in bar(words, screen.width)]


def helped(screen: Screen, names: Sequence[str]) -> Blocks:
    """Return what each key does, in a sentence."""
    return [*(screen.prose(say(f"demo.help_{name}")) for name in names), Text()]
