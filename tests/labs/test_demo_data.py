"""The demos are whole: every sentence in both languages, every step playable and answered."""

import dataclasses
import re
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from checks.model import Verdict, axes
from checks.probes import probes
from checks.runtimes import VALUED
from labs import texts
from labs.demo import boxes, living, trace
from labs.demo.boxes import FLAGS
from labs.demo.engine import KINDS
from labs.demo.measure import COUNTERS, LEVELS
from labs.demo.proof import PROOFS
from labs.demo.script import FOLDER, PLACE, Demo, Step, Words, fill, load, read
from labs.demo.wrap import CLOSING, wrap
from labs.errors import USAGE, Refused
from labs.texts import say

DEMOS = [load(file.stem) for file in sorted(FOLDER.glob("stage*.toml"))]
STEPS = [
    pytest.param(demo, step, id=f"{demo.stage}-{step.id}") for demo in DEMOS for step in demo.steps
]
PLACES = {"root", "up", "file", "secret", "process", "shm", "port", "abstract", "here", "group"}
PLACES |= {"outside"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
BARE = re.compile(r"[^\u4e00-\u9fff]{1,24}")
"""A Chinese text without Chinese is a name or a path, and short."""
SCOLDING = re.compile(r"\b(simply|just (?!now)|obviously|wrong|of course)\b", re.IGNORECASE)


def sentences(thing: object) -> Iterator[Words]:
    """Yield every sentence of a demo, a step or a choice."""
    if isinstance(thing, Words):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from sentences(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from sentences(value)
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield from sentences(getattr(thing, field.name))


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.stage)
def test_every_sentence_is_whole_in_both_languages(demo: Demo) -> None:
    for words in sentences(demo):
        assert words.en.strip()
        assert words.zh.strip()
        assert not CHINESE.search(words.en)
        assert CHINESE.search(words.zh) or BARE.fullmatch(words.zh), words.zh
        assert set(PLACE.findall(words.en)) == set(PLACE.findall(words.zh))
        assert set(PLACE.findall(words.en)) <= PLACES


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.stage)
def test_nobody_is_scolded_or_talked_down_to(demo: Demo) -> None:
    for words in sentences(demo):
        assert not SCOLDING.search(words.en), words.en


@pytest.mark.parametrize(("demo", "step"), STEPS)
def test_a_step_asks_a_question_and_answers_each_guess(demo: Demo, step: Step) -> None:
    assert list(step.choices) == ["a", "b", "c"]
    assert step.right in step.choices
    for key, choice in step.choices.items():
        assert choice.reply.en.startswith(f"You said {key}.")
        assert choice.reply.zh.startswith(f"你选了 {key}。")


@pytest.mark.parametrize(("demo", "step"), STEPS)
def test_a_step_measures_an_axis_that_has_a_probe(demo: Demo, step: Step) -> None:
    for axis in filter(None, [step.axis, *step.also]):
        assert axis in axes()
        assert axis in probes()
    if not step.axis:
        assert step.expected is Verdict.KEPT
    elif axes()[step.axis].stage <= demo.number:
        assert step.expected is axes()[step.axis].required
    else:
        assert step.expected is Verdict.LEAKS


def test_stage1_has_the_articles_steps_in_the_articles_order() -> None:
    ids = [step.id for step in load("stage1").steps]
    assert ids[:5] == ["rootfs", "pwd", "ls", "bin-ls", "ip-route"]
    assert ids[5:] == ["ps", "hostname", "shm", "id", "escape"]


def test_stage2_has_a_step_for_each_namespace_and_ends_with_what_they_dont_do() -> None:
    ids = [step.id for step in load("stage2").steps]
    assert ids == ["uts", "pid", "mnt", "net", "ports", "ipc", "abstract", "user", "shared"]


