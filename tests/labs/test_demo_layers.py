"""`labrun stage4`: what is proved of layers is read from the files, and can be found wanting."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from checks.bench import Bench
from labs.demo import stack
from labs.demo.script import load
from labs.demo.stack import Entry, Stack
from labs.demo.trace import Call
from labs.docs.record import measured as recorded
from labs.docs.record.normal import Normal
from labs.errors import FAILED
from labs.stages import reference
from tests.running import LABRUN, cannot, has_fuse, run

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root")
MACHINE = pytest.mark.xdist_group("machine")

OPTIONS = (
    "rw,relatime,lowerdir=4bc402:f784e2,upperdir=../../../containers/26fbb03df1cc/overlay/upper,"
    "workdir=../../../containers/26fbb03df1cc/overlay/work,redirect_dir=on,index=on,uuid=on"
)


def entry(kind: str = "file", **marks: str) -> Entry:
    return Entry(kind, 6, 4096, 0o644, marks)


PICTURED = Stack(
    "overlay",
    OPTIONS,
    "/store/containers/26fbb03df1cc/overlay/upper",
    ["/store/layers/two", "/store/layers/one"],
    {
        "srv": entry("directory"),
        "srv/letter": entry("whiteout"),
        "srv/hello": entry(),
        "srv/www": entry("directory", redirect="site"),
        "srv/site": entry("directory", opaque="y"),
    },
    [{"srv/letter": entry(), "srv/big": entry(), "srv/site": entry("directory")}, {}],
    ["srv/big", "srv/hello", "srv/site", "srv/www"],
)


# ---- the picture ----------------------------------------------------------------------------


@pytest.mark.parametrize("spells", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_each_line_of_the_picture_fits_and_says_what_is_where(width: int, spells: bool) -> None:
    lines = stack.draw(PICTURED, width, spells=spells)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert text.isascii() or spells
    for said in ("merged", "upperdir=", "lowerdir=4bc402", "lowerdir=f784e2", "c 0,0", "opaque"):
        assert said in text


def test_a_row_has_what_lies_in_its_directory_below_the_names_of_the_others() -> None:
    lines = stack.draw(PICTURED, 80)
    rows = [line for line in lines if line.startswith("│")]
    merged, upper, second, first = rows
    place = second.index("letter")
    assert merged[place : place + 6].strip() == ""
    assert upper[place : place + 6] == "c 0,0 "
    assert upper.split() == ["│", "hello", "c", "0,0", "site/", "www/", "│"]
    assert second.split() == ["│", "big", "letter", "site/", "│"]
    assert merged.split() == ["│", "big", "hello", "site/", "www/", "│"]
    assert first.split()[1:3] == ["(nothing", "of"]
    text = " ".join(" ".join(lines).split())
    assert 'www: trusted.overlay.redirect="site"' in text
    assert "letter: a character device 0/0" in text
    assert "redirect_dir=on index=on" in text


def test_more_names_than_fit_leave_those_that_the_container_changed() -> None:
    crowd = {f"srv/file-{number:03}": entry() for number in range(99)}
    many = Stack("overlay", OPTIONS, "/u", ["/l"], PICTURED.written, [crowd, {}], [])
    lines = stack.draw(many, 80)
    assert max(map(cell_len, lines)) == 80
    assert all(name in "".join(lines) for name in ("hello", "c 0,0", "site/", "www/"))


def test_a_mount_of_layers_is_told_without_the_way_to_them() -> None:
    own = "../../../containers/26fbb03df1cc/overlay"
    call = Call(
        7,
        "mount",
        '"overlay", "/tmp/a/lab/store/containers/26fbb03df1cc/overlay/merged", "overlay", 0, '
        f'"index=on,redirect_dir=on,metacopy=off,upperdir={own}/upper,workdir={own}/work,'
        'lowerdir=4bc402:f784e2"',
        "0",
    )
    assert call.short("/r") == (
        'mount("overlay", "…/merged", "overlay", 0, '
        '"index=on,redirect_dir=on,upperdir=…,workdir=…,lowerdir=…")'
    )


# ---- recorded for the pages -------------------------------------------------------------------


def test_names_that_differ_by_machine_are_the_same_wherever_they_come_again() -> None:
    texts = []
    for letter, number in (("a", "1"), ("b", "2")):
        normal = Normal("stage4")
        digest, own, short = letter * 64, number * 12, number * 6
        said = normal(
            f"made sha256:{digest[:12]}\nsha256:{digest}\nblobs/sha256/{digest}\n"
            f"lowerdir={short}:{letter * 6},upperdir=../containers/{own}/overlay/upper\n"
            f"lowerdir={short}\n/store/tmp/overlay-{number * 16}"
        )
        assert digest[:12] not in said
        assert own not in said
        texts.append(said)
    assert texts[0] == texts[1]
    first, whole, blob, *_ = texts[0].splitlines()
    assert whole.startswith(first.removeprefix("made "))
    assert blob.endswith(whole.removeprefix("sha256:"))


PLAYED = '<figure class="played measured"><pre>{}</pre><ul><li>{}</li></ul></figure>'


@pytest.mark.parametrize(
    ("said", "evidence", "alike"),
    [
        ("\n26356   .\n80968   .\n", "nine more took 72.0 KiB", True),
        ("\n26356   .\n80968   .\n", "ten containers cost as much as copies", False),
        ("c--------- 0,0 letter", "nine more took 53.3 MiB", False),
    ],
)
def test_a_recording_is_fresh_where_its_figures_alone_differ(
    said: str, evidence: str, alike: bool, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.html", tmp_path / "other.html"
    one.write_text(PLAYED.format("\n26000   .\n81000   .\n", "nine more took 64.0 KiB"))
    other.write_text(PLAYED.format(said, evidence))
    assert recorded.alike(one, other) is alike


def test_drivers_are_compared_on_machines_that_have_the_same(tmp_path: Path) -> None:
    name = "generated/en/stage4/driver.html"
    for folder, drivers in (("fresh", "overlay vfs"), ("docs", "overlay devicemapper vfs")):
        (tmp_path / folder / "generated/stage4").mkdir(parents=True)
        (tmp_path / folder / "generated/stage4/drivers.txt").write_text(drivers)
    places = tmp_path / "fresh", tmp_path / "docs"
    assert not recorded.comparable(name, *places)
    assert not recorded.comparable("generated/stage4/drivers.txt", *places)
    assert recorded.comparable(name.replace("driver", "write"), *places)
    assert recorded.comparable(name, places[0], places[0])


# ---- played for real -------------------------------------------------------------------------


def played(
    *arguments: str, stage: str = "stage4", **environment: str
) -> tuple[int, dict[str, Any]]:
    """Return the exit status of some steps, and their rows by id."""
    ended = run([LABRUN, stage, *arguments, "--json", "-"], environment=environment)
    assert ended.stdout, ended.stderr.decode()
    return ended.returncode, {row["id"]: row for row in json.loads(ended.stdout)["steps"]}


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    status, found = played("--no-input")
    assert status == 0, [row["evidence"] for row in found.values()]
    return found


@ROOT_ONLY
@MACHINE
@pytest.mark.once
class TestPlayed:
    """By the stage's own runtime: what the host sees in the directories is as it must be."""

    def test_every_step_is_kept_and_says_why(self, rows: dict[str, Any]) -> None:
        assert list(rows) == [step.id for step in load("stage4").steps]
        assert {row["verdict"] for row in rows.values()} == {"kept"}
        for row in rows.values():
            assert row["evidence"]
            keys = "id axis command host container verdict expected evidence"
            assert list(row)[:8] == keys.split()
            assert set(list(row)[8:]) <= {"options", "beside"}

    def test_a_write_a_delete_and_a_change_are_in_upper(self, rows: dict[str, Any]) -> None:
        assert rows["write"]["host"]["stdout"].startswith("./srv/hello\nhello\n")
        assert "hello" not in rows["write"]["host"]["stdout"].split("hello\n", 2)[2]
        assert rows["delete"]["host"]["stdout"] == "c--------- 0,0 letter\nDear reader\n"
        assert "letter" not in rows["delete"]["container"]["stdout"].split()
        assert rows["copyup"]["host"]["stdout"].split() == ["1000001", "56", "130", "4096", "big"]
        assert rows["copyup"]["container"]["stdout"] == ".X."
        assert rows["rename"]["host"]["stdout"].split()[2:] == ["index.html", "style.css"]
        assert sorted(rows["rename"]["host"]["stdout"].split()[:2]) == ["./site", "./www"]
        assert rows["rename"]["container"]["stdout"].split() == [
            *("site:", "www:", "index.html", "style.css")
        ]

    def test_containers_of_one_image_are_apart_and_cost_little(self, rows: dict[str, Any]) -> None:
        (one,) = rows["peers"]["beside"]
        assert one["stdout"] == "labrun was here\none was here\n"
        assert rows["peers"]["container"]["stdout"] == "labrun was here\ntwo was here\n"
        copies, shared = (
            [int(line.split()[0]) for line in rows["sharing"][side]["stdout"].splitlines()]
            for side in ("host", "container")
        )
        assert copies[1] - copies[0] > 9 * 4096
        assert shared[1] - shared[0] < 1024

    def test_images_are_made_once_and_come_back_as_they_went(self, rows: dict[str, Any]) -> None:
        first, again, changed = (
            rows["build"]["host"]["stdout"],
            rows["build"]["beside"][0]["stdout"],
            rows["build"]["container"]["stdout"],
        )
        assert [text.count("CACHED") for text in (first, again, changed)] == [0, 2, 1]
        assert first.split()[-1] == again.split()[-1] != changed.split()[-1]
        out, back = (rows["tarballs"][side]["stdout"] for side in ("host", "container"))
        assert out.splitlines()[0] == back.splitlines()[-1]
        assert "srv/.wh.letter" in back.splitlines()

    def test_each_driver_says_the_same_in_its_own_way(self, rows: dict[str, Any]) -> None:
        row = rows["driver"]
        overlay, vfs = row["host"]["stdout"], row["container"]["stdout"]
        _, aufs = (side["stdout"] for side in row["beside"])
        assert "upper/srv/letter" in overlay.split()
        assert "tree/srv/letter" not in vfs.split()
        assert "tree/srv/big" in vfs.split()
        changes = "C /srv\nD /srv/letter\nA /srv/new\n"
        assert overlay.startswith(changes)
        assert vfs.startswith(changes)
        if not has_fuse():
            cannot("no FUSE with its library (fuse3) is here")
        assert aufs.startswith(changes)
        assert len(row["beside"]) == 2
        assert "rw/srv/.wh.letter" in aufs.split()


