"""Stage 4, layers: what is unpacked is what was packed, and none of it is outside the target."""

import contextlib
import errno
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs.paths import CHECKOUT
from stages import linux
from stages.stage4_overlayfs import unpack as room
from stages.stage4_overlayfs.more.tar import CHAR, FIFO
from stages.stage4_overlayfs.unpack import Hostile
from stages.stage4_overlayfs.whiteouts import ApplyForm, AufsForm, OverlayForm
from tests.running import NOBODY, cannot
from tests.stages.layers import (
    FORMS,
    apply,
    archive,
    directory,
    entry,
    hard_link,
    patched,
    pax,
    random_tree,
    repack,
    symlink,
    tree,
)

TERABYTE = 1 << 40
GOOD = entry(b"good", content=b"good")

Hostility = dict[str, tuple[Callable[[bytes], bytes], bytes, str]]
"""By name: the archive, of the path of what is outside; the entry to be named; and the reason."""

HOSTILE: Hostility = {
    # Names that lead out.
    "dotdot": (lambda o: entry(b"../outside/new"), b"../outside/new", "lead out"),
    "dotdot-inside": (lambda o: entry(b"a/../../outside/x"), b"a/../../outside/x", "lead out"),
    "dotdot-and-back": (lambda o: entry(b"a/../b"), b"a/../b", "lead out"),
    "dotdot-directory": (lambda o: directory(b"../outside/new/"), b"../outside/new/", "lead out"),
    "dotdot-alone": (lambda o: directory(b".."), b"..", "lead out"),
    "dotdot-after-slash": (lambda o: entry(b"/../outside/new"), b"/../outside/new", "lead out"),
    "dotdot-in-prefix": (
        lambda o: patched(entry(b"outside/new"), 345, b".."),
        b"../outside/new",
        "lead out",
    ),
    "dotdot-in-pax": (
        lambda o: pax({b"path": b"../outside/new"}) + entry(b"x"),
        b"../outside/new",
        "lead out",
    ),
    "dotdot-in-gnu": (
        lambda o: entry(b"././@LongLink", b"L", b"../outside/new\0") + entry(b"x"),
        b"../outside/new",
        "lead out",
    ),
    # Links on the way.
    "below-absolute-link": (lambda o: symlink(b"a", o) + entry(b"a/new"), b"a/new", "below a"),
    "below-relative-link": (
        lambda o: symlink(b"a", b"../outside") + entry(b"a/new"),
        b"a/new",
        "below a",
    ),
    "below-link-to-itself": (lambda o: symlink(b"a", b".") + entry(b"a/b"), b"a/b", "below a"),
    "below-two-links": (
        lambda o: symlink(b"b", o) + symlink(b"a", b"b") + entry(b"a/new"),
        b"a/new",
        "below a",
    ),
    "deep-below-link": (
        lambda o: directory(b"d") + symlink(b"d/a", o) + entry(b"d/a/e/new"),
        b"d/a/e/new",
        "below a",
    ),
    "link-then-directory": (
        lambda o: symlink(b"a", o) + directory(b"a/", mode=0o777),
        b"a/",
        "a link before",
    ),
    "link-then-file": (
        lambda o: symlink(b"a", o + b"/canary") + entry(b"a", content=b"gone"),
        b"a",
        "twice",
    ),
    "directory-then-link": (
        lambda o: directory(b"a") + symlink(b"a", o) + entry(b"a/new"),
        b"a",
        "twice",
    ),
    "implied-directory-then-link": (
        lambda o: entry(b"a/b") + symlink(b"a", o) + entry(b"a/new"),
        b"a",
        "twice",
    ),
    "link-by-another-spelling": (
        lambda o: symlink(b"./a", o) + entry(b"/.//a/./new"),
        b"/.//a/./new",
        "below a",
    ),
    "link-as-root": (lambda o: symlink(b"./", o) + entry(b"new"), b"./", "root is a directory"),
    "file-as-root": (lambda o: entry(b"."), b".", "root is a directory"),
    "no-name": (lambda o: entry(b""), b"", "root is a directory"),
    "link-nowhere": (lambda o: symlink(b"a", b""), b"a", "leads nowhere"),
    "link-with-nul": (
        lambda o: pax({b"linkpath": o + b"\0x"}) + symlink(b"a", b"x"),
        b"a",
        "leads nowhere",
    ),
    # Hard links.
    "hard-link-dotdot": (lambda o: hard_link(b"a", b"../outside/canary"), b"a", "lead out"),
    "hard-link-absolute": (lambda o: hard_link(b"a", o + b"/canary"), b"a", "no earlier file"),
    "hard-link-through-link": (
        lambda o: symlink(b"a", o) + hard_link(b"b", b"a/canary"),
        b"b",
        "no earlier file",
    ),
    "write-through-hard-link-to-link": (
        lambda o: symlink(b"a", o + b"/canary") + hard_link(b"b", b"a") + entry(b"b"),
        b"b",
        "twice",
    ),
    "hard-link-to-itself": (lambda o: hard_link(b"a", b"./a"), b"a", "no earlier file"),
    "hard-link-to-later": (lambda o: hard_link(b"a", b"b") + entry(b"b"), b"a", "no earlier"),
    "hard-link-to-directory": (
        lambda o: directory(b"d") + hard_link(b"a", b"d"),
        b"a",
        "no earlier file",
    ),
    "hard-link-to-lower": (lambda o: hard_link(b"a", b"lower/file"), b"a", "no earlier file"),
    "hard-link-with-nul": (
        lambda o: pax({b"linkpath": b"good\0"}) + hard_link(b"a", b"x"),
        b"a",
        "NUL",
    ),
    "hard-link-with-size": (lambda o: hard_link(b"a", b"good", size=512), b"a", "has a size"),
    # What isn't a directory has nothing below it, and nothing is there twice.
    "below-file": (lambda o: entry(b"f") + entry(b"f/g"), b"f/g", "below a file"),
    "below-hard-link": (
        lambda o: entry(b"f") + hard_link(b"h", b"f") + entry(b"h/g"),
        b"h/g",
        "below a file",
    ),
    "below-fifo": (lambda o: entry(b"f", FIFO) + entry(b"f/g"), b"f/g", "below a file"),
    "below-whiteout": (lambda o: entry(b".wh.f/g"), b".wh.f/g", "below a whiteout"),
    "file-twice": (lambda o: entry(b"f") + entry(b"./f"), b"./f", "twice"),
    "file-then-directory": (lambda o: entry(b"f") + directory(b"f/"), b"f/", "was a file"),
    "directory-then-file": (lambda o: directory(b"f/") + entry(b"f"), b"f", "twice"),
    "whiteout-twice": (lambda o: entry(b".wh.f") * 2, b".wh.f", "twice"),
    "file-like-directory": (lambda o: entry(b"f/"), b"f/", "name of a directory"),
    # Whiteouts.
    "whiteout-of-nothing": (lambda o: entry(b"a/.wh."), b"a/.wh.", "of no file"),
    "whiteout-of-here": (lambda o: entry(b"a/.wh.."), b"a/.wh..", "of no file"),
    "whiteout-of-above": (lambda o: entry(b".wh..."), b".wh...", "of no file"),
    "whiteout-of-aufs": (lambda o: entry(b".wh..wh.aufs"), b".wh..wh.aufs", "of no file"),
    "whiteout-outside": (lambda o: entry(b"../outside/.wh.canary"), b"canary", "lead out"),
    "whiteout-below-link": (
        lambda o: symlink(b"a", o) + entry(b"a/.wh.canary"),
        b"a/.wh.canary",
        "below a",
    ),
    "opaque-below-link": (
        lambda o: symlink(b"a", o) + entry(b"a/.wh..wh..opq"),
        b"a/.wh..wh..opq",
        "below a",
    ),
    "opaque-root": (lambda o: entry(b".wh..wh..opq"), b".wh..wh..opq", "all layers"),
    "whiteout-as-link": (lambda o: symlink(b".wh.f", o), b".wh.f", "empty file"),
    "whiteout-as-directory": (lambda o: directory(b".wh.f"), b".wh.f", "empty file"),
    "whiteout-with-content": (lambda o: entry(b".wh.f", content=b"x"), b".wh.f", "empty file"),
    "whiteout-of-overlay": (lambda o: entry(b"w", CHAR), b"w", "0:0"),
    "overlay-redirect": (
        lambda o: directory(b"d", xattrs={"trusted.overlay.redirect": b"/etc"}),
        b"d",
        "for overlay",
    ),
    "overlay-opaque": (
        lambda o: directory(b"d", xattrs={"user.overlay.opaque": b"y"}),
        b"d",
        "for overlay",
    ),
    "xattr-of-link": (
        lambda o: symlink(b"a", o + b"/canary", xattrs={"user.x": b"y"}),
        b"a",
        "extended attributes",
    ),
    # Names that are none.
    "nul": (lambda o: pax({b"path": b"a\0/../b"}) + entry(b"x"), b"a\\x00", "NUL"),
    "long-name": (lambda o: entry(b"n" * 256), b"nnn", "longer name"),
    "long-path": (lambda o: entry(b"nn/" * 1366 + b"n"), b"nn/", "longer name"),
    "newline": (lambda o: entry(b"../a\nb"), b"../a\\nb", "lead out"),
    # Bombs.
    "sparse-gnu": (
        lambda o: patched(entry(b"s", b"S"), 483, b"%011o\0" % TERABYTE),
        b"s",
        "sparse",
    ),
    "sparse-pax": (
        lambda o: pax({b"GNU.sparse.size": b"%d" % TERABYTE}) + entry(b"s"),
        b"s",
        "sparse",
    ),
    "terabyte": (lambda o: entry(b"f", size=TERABYTE), b"f", "would pass the layer's limit"),
    "negative-size": (
        lambda o: patched(entry(b"f"), 124, b"\xff" * 12),
        b"good",
        "out of range",
    ),
    "huge-size": (
        lambda o: patched(entry(b"f"), 124, b"\x80\xff" + b"\xff" * 10),
        b"good",
        "range",
    ),
    "size-in-pax": (lambda o: pax({b"size": b"-1"}) + entry(b"f"), b"f", "no number"),
    "size-of-directory": (lambda o: directory(b"d", size=512), b"d", "has a size"),
    "huge-pax": (lambda o: entry(b"p", b"x", bytes(2 << 20)), b"good", "are the most"),
    "huge-gnu": (lambda o: entry(b"p", b"L", b"n" * (2 << 20)), b"good", "are the most"),
    # Headers with no meaning, or two.
    "pax-length": (lambda o: pax(b"99 path=x\n") + entry(b"f"), b"good", "damaged"),
    "pax-length-zero": (lambda o: pax(b"0 path=x\n") + entry(b"f"), b"good", "damaged"),
    "pax-length-short": (lambda o: pax(b"5 path=x\n") + entry(b"f"), b"good", "damaged"),
    "pax-no-length": (lambda o: pax(b"path=x\n") + entry(b"f"), b"good", "damaged"),
    "pax-no-newline": (lambda o: pax(b"9 path=xy") + entry(b"f"), b"good", "damaged"),
    "pax-twice": (lambda o: pax({b"a": b"b"}) * 2 + entry(b"f"), b"good", "two headers"),
    "pax-key-twice": (
        lambda o: pax(b"9 path=x\n9 path=y\n") + entry(b"f"),
        b"good",
        "two values",
    ),
    "pax-and-gnu": (
        lambda o: pax({b"path": b"x"}) + entry(b"l", b"L", b"y\0") + entry(b"f"),
        b"good",
        "two values",
    ),
    "pax-global": (
        lambda o: pax({b"path": b"../outside/new"}, b"g") + entry(b"f"),
        b"good",
        "global",
    ),
    "pax-of-nothing": (lambda o: pax({b"path": b"x"}), b"good", "next entry"),
    "pax-time": (lambda o: pax({b"mtime": b"nan"}) + entry(b"f"), b"f", "time"),
    "late-time": (lambda o: pax({b"mtime": b"9" * 30}) + entry(b"f"), b"f", "time"),
    "checksum": (lambda o: b"x" + entry(b"f")[1:], b"good", "checksum"),
    "number": (lambda o: patched(entry(b"f"), 100, b"00_644\0 "), b"f", "no number"),
    "signed-number": (lambda o: patched(entry(b"f"), 124, b"-0000000010\0"), b"good", "no number"),
    "owner": (lambda o: entry(b"f", uid=(1 << 32) - 1), b"f", "owner"),
    "type": (lambda o: entry(b"f", b"M"), b"f", "unknown type"),
    "lone-zero-block": (lambda o: bytes(512) + entry(b"f"), b"good", "end mark"),
}

