"""What the pages show is what the real thing does now."""

import difflib
import os
import shutil
from pathlib import Path

import pytest

from labs.docs import record
from labs.docs.record import code, measured, pictures, tables
from labs.errors import Refused
from labs.paths import CHECKOUT
from tests.docs.typed import own_checkout, type_all

STALE = "generated/en/stage1/ip-route.html"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Before any test's own fixtures, as it is made once for all of them.
    if os.geteuid() != 0:
        pytest.skip("cannot: needs root")
    # Typed as the page on lessons has it, where nothing was recorded yet.
    checkout = own_checkout(tmp_path_factory.mktemp("fresh") / "labrun")
    docs = checkout / "docs"
    shutil.rmtree(docs / "generated")
    for pages in docs.glob("*/commands.md"):
        pages.unlink()
    others = {path for path in docs.rglob("*") if path.is_file()}
    assert type_all(checkout, [("sudo ./labrun docs --refresh", 0)]) == []
    for path in others:
        path.unlink()
    return docs


def difference(name: str, fresh: Path) -> list[str]:
    """Return in which words a file differs, for whoever reads that it does."""
    here, now = (
        measured.masked(path.read_text(encoding="utf-8")).replace("<", "\n<").splitlines()
        if path.exists()
        else []
        for path in (CHECKOUT / "docs" / name, fresh / name)
    )
    return list(difflib.unified_diff(here, now, n=0, lineterm=""))[:40]


@pytest.mark.once
# Most of it is done on lab hosts, so it may stand beside what is done on the machine.
@pytest.mark.xdist_group("recorder")
# Everything is recorded afresh, once for all of them: minutes, and more on a busy machine.
@pytest.mark.timeout(1800)
class TestRecorded:
    """By `labrun docs --refresh`, into another folder."""

    def test_nothing_is_stale(self, fresh: Path) -> None:
        """Where it fails: `sudo ./labrun docs --refresh`, and look at what changed."""
        assert {name: difference(name, fresh) for name in record.differing(fresh)} == {}

    @pytest.mark.parametrize("change", ["changed", "removed", "superfluous"])
    def test_a_stale_transcript_is_found(
        self, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
    ) -> None:
        docs = tmp_path / "docs"
        shutil.copytree(CHECKOUT / "docs", docs)
        monkeypatch.setattr(record, "DOCS", docs)
        monkeypatch.setattr(record, "GENERATED", docs / "generated")
        stale = docs / STALE
        if change == "changed":
            # A route that no longer leaks: what a page must never say on its own.
            text = stale.read_text(encoding="utf-8")
            assert "default via 10.0.2.2" in text
            stale.write_text(text.replace("default via 10.0.2.2", "default via 10.0.2.3"))
        elif change == "removed":
            stale.unlink()
        else:
            stale = docs / "generated/en/stage1/nobody-writes-this.html"
            stale.write_text("old")
        assert record.differing(fresh) == [str(stale.relative_to(docs))]

    def test_a_recording_tells_nothing_of_this_machine(self, fresh: Path) -> None:
        # What is said of the command line was not recorded; a machine may be named as a word of it.
        files = [path for path in fresh.rglob("*") if path.is_file() and path.name != "commands.md"]
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        for ours in (str(CHECKOUT), os.uname().nodename, os.uname().release):
            assert ours not in text


def test_code_is_cut_out_of_the_source() -> None:
    blocks = code.all_of(CHECKOUT / "docs" / "code.toml")
    for name, block in blocks.items():
        assert (CHECKOUT / "docs/generated/code" / name).read_text(encoding="utf-8") == block
    assert "linux.chroot(root)  # ①" in blocks["enter_root.md"]
    assert "\ndef join(self) -> None:\n" in blocks["v1-join.md"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('[nobody]\nfile = "stages/linux.py"\nmarks = []', "no such function"),
        ('["Nobody.join"]\nfile = "stages/linux.py"\nmarks = []', "no such function"),
        ('[join]\nfile = "stages/stage3_cgroups/v1.py"\nmarks = []', "no such function"),
        ('[chroot]\nfile = "stages/linux.py"\nmarks = ["nothing like it"]', "0 lines have"),
        ('[chroot]\nfile = "stages/linux.py"\nmarks = ["chroot"]', "lines have"),
    ],
)
def test_a_function_or_a_mark_that_is_not_there_is_refused(
    tmp_path: Path, row: str, why: str
) -> None:
    listed = tmp_path / "code.toml"
    listed.write_text(row)
    with pytest.raises(Refused, match=why):
        code.all_of(listed)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_tables_and_pictures_are_what_their_sources_say(language: str) -> None:
    written = tables.all_of(language) | pictures.all_of(CHECKOUT / "docs/pictures", language)
    for name, text in written.items():
        path = CHECKOUT / "docs/generated" / language / name
        assert path.read_text(encoding="utf-8") == text