OTHERWISE = """\
import json, subprocess, sys
words = [CHANGED.get(word, word) for word in sys.argv[1:]]
if words[0] in CHANGED:
    words[1:1] = CHANGED[words[0] + " with"]
status = subprocess.run([RUNTIME, *words]).returncode
if words[:2] == ["image", "export"] and "tar" in CHANGED:
    tar = open(words[3], "r+b")
    whole = tar.read().replace(*(text.encode() for text in CHANGED["tar"]))
    tar.seek(0)
    tar.write(whole)
sys.exit(status)
"""
"""A runtime that is stage 4's but for some words: not what was asked for is done."""


def runtime(folder: Path, changed: dict[str, Any], stage: str = "stage4") -> str:
    """Write such a runtime, and return its command, as seen from here."""
    file = folder / "otherwise.py"
    head = f"CHANGED = {changed!r}\nRUNTIME = {reference(stage)!r}\n"
    file.write_text(head + OTHERWISE, encoding="utf-8")
    return f"{sys.executable} {os.path.relpath(file)}"


@ROOT_ONLY
@MACHINE
@pytest.mark.once
@pytest.mark.parametrize(
    ("changed", "steps", "said"),
    [
        # No union at all: a copy for each container.
        (
            {"run": "run", "run with": ["--storage-driver", "vfs"]},
            ["write", "delete", "rename", "peers"],
            "no overlay",
        ),
        ({"overlay": "vfs"}, ["sharing"], "as much as copies"),
        ({"build": "build", "build with": ["--no-cache"]}, ["build"], "made again"),
        ({"tar": [".wh.letter", ".xx.letter"]}, ["tarballs"], "not the SHA-256"),
        ({"rm letter": "x", "cd /srv; rm letter; >new": "true"}, ["driver"], "don't agree"),
    ],
    ids=["copies", "no-sharing", "no-cache", "tampered", "nothing-changed"],
)
def test_a_runtime_that_does_otherwise_is_failed(
    changed: dict[str, Any], steps: list[str], said: str, tmp_path: Path
) -> None:
    status, found = played(*steps, "--runtime", runtime(tmp_path, changed), LABRUN_LANG="en")
    assert status == FAILED
    assert list(found) == steps
    for row in found.values():
        assert row["verdict"] == "broken", row
    assert said in " ".join(" ".join(row["evidence"]) for row in found.values())


