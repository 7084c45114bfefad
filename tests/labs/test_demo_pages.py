"""Every page of every demo fits a terminal of 80 columns and 24 lines, in both languages."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.bench import Bench
from labs import texts
from labs.demo import engine, pages, session, summary
from labs.demo.screen import Screen
from labs.demo.script import load
from labs.stages import DEMOS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root"),
    pytest.mark.xdist_group("reader"),
]

COLUMNS, ROWS = 80, 24


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("LINES", str(ROWS))
    before = texts.language()
    screen = Screen()
    # As at a terminal: there plots are drawn.
    screen.draws = True
    yield screen
    texts.speak(before)


def lines(screen: Screen, page: pages.Blocks, names: tuple[str, ...]) -> int:
    return sum(map(screen.lines, [*page, *pages.keys(screen, names)]))


def shown(screen: Screen, page: pages.Blocks) -> str:
    with screen.out.capture() as capture:
        screen.show(page)
    return capture.get()


@pytest.mark.once
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("stage", DEMOS)
def test_each_page_fits_and_each_verdict_is_the_expected_one(
    stage: str, language: str, screen: Screen, rootfs: Path
) -> None:
    texts.speak(language)
    demo = load(stage)
    high = {}
    with engine.bench_of(demo, rootfs) as bench:
        stand = engine.Engine(engine.choose(stage, None), bench, demo)
        player = session.Player(stand, demo, screen)
        played = [stand.play(step) for step in demo.steps]
        for done in played:
            step = done.step
            assert done.as_expected, (step.id, done.finding)
            asked = player.asked(step)
            high[step.id, "?"] = lines(screen, asked, ("choose", "skip", "left", "quit"))
            player.played[step.id] = done
            for guess in step.choices:
                player.guesses[step.id] = guess
                page = player.result(step)
                high[step.id, guess] = lines(screen, page, session.shown(step))
                # Whatever had to go for that: the verdict, what did it, and the reply are there.
                text = "".join(shown(screen, page).split())
                assert "".join(step.choices[guess].reply.filled(done.places).split()) in text
            help_page = pages.helped(screen, session.explained(step))
            high[step.id, "help"] = lines(screen, help_page, ("return",))
            if step.picture:
                picture = pages.pictured(screen, demo, done)
                high[step.id, "picture"] = lines(screen, picture, ("return",))
        before = session.measured(stand, played)
    table = summary.table(screen, demo, played, before, rows=ROWS - 1)
    high["sum", "table"] = lines(screen, table, ("next", "back", "quit"))
    high["sum", "outlook"] = lines(screen, summary.outlook(screen, demo, played), ("end", "back"))
    high["opening", ""] = lines(screen, pages.opening(screen, demo, stand.places), ("begin",))
    assert {where: height for where, height in high.items() if height > ROWS} == {}


def test_facts_that_were_left_out_are_counted_and_can_be_seen(screen: Screen, rootfs: Path) -> None:
    texts.speak("en")
    demo = load("stage1")
    (step,) = demo.choose(["id"])
    with Bench(rootfs, machine=True) as bench:
        stand = engine.Engine(engine.choose("stage1", None), bench, demo)
        done = stand.play(step)
    told = pages.telling(done, 100)
    assert len(told) > 2
    # The first fact of each axis is the most telling one.
    firsts = [finding.evidence[0] for finding in done.findings.values()]
    assert pages.telling(done, 2) == firsts
    assert f"({len(told) - 2}\u00a0more:\u00a0e)" in shown(screen, pages.verdict(screen, done, 2))
    assert "more:\u00a0e" not in shown(screen, pages.verdict(screen, done, 100))
    everything = " ".join(shown(screen, pages.facts(screen, demo, done)).split())
    for fact in done.finding.evidence:
        assert " ".join(fact.split()) in everything