CUT: dict[str, tuple[bytes, bytes]] = {
    "in-header": (GOOD + entry(b"f")[:300], b"good"),
    "in-content": (GOOD + entry(b"f", content=bytes(5000))[:3000], b"f"),
    "in-padding": (GOOD + entry(b"f", content=b"x")[:600], b"f"),
    "in-pax": (GOOD + pax({b"path": b"x"})[:520], b"good"),
    "between-entries": (GOOD + entry(b"f"), b"f"),
    "empty": (b"", b"the archive"),
}


class Place:
    """A target, and what is beside it."""

    def __init__(self, base: Path) -> None:
        self.target, self.outside = base / "target", base / "outside"
        self.target.mkdir()
        self.outside.mkdir()
        (self.outside / "canary").write_text("sings")
        (self.outside / "folder").mkdir()
        (self.outside / "folder" / "canary").write_text("sings")
        self.base = base
        self.before = self.seen()

    def seen(self) -> object:
        """Return all that could show that somebody was outside; any change has a ctime."""
        found = {}
        for folder, folders, files in os.walk(self.base):
            if Path(folder) == self.base:
                folders.remove("target")
            for name in [".", *files]:
                path = Path(folder, name)
                status = path.lstat()
                facts = status.st_mode, status.st_uid, status.st_nlink, status.st_ctime_ns
                found[str(path)] = (*facts, path.read_bytes() if path.is_file() else b"")
        return found

    def lower(self) -> None:
        """Put a lower layer into the target, for a driver that has them all in one directory."""
        (self.target / "lower").mkdir()
        (self.target / "lower" / "file").write_text("lower")
        (self.target / "way").symlink_to(self.outside)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Hold that nothing outside changes."""
        yield
        assert self.seen() == self.before


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_corpus_is_large_enough() -> None:
    assert len(HOSTILE) + len(CUT) >= 25


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer_is_refused_by_name(place: Place, case: str, form: str) -> None:
    make, name, reason = HOSTILE[case]
    if form == "apply":
        place.lower()
    data = archive(GOOD, make(os.fsencode(place.outside)))
    with place.untouched(), pytest.raises(Hostile) as caught:
        apply(data, place.target, FORMS[form]())
    named, _, why = str(caught.value).rpartition(": ") if name else ("", "", str(caught.value))
    assert name.decode() in named or name.decode() in str(caught.value)
    assert reason in why or reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", CUT)
def test_an_archive_that_was_cut_is_refused(place: Place, case: str) -> None:
    data, name = CUT[case]
    with place.untouched(), pytest.raises(Hostile, match="ends in the middle") as caught:
        apply(data, place.target, OverlayForm())
    assert str(caught.value).startswith(name.decode() + ":")


@pytest.mark.parametrize(
    "case", ["below-absolute-link", "link-then-directory", "dotdot", "whiteout-outside"]
)
def test_a_careless_unpacker_does_go_outside(place: Place, case: str) -> None:
    # The control: the canaries see it when somebody comes.
    data = archive(GOOD, HOSTILE[case][0](os.fsencode(place.outside)))
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        opened.extraction_filter = lambda member, path: member
        with contextlib.suppress(OSError):
            opened.extractall(place.target)
    assert place.seen() != place.before


def test_a_lower_layers_link_is_not_a_way(place: Place) -> None:
    # On overlay each layer has a directory of its own, and `way` in it is a directory.
    place.lower()
    with place.untouched():
        apply(archive(entry(b"way/new"), entry(b"way/.wh.canary")), place.target, ApplyForm())
    assert [path.name for path in (place.target / "way").iterdir()] == ["new"]
    assert not (place.target / "way").is_symlink()


def test_a_lower_layers_link_is_replaced_not_followed(place: Place) -> None:
    (place.target / "a").symlink_to(place.outside / "canary")
    (place.target / "b").symlink_to(place.outside)
    (place.target / "c").symlink_to(place.outside)
    data = archive(entry(b"a", content=b"new"), directory(b"b", mode=0o700), entry(b".wh.c"))
    with place.untouched():
        apply(data, place.target, ApplyForm())
    assert (place.target / "a").read_bytes() == b"new"
    assert (place.target / "b").lstat().st_mode == stat.S_IFDIR | 0o700
    assert not os.path.lexists(place.target / "c")


def test_names_begin_at_the_target(place: Place) -> None:
    data = archive(
        directory(b"./"), directory(b"/a"), entry(b"/a/b"), entry(b"./c"), entry(b"d//e")
    )
    with place.untouched():
        assert apply(data, place.target, OverlayForm()) == [b"d"]
    assert set(tree(place.target)) == {b".", b"a", b"a/b", b"c", b"d", b"d/e"}


def test_a_directory_may_come_twice_and_late(place: Place) -> None:
    data = archive(entry(b"d/f"), directory(b"d", mode=0o700), directory(b"d", mode=0o1777))
    assert apply(data, place.target, OverlayForm()) == []
    assert (place.target / "d").stat().st_mode == stat.S_IFDIR | 0o1777


def test_a_link_may_say_anything_as_long_as_nobody_follows(place: Place) -> None:
    out = os.fsencode(place.outside)
    data = archive(symlink(b"a", out + b"/canary"), hard_link(b"b", b"a"), symlink(b"c", b"../.."))
    with place.untouched():
        apply(data, place.target, OverlayForm())
    assert os.readlink(place.target / "b") == str(place.outside / "canary")


def test_the_hosts_labels_are_not_a_layers_to_set(place: Place, as_root: None) -> None:
    labels = {"security.selinux": b"x", "trusted.x": b"y", "user.z": b"w"}
    apply(archive(entry(b"f", xattrs=labels)), place.target, OverlayForm())
    assert os.listxattr(place.target / "f") == ["user.z"]


def test_a_layer_has_a_limit_and_so_have_its_headers_and_what_follows(place: Place) -> None:
    exact = archive(entry(b"f", content=bytes(100_000)))
    apply(exact, place.target, OverlayForm(), limit=len(exact))
    many = archive(*(entry(b"n%d" % number) for number in range(2000)))
    after = archive(GOOD) + bytes(1 << 21)
    for data in (many, after):
        with pytest.raises(Hostile, match="limit of 100000 bytes"):
            apply(data, place.target, ApplyForm(), limit=100_000)
    with pytest.raises(Hostile, match=r"^g: its 100000 bytes would"):
        apply(
            exact.replace(entry(b"f", size=100_000)[:512], entry(b"g", size=100_000)[:512]),
            place.target,
            OverlayForm(),
            limit=100_000,
        )
    assert not (place.target / "g").exists()


def test_what_the_kernel_refuses_has_the_entrys_name(place: Place) -> None:
    def refuse(words: str, result: object) -> None:
        if words.startswith("setxattr("):
            raise OSError(errno.ENOSPC, "full")

    data = archive(entry(b"d/f", xattrs={"user.x": b"y"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linux, "watch", refuse)
        with pytest.raises(OSError, match="full") as caught:
            apply(data, place.target, ApplyForm())
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "d/f")


def test_names_take_only_so_much_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_MEMORY", 1 << 20)
    with pytest.raises(Hostile, match="more names"):
        apply(archive(entry(b"d/" * 2000 + b"f")), place.target, OverlayForm())


def test_depth_is_no_trouble(place: Place) -> None:
    # Deeper than Python calls itself, and than a process may have open files.
    deep = b"d/" * 1050
    apply(archive(entry(deep + b"f")), place.target, ApplyForm())
    apply(
        archive(entry(b"x/.wh.y"), directory(b"d"), entry(b"d/.wh..wh..opq")),
        place.target,
        ApplyForm(),
    )
    assert list((place.target / "d").iterdir()) == []
    apply(archive(entry(deep + b"f"), entry(b"d/.wh..wh..opq")), place.target, ApplyForm())
    assert len(repack(place.target, ApplyForm())) > 1050 * 512
    apply(archive(entry(b".wh.d")), place.target, ApplyForm())
    assert sorted(os.listdir(place.target)) == ["x"]


def test_what_follows_the_end_mark_is_read_and_left(place: Place) -> None:
    stream = io.BytesIO(archive(GOOD) + bytes(9216) + b"anything")
    room.unpack(stream, place.target, OverlayForm())
    assert stream.read() == b""


def test_a_stream_may_come_in_drops(place: Place) -> None:
    class Drops(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    room.unpack(Drops(archive(entry(b"f", content=b"abc" * 1000))), place.target, OverlayForm())
    assert (place.target / "f").read_bytes() == b"abc" * 1000


# Deletions.


def test_overlay_has_devices_and_an_attribute(place: Place, as_root: None) -> None:
    apply(
        archive(directory(b"d"), entry(b"d/.wh..wh..opq"), entry(b".wh.f")),
        place.target,
        OverlayForm(),
    )
    status = (place.target / "f").lstat()
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == 0
    assert os.getxattr(place.target / "d", "trusted.overlay.opaque") == b"y"
    apply(archive(entry(b"e/.wh..wh..opq")), place.target, OverlayForm(privileged=False))
    assert os.getxattr(place.target / "e", "user.overlay.opaque") == b"y"


def test_aufs_has_files(place: Place) -> None:
    apply(
        archive(directory(b"d"), entry(b"d/.wh..wh..opq"), entry(b".wh.f")),
        place.target,
        AufsForm(),
    )
    assert set(tree(place.target)) == {b".", b"d", b"d/.wh..wh..opq", b".wh.f"}


def test_a_whiteout_may_be_a_hard_link_as_aufs_made_them(place: Place) -> None:
    apply(archive(entry(b".wh.f"), hard_link(b".wh.g", b".wh.f")), place.target, AufsForm())
    assert sorted(os.listdir(place.target)) == [".wh.f", ".wh.g"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_spares_what_its_own_layer_has(place: Place, form: str, order: int) -> None:
    if form == "apply":
        apply(
            archive(entry(b"d/lower"), entry(b"d/e/lower"), entry(b"f")), place.target, ApplyForm()
        )
    pieces = [entry(b".wh.d"), directory(b"d") + entry(b"d/e/new"), entry(b".wh.f"), entry(b"f")]
    apply(archive(*pieces[::order]), place.target, FORMS[form]())
    mark = {b"d/.wh..wh..opq"} if form == "aufs" else set()
    assert set(tree(place.target)) == {b".", b"d", b"d/e", b"d/e/new", b"f"} | mark
    again = repack(place.target, FORMS[form]())
    assert (b"d/.wh..wh..opq" in again) == (form != "apply")


@pytest.mark.parametrize("order", [1, -1])
def test_opaque_spares_what_its_own_layer_has(place: Place, order: int) -> None:
    apply(
        archive(entry(b"d/lower"), entry(b"d/e/lower"), entry(b"g/lower")),
        place.target,
        ApplyForm(),
    )
    pieces = [entry(b"d/.wh..wh..opq"), entry(b"d/e/new")]
    apply(archive(*pieces[::order]), place.target, ApplyForm())
    assert {b"d", b"d/e", b"d/e/new", b"g/lower"} <= set(tree(place.target))
    assert not {b"d/lower", b"d/e/lower"} & set(tree(place.target))


@pytest.mark.parametrize("form", FORMS)
def test_deletions_survive_a_round_trip(place: Place, form: str) -> None:
    data = archive(
        directory(b"./"),
        entry(b".wh.f"),
        directory(b"d/"),
        entry(b"d/.wh..wh..opq"),
        entry(b"d/.wh.g"),
    )
    apply(data, place.target, FORMS[form]())
    packed = repack(place.target, FORMS[form]())
    with tarfile.open(fileobj=io.BytesIO(packed)) as opened:
        names = opened.getnames()
    if form == "apply":
        assert names == [".", "d"]
    else:
        # What is opaque needs no whiteouts: overlay would list them there.
        assert names == [".", ".wh.f", "d", "d/.wh..wh..opq"]


def test_a_part_is_packed_with_the_way_to_it(place: Place) -> None:
    apply(archive(*(entry(name) for name in (b"a/b/c", b"a/d", b"e"))), place.target, ApplyForm())
    packed = repack(place.target, ApplyForm(), only=[b"a/b/c"], deleted=[b"a/f"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as opened:
        assert opened.getnames() == [".", "a", "a/.wh.f", "a/b", "a/b/c"]


def test_a_file_that_would_be_a_whiteout_is_not_packed(place: Place) -> None:
    (place.target / ".wh.x").touch()
    with pytest.raises(ValueError, match="would be a whiteout"):
        repack(place.target, OverlayForm())


def test_a_renamed_directory_of_overlays_is_not_packed_in_half(place: Place) -> None:
    (place.target / "d").mkdir()
    os.setxattr(place.target / "d", "user.overlay.redirect", b"x")
    with pytest.raises(ValueError, match=r"^d: only the overlay's mount"):
        repack(place.target, OverlayForm())


# The same tree again.


@pytest.mark.parametrize("seed", range(12))
def test_unpack_of_pack_is_the_same_tree(tmp_path: Path, seed: int) -> None:
    round_trip(tmp_path, seed, os.geteuid() == 0)


def round_trip(base: Path, seed: int, root: bool) -> None:
    """Pack a tree made at random, unpack it, and compare; the seed is the test's name."""
    source, target = base / "source", base / "target"
    source.mkdir()
    target.mkdir()
    random_tree(source, random.Random(seed), root=root)
    packed = repack(source, ApplyForm())
    assert apply(packed, target, OverlayForm()) == []
    assert tree(target) == tree(source), f"seed {seed}"
    assert repack(target, OverlayForm()) == packed, f"seed {seed}"