@ROOT_ONLY
@MACHINE
@pytest.mark.parametrize(("command", "verdict"), [("stage3", "broken"), ("@chroot", "unknown")])
def test_a_runtime_without_images_is_failed(command: str, verdict: str) -> None:
    words = command if command.startswith("@") else reference(command)
    status, found = played("write", "build", "--runtime", words)
    assert status == FAILED
    assert [row["verdict"] for row in found.values()] == [verdict] * 2


@ROOT_ONLY
@MACHINE
def test_stage4_leaves_no_mount_no_file_and_no_process(tmp_path: Path) -> None:
    before = Path("/var/lib/labrun/store").exists()
    folder = str(tmp_path)
    status, _ = played("write", "driver", TMPDIR=folder)
    assert status == 0
    assert list(tmp_path.iterdir()) == []
    assert folder not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    left = subprocess.run(["pgrep", "-f", folder], capture_output=True, check=False)
    assert left.stdout == b""
    assert Path("/var/lib/labrun/store").exists() == before


@ROOT_ONLY
def test_a_file_of_holes_is_told_by_what_was_written_to_it(rootfs: Path) -> None:
    with Bench(rootfs, machine=True) as bench:
        folder = f"{bench.scratch}/store"
        place = Path(bench.path(folder)) / "pool"
        place.parent.mkdir()
        with place.open("wb") as file:
            # As Devicemapper's pool: to read all of it would take minutes.
            file.truncate(100 << 30)
            file.seek(50 << 30)
            file.write(b"one")
        (told,) = stack.contents(bench, folder).values()
        with place.open("r+b") as file:
            file.seek((50 << 30) + 2)
            file.write(b"E")
        (changed,) = stack.contents(bench, folder).values()
        assert changed != told
        with place.open("r+b") as file:
            file.seek((50 << 30) + 2)
            file.write(b"e")
        assert [*stack.contents(bench, folder).values()] == [told]