@pytest.mark.parametrize(("demo", "step"), STEPS)
def test_a_step_asks_only_for_options_that_the_stage_knows(demo: Demo, step: Step) -> None:
    for options in (step.options, *(beside.options for beside in step.beside or ())):
        assert {word for word in options if word.startswith("--")} - {*FLAGS} <= set(VALUED)
        if "--namespaces" in options:
            kinds = options[options.index("--namespaces") + 1].split(",")
            assert set(kinds) <= set(KINDS)
    if demo.number == 1:
        assert not step.options
    if demo.number < 3:
        assert not step.plot
        assert not step.looks


@pytest.mark.parametrize(("demo", "step"), STEPS)
def test_a_plot_has_a_series_that_is_counted_and_is_over_soon(demo: Demo, step: Step) -> None:
    if not step.plot:
        return
    assert step.plot.series in {*COUNTERS, *LEVELS}
    assert say(f"demo.series_{step.plot.series}")
    # The contract: every load bounds itself.
    assert step.plot.seconds <= 5
    assert step.plot.limit > 0
    # It is plotted as a shell script, which waits for the gauge.
    assert list(step.command[:2]) == ["/bin/sh", "-c"]


def test_stage3_has_a_step_for_each_thing_that_is_limited_and_plots_six() -> None:
    steps = load("stage3").steps
    ids = ["cpu", "memory", "swap", "pids", "disk", "network", "race", "trees", "accounts"]
    assert [step.id for step in steps] == ids
    assert [step.id for step in steps if step.plot and not step.looks] == ids[:6]


def test_stage4_has_the_steps_of_its_story_and_proves_each() -> None:
    steps = load("stage4").steps
    ids = "write delete copyup rename peers sharing build tarballs driver"
    assert [step.id for step in steps] == ids.split()
    for step in steps:
        assert set(PROOFS[step.looks]) == {step.axis, *step.also}
        # What the host runs beside containers, or several scripts of its own: never both.
        assert bool(step.host) != bool(step.turns)
        assert step.picture == bool(step.host)


def test_stage5_has_the_steps_of_its_story_and_looks_at_what_lives() -> None:
    demo = load("stage5")
    ids = "web look root escapes crash names stop commit docker"
    assert [step.id for step in demo.steps] == ids.split()
    assert demo.apart
    looking = {step.looks for step in demo.steps if step.turns}
    assert looking == set(living.PROOFS)
    assert [step.id for step in demo.steps if not step.turns] == ["root", "escapes"]
    assert [step.id for step in demo.steps if step.peer] == ["docker"]


@pytest.mark.parametrize(
    ("options", "short"),
    [
        ([], ""),
        (["--namespaces", "uts"], "uts"),
        (["--namespaces", "uts", "--hostname", "lab"], "uts --hostname lab"),
        (["--namespaces", "uts,net,mnt,pid,ipc"], ""),
        (["--namespaces", "pid,net,mnt,ipc,uts,user,time"], "+user,time"),
        (["--net", "none"], "--net none"),
    ],
)
def test_options_are_told_shortly(options: list[str], short: str) -> None:
    assert boxes.asked_for(options) == short


def test_a_demo_with_an_unknown_key_is_not_read() -> None:
    text = (FOLDER / "stage1.toml").read_text(encoding="utf-8")
    with pytest.raises(TypeError, match="tittle"):
        read(text.replace("title.", "tittle."), "stage1")


def test_a_step_that_is_not_there_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(Refused, match=r"rootfs pwd ls .* escape") as refused:
        load("stage1").choose(["pwd", "nix"])
    assert refused.value.status == USAGE


def test_sentences_come_in_one_line_of_the_language_in_use() -> None:
    words = Words(en="\none\ntwo", zh="\n一，\n二")
    before = texts.language()
    try:
        texts.speak("en")
        assert str(words) == "one two"
        texts.speak("zh")
        assert str(words) == "一，二"
    finally:
        texts.speak(before)


def test_places_are_filled_and_what_nobody_knows_is_left_alone() -> None:
    assert fill("{root} {unknown} ${HOME}", {"root": "/r"}) == "/r {unknown} ${HOME}"