def test_gnu_tar_and_python_read_what_is_packed(tmp_path: Path, as_root: None) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    random_tree(source, random.Random(99), root=True)
    data = repack(source, ApplyForm())
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p"]
    subprocess.run(["tar", "-x", *options, "-C", target], input=data, check=True)
    assert tree(target) == tree(source)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        assert len(opened.getmembers()) == len(tree(source))


@pytest.mark.parametrize("format", ["gnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_packs_is_read(tmp_path: Path, format: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d").mkdir(parents=True)
    target.mkdir()
    (source / "d" / "f").write_bytes(b"x" * 5000)
    (source / "l").symlink_to("d/f")
    os.link(source / "d" / "f", source / "h")
    if format in ("gnu", "pax"):
        (source / ("n" * 200)).symlink_to("m" * 200)
    for path in [*source.rglob("*"), source]:
        os.utime(path, ns=(10**9, 10**9), follow_symlinks=False)
    line = ["tar", "-c", f"--format={format}", "--numeric-owner", "-C", str(source), "."]
    apply(subprocess.run(line, capture_output=True, check=True).stdout, target, OverlayForm())
    assert tree(target) == tree(source)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_refused_or_harmless(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    source = place.base / "target" / "source"
    source.mkdir()
    random_tree(source, chance, 15, root=os.geteuid() == 0)
    good = repack(source, ApplyForm())
    with place.untouched():
        for number in range(25):
            data = bytearray(good)
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(len(data) // 512) * 512 + chance.randrange(512)
                data[at] = chance.choice([0, 47, 46, 48, 55, 255, chance.randrange(256)])
                if chance.random() < 0.5:
                    block = bytes(data[at // 512 * 512 :][:512])
                    data[at // 512 * 512 : at // 512 * 512 + 512] = patched(block, 0, b"")
            target = place.target / str(number)
            target.mkdir()
            with contextlib.suppress(Hostile, OSError):
                apply(bytes(data), target, FORMS[chance.choice(list(FORMS))]())


def exchange(place: Place) -> None:
    """Do what a hostile process would: a link to what is outside has a directory's place."""
    (place.target / "a").rename(place.target / "aside")
    (place.target / "a").symlink_to(place.outside)


@pytest.mark.parametrize("way", [b"a", b"a/folder", b"a/b/c"])
def test_a_directory_exchanged_for_a_link_when_it_is_opened_is_not_entered(
    place: Place, way: bytes
) -> None:
    # The watch sees a call just before it is made: no exchange could be later.
    def watch(words: str, result: object) -> None:
        if words.startswith("openat2(") and f'"{way.decode()}"' in words and not swapped:
            swapped.append(words)
            exchange(place)

    swapped: list[str] = []
    entries = [b"%s/f" % way, b"b/f", b"%s/canary" % way, b"%s/.wh.folder" % way]
    data = archive(directory(way), *map(entry, entries))
    with place.untouched(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(linux, "watch", watch)
        with pytest.raises(OSError, match=r"symbolic|directory") as caught:
            apply(data, place.target, ApplyForm())
    assert swapped
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_a_directory_exchanged_for_a_link_while_it_is_open_is_still_itself(place: Place) -> None:
    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 1024:
                exchange(place)
            return super().read(512)

    entries = [entry(b"a/f"), entry(b"a/canary"), entry(b"a/.wh.folder"), symlink(b"a/l", b"x")]
    with place.untouched():
        room.unpack(Stream(archive(*entries)), place.target, ApplyForm())
    assert sorted(os.listdir(place.target / "aside")) == ["canary", "f", "l"]


# As somebody else.


IMPORTS = """
import os
from tests.stages.test_stage4_unpack import *
from stages.stage4_overlayfs.more.tar import BLOCK, CHAR, FIFO
"""


def elsewhere(base: Path, code: str) -> None:
    """Run a piece of Python in `base`, as root of nothing: what it imports, it imports before."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + code],
        cwd=base,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


AS_NOBODY = f"""
os.chown(".", {NOBODY}, {NOBODY})
os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)
"""


def test_an_ordinary_user_has_the_same_tree_again(tmp_path: Path, as_root: None) -> None:
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        code = f"{AS_NOBODY}\nround_trip(Path('.'), {seed}, False)"
        elsewhere(tmp_path / str(seed), code)


def test_an_ordinary_user_makes_no_device_and_owns_what_he_unpacks(
    tmp_path: Path, as_root: None
) -> None:
    code = f"""{AS_NOBODY}
for kind in (CHAR, BLOCK):
    try:
        apply(archive(entry(b"dev/x", kind, major=1, minor=3)), ".", OverlayForm())
    except Hostile as error:
        assert str(error) == "dev/x: a device node, which takes root to make", error
    else:
        raise AssertionError("made")
layer = archive(entry(b"f", mode=0o4755, uid=7), entry(b"p", FIFO), entry(b".wh.g"))
apply(layer, ".", OverlayForm())
"""
    elsewhere(tmp_path, code)
    status = (tmp_path / "f").stat()
    # Setuid for somebody else must not become setuid for him who unpacks.
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o755)
    assert stat.S_ISCHR((tmp_path / "g").lstat().st_mode)


def test_an_ordinary_user_gets_directories_that_even_he_may_not_enter(
    tmp_path: Path, as_root: None
) -> None:
    closed = [directory(b"d", mode=0), directory(b"d/e", mode=0o555), entry(b"d/e/f")]
    code = f"{AS_NOBODY}\napply({archive(*closed)!r}, '.', OverlayForm())"
    elsewhere(tmp_path, code)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0
    assert stat.S_IMODE((tmp_path / "d" / "e").stat().st_mode) == 0o555


MAPPED = """
linux.unshare(linux.CLONE_NEWUSER)
linux.write_file("/proc/self/uid_map", "0 0 1")
linux.write_file("/proc/self/setgroups", "deny")
linux.write_file("/proc/self/gid_map", "0 0 1")
"""


def test_in_a_user_namespace_overlays_marks_are_its_users(tmp_path: Path, as_root: None) -> None:
    code = f"""{MAPPED}
layer = archive(directory(b"d", uid=42), entry(b"d/.wh..wh..opq"), entry(b".wh.g"))
apply(layer, ".", OverlayForm())
try:
    apply(archive(entry(b"x", CHAR, major=1, minor=3)), ".", OverlayForm())
except Hostile:
    os._exit(0)
os._exit(1)
"""
    elsewhere(tmp_path, code)
    assert os.getxattr(tmp_path / "d", "user.overlay.opaque") == b"y"
    assert (tmp_path / "d").stat().st_uid == 0
    assert stat.S_ISCHR((tmp_path / "g").lstat().st_mode)


# The kernel's overlay reads what we write.


def layer_at_random(chance: random.Random, lower: list[bytes]) -> bytes:
    """Return a layer that adds, replaces and deletes, with entries for all directories on the way.

    What it deletes is there in a lower one: elsewhere overlay would list the whiteout.
    """
    pieces = {b".": directory(b"./")}
    kinds: dict[bytes, str] = {}
    for _ in range(12):
        kind = chance.choice(["file", "folder", "folder", "opaque", "gone"])
        names = [chance.choice([b"a", b"b", b"c"]) for _ in range(chance.randrange(1, 4))]
        path = chance.choice(lower) if kind == "gone" and lower else b"/".join(names)
        ways = [path[:at] for at in range(len(path)) if path[at : at + 1] == b"/"]
        if path in kinds or any(kinds.get(way, "folder") != "folder" for way in ways):
            continue
        if kind == "gone" and path not in lower:
            continue
        for way in ways:
            kinds[way] = "folder"
            pieces.setdefault(way, directory(way, mtime=chance.randrange(10**18)))
        above, _, name = path.rpartition(b"/")
        prefix = above + b"/" if above else b""
        kinds[path] = {"opaque": "folder"}.get(kind, kind)
        if kind == "gone":
            pieces[prefix + b".wh." + name] = entry(prefix + b".wh." + name)
        elif kind == "file":
            pieces[path] = entry(path, content=chance.randbytes(4), uid=chance.randrange(9))
        else:
            pieces[path] = directory(path, mode=chance.choice([0o700, 0o755]))
        if kind == "opaque":
            pieces[path + b"/.wh..wh..opq"] = entry(path + b"/.wh..wh..opq")
    order = list(pieces.values())
    chance.shuffle(order)
    return archive(*order)


def merged_and_applied(seed: int) -> None:
    """In a mount namespace of our own: compare overlay's mount with layers laid over each other."""
    chance, lower = random.Random(seed), list[bytes]()
    for name in ("applied", "merged", "0", "1", "2"):
        Path(name).mkdir()
    for number in range(3):
        data = layer_at_random(chance, lower)
        apply(data, "applied", ApplyForm())
        apply(data, str(number), OverlayForm())
        lower = sorted(tree("applied").keys() - {b"."})
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("overlay", "merged", "overlay", linux.MS_RDONLY, "lowerdir=2:1:0")
    assert tree("merged") == tree("applied"), f"seed {seed}"


def test_overlay_shows_what_applying_the_layers_gives(tmp_path: Path, as_root: None) -> None:
    code = """
for seed in range(40):
    os.mkdir(str(seed)); os.chdir(str(seed))
    if os.fork() == 0:
        try:
            merged_and_applied(seed)
        except BaseException:
            import traceback; traceback.print_exc(); os._exit(1)
        os._exit(0)
    assert os.wait()[1] == 0
    os.chdir("..")
"""
    elsewhere(tmp_path, code)


RENAMES = """
import os, sys
name = sys.argv[1]
open(name, "x").close()
print(flush=True)
while True:
    os.rename(name, f"{name} too")
    os.rename(f"{name} too", name)
"""


def test_a_way_through_dots_is_found_whatever_is_renamed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel can't always tell where a `..` led, and then wants to be asked again: EAGAIN."""
    if len(os.sched_getaffinity(0)) < 2:
        cannot("two processes have to run at once, which takes two processors")
    (tmp_path / "root/a/b/c").mkdir(parents=True)
    top = os.open(tmp_path / "root", os.O_PATH)
    asked = (top, "a/b/../../a/b/c/../c", os.O_PATH | os.O_CLOEXEC, linux.RESOLVE_IN_ROOT)
    again: list[object] = []

    def watch(words: str, result: object) -> None:
        if isinstance(result, BlockingIOError):
            again.append(result)

    line = [sys.executable, "-c", RENAMES, str(tmp_path / "elsewhere")]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as renames:
        try:
            assert renames.stdout
            renames.stdout.readline()
            monkeypatch.setattr(linux, "watch", watch)
            # Until it has happened: the two have to run at once for that.
            until = time.monotonic() + 60
            while len(again) < 20 and time.monotonic() < until:
                os.close(linux.openat2(*asked))
        finally:
            renames.kill()
            os.close(top)
    assert len(again) >= 20


def test_a_kernel_that_never_can_tell_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def watch(words: str, result: object) -> None:
        if result is linux.PENDING:
            asked.append(words)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(linux, "watch", watch)
    with pytest.raises(BlockingIOError):
        linux.openat2(-1, "a", os.O_PATH, linux.RESOLVE_IN_ROOT)
    assert len(asked) == linux.RETRIES