@pytest.mark.parametrize("width", [20, 40, 76])
def test_lines_fit_and_no_chinese_line_begins_with_punctuation(width: int) -> None:
    for demo in DEMOS:
        for words in sentences(demo):
            for text in (" ".join(words.en.split()), "".join(words.zh.split("\n"))):
                lines = wrap(text, width)
                assert max(map(cell_len, lines)) <= width
                assert not any(line[:1] in CLOSING for line in lines if line)
                assert "".join("".join(lines).split()) == "".join(text.split())


def test_english_words_are_not_broken_where_a_line_holds_them() -> None:
    assert wrap("a default route", 9) == ["a default", "route"]
    assert wrap("a/very/long/path", 6) == ["a/very", "/long/", "path"]


def test_a_long_output_keeps_its_head_and_the_lines_that_matter() -> None:
    lines = [(str(number), number == 50) for number in range(100)]
    shown = boxes.crop(lines, 9)
    assert len(shown) == 9
    assert shown[0] == ("0", False)
    assert ("50", True) in shown
    assert shown[-1] == ("99", False)
    hidden = sum(int(re.sub(r"\D", "", text)) for text, _ in shown if "…" in text)
    assert hidden + sum("…" not in text for text, _ in shown) == 100
    assert boxes.crop(lines[:9], 9) == lines[:9]


def test_names_are_set_in_columns_as_ls_does() -> None:
    assert boxes.columns(["bin", "dev", "etc", "home", "usr"], 16) == [
        "bin  etc   usr",
        "dev  home",
    ]
    assert boxes.columns(["one", "a" * 30], 16) == ["one", "a" * 30]
    assert boxes.columns([], 16) == []


def test_calls_are_read_from_a_trace_and_told_shortly() -> None:
    stderr = (
        '[7] chroot("/r") = 0\n'
        "a line of the command's own\n"
        '[7] execve("/x/ls", ["ls", "(a) = b"], 3 variables)\n'
        "[7] execve(…) = -1 ENOENT (No such file or directory)\n"
        '[7] execve("/bin/ls", ["ls"], 3 variables)\n'
    )
    made = trace.calls(stderr)
    assert [call.short("/r") for call in made] == [
        'chroot("ROOT")',
        'execve("/x/ls") ENOENT',
        'execve("/bin/ls")',
    ]
    assert str(made[1]).endswith("3 variables) = -1 ENOENT (No such file or directory)")
    assert not trace.called(made, "unshare(CLONE_NEWNET)")
    unshared = trace.calls("[7] unshare(CLONE_NEWNET|CLONE_NEWPID) = 0\n")
    assert trace.called(unshared, "unshare(CLONE_NEWNET)")


def test_a_call_is_told_by_the_flag_that_it_is_about_and_once() -> None:
    flags = "CLONE_NEWNS|CLONE_NEWNET, exit_signal SIGCHLD"
    made = trace.calls(
        f"[7] clone3({flags}) = 8\n"
        f"[1] clone3({flags}) = 0\n"
        '[1] mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL) = 0\n'
        '[1] mount("proc", "proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL) = 0\n'
        '[7] RTM_NEWLINK("lab2", veth, up) = -1 EEXIST (File exists)\n'
    )
    wanted = ["clone3(CLONE_NEWNET", 'mount("proc"', "RTM_NEWLINK"]
    assert [call.short("/r", each) for call, each in trace.those(made, wanted)] == [
        "clone3(…|CLONE_NEWNET)",
        'RTM_NEWLINK("lab2", veth, up) EEXIST',
        'mount("proc", "proc", "proc")',
    ]
    # The child's lines may come before, between and after the runtime's own.
    early = [made[0], made[4], *made[1:4]]
    assert trace.those(early, wanted) == trace.those(made, wanted)
    assert made[2].short("/r") == 'mount("/", MS_REC|MS_PRIVATE)'


def test_a_word_that_is_too_long_is_cut_behind_a_bar_and_a_tie_is_no_place_to_break() -> None:
    assert wrap("one|two|three", 9) == ["one|two|", "three"]
    assert wrap("a fact (2\u00a0more)", 9) == ["a fact", "(2\u00a0more)"]
