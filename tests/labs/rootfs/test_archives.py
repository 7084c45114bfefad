"""Tarballs and OCI layouts: what is in them arrives, and nothing arrives anywhere else."""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.labs.rootfs.bench import (
    Labrun,
    Layout,
    as_nobody,
    errors,
    here,
    member,
    needs_root,
    packed,
    tar,
    tree,
    unpack,
)

# Twenty times as quick as the default.
QUICK_XZ = functools.partial(lzma.compress, preset=0)
LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
EVIL = b"written outside"

# What reaches for outside/canary, which lies beside the root. `{out}` is its absolute folder.
Members = list[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]
ATTACKS: dict[str, Members] = {
    "dots": [(member("../outside/canary"), EVIL)],
    "dots in the middle": [(member("a/../../outside/canary"), EVIL)],
    "absolute": [(member("{out}/canary"), EVIL)],
    "link up, then through it": [member("x", LINK, link="../outside"), (member("x/canary"), EVIL)],
    "absolute link, then through it": [
        member("x", LINK, link="{out}"),
        (member("x/canary"), EVIL),
    ],
    "link over link": [
        member("a", FOLDER),
        member("a/x", LINK, link=".."),
        member("b", LINK, link="a/x/.."),
        (member("b/outside/canary"), EVIL),
    ],
    "file over a link": [
        member("x", LINK, link="../outside/canary"),
        (member("x"), EVIL),
    ],
    "hard link to a file outside": [
        member("x", HARD, link="../outside/canary"),
        (member("x"), EVIL),
    ],
    "hard link through a link": [
        member("l", LINK, link="../outside"),
        member("x", HARD, link="l/canary"),
        (member("x"), EVIL),
    ],
    "hard link to a link": [
        member("l", LINK, link="../outside/canary"),
        member("x", HARD, link="l"),
        (member("x"), EVIL),
    ],
    "mode through a link": [
        member("x", LINK, link="../outside"),
        member("x", FOLDER, mode=0o777),
    ],
    "directory through a link": [
        member("x", LINK, link="../outside"),
        member("x/new", FOLDER),
    ],
    "device through a link": [
        member("x", LINK, link="../outside"),
        member("x/canary", tarfile.CHRTYPE, devmajor=1, devminor=3),
    ],
    "the root itself as a link": [
        member(".", LINK, link="../outside"),
        (member("canary"), EVIL),
    ],
}
WHITEOUTS: dict[str, Members] = {
    "whiteout with dots": [member("../outside/.wh.canary")],
    "whiteout named dot dot": [member(".wh...")],
    "whiteout named dot": [member(".wh..")],
    "whiteout through a link": [
        member("x", LINK, link="../outside"),
        member("x/.wh.canary"),
    ],
    "opaque through a link": [
        member("x", LINK, link="{out}"),
        member("x/.wh..wh..opq"),
    ],
    "whiteout of a link": [
        member("x", LINK, link="../outside"),
        member(".wh.x"),
    ],
}
CORPUS = {**ATTACKS, **WHITEOUTS}


def prepared(place: Path, name: str) -> tuple[Path, bytes]:
    """Make the marker tree beside an empty root; return the root and the attack's archive."""
    (place / "outside").mkdir()
    (place / "outside/canary").write_text("as it was")
    (place / "root").mkdir()
    members = []
    for each in CORPUS[name]:
        info, content = each if isinstance(each, tuple) else (each, b"")
        copy = tarfile.TarInfo(info.name.format(out=place / "outside"))
        copy.type, copy.mode = info.type, info.mode
        copy.devmajor, copy.devminor = info.devmajor, info.devminor
        copy.linkname = info.linkname.format(out=place / "outside")
        members.append((copy, content))
    return place / "root", tar(*members)


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("name", CORPUS)
def test_nothing_outside_is_touched(place: Path, name: str, user: str) -> None:
    root, archive = prepared(place, name)
    prefix: list[str] = []
    if user == "root" and os.geteuid() != 0:
        pytest.skip("only root can be root")
    if user == "nobody" and (prefix := as_nobody()):
        for path in (root, place / "outside", place / "outside/canary"):
            shutil.chown(path, 65534, 65534)
    before = tree(place / "outside"), (place / "outside").stat().st_mode
    unpack(archive, root, layer=name in WHITEOUTS, prefix=prefix)
    assert (tree(place / "outside"), (place / "outside").stat().st_mode) == before
    assert sorted(os.listdir(place)) == ["outside", "root"]


@pytest.mark.parametrize("name", ["dots", "absolute", "link up, then through it"])
def test_the_attacks_would_bite_an_unpacker_that_trusts(place: Path, name: str) -> None:
    root, archive = prepared(place, name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for each in opened:
            trusting = tarfile.TarFile.extract
            if hasattr(tarfile, "fully_trusted_filter"):
                trusting(opened, each, root, filter="fully_trusted")
            else:
                trusting(opened, each, root)
            if name == "absolute" and each.name.startswith(str(place)[1:]):
                # Written without its slash by TarInfo: not an attack any more.
                pytest.skip("this Python strips the slash when it writes")
    assert (place / "outside/canary").read_bytes() == EVIL


def test_names_that_lead_out_are_refused_by_name(labrun: Labrun, tmp_path: Path) -> None:
    (tmp_path / "evil.tar").write_bytes(tar((member("../\x1b[31mx"), EVIL)))
    done = labrun(tmp_path / "new", "--from", tmp_path / "evil.tar")
    assert done.returncode == 1
    assert errors(done) == [
        f"labrun: {tmp_path}/evil.tar: refused: the archive names ../\\x1b[31mx, "
        "which leads out of the root file system"
    ]
    assert os.listdir(tmp_path) == ["evil.tar"]


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("tar", bytes),
        ("tar.gz", gzip.compress),
        ("tar.bz2", bz2.compress),
        ("tar.xz", QUICK_XZ),
    ],
)
def test_a_tarball_of_docker_export_arrives_whole(
    labrun: Labrun, tmp_path: Path, default: Path, ending: str, compress: object
) -> None:
    assert callable(compress)
    archive = tmp_path / f"root.{ending}"
    archive.write_bytes(compress(packed(default)))
    done = labrun(tmp_path / "new", "--from", archive)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "new") == tree(default)
    assert labrun(tmp_path / "new", "--from", archive).returncode == 0


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, QUICK_XZ])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_an_archive_cut_short_is_refused(
    labrun: Labrun, tmp_path: Path, default: Path, compress: object, part: float
) -> None:
    assert callable(compress)
    whole = compress(packed(default).rstrip(b"\0"))
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * part)])
    done = labrun(tmp_path / "new", "--from", tmp_path / "cut")
    assert done.returncode == 1
    assert len(errors(done)) == 1
    assert "damaged or cut short" in errors(done)[0]
    assert os.listdir(tmp_path) == ["cut"]


def test_an_archive_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    whole = tar((member("one"), b"1"), (member("two"), b"2"))
    assert unpack(whole, tmp_path) == {"notes": []}
    assert unpack(whole[:1024], tmp_path)["key"] == "damaged"


def test_a_header_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    whole = bytearray(tar((member("one"), b"1"), (member("two"), b"2")))
    whole[1024] ^= 1
    assert unpack(bytes(whole), tmp_path)["key"] == "damaged"


def test_a_wrong_checksum_at_the_end_of_gzip_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(tar((member("one"), b"1"))))
    assert unpack(bytes(whole), tmp_path) == {"notes": []}
    whole[-8] ^= 1
    assert unpack(bytes(whole), tmp_path)["key"] == "damaged"


def test_what_is_no_archive_is_refused(labrun: Labrun, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an archive\n" * 1000)
    done = labrun(tmp_path / "new", "--from", tmp_path / "text")
    assert (done.returncode, len(errors(done))) == (1, 1)


@needs_root
def test_root_keeps_owners_modes_links_devices_times_and_capabilities(tmp_path: Path) -> None:
    # vfs_cap_data of linux/capability.h, revision 2: cap_net_raw, permitted and effective.
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    pax = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
    archive = tar(
        member(".", FOLDER, mode=0o711),
        member("tmp", FOLDER, mode=0o1777),
        (member("su", mode=0o4755, uid=12, gid=34, mtime=1_000_000_000), b"su"),
        member("su2", HARD, link="su"),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("pipe", tarfile.FIFOTYPE, mode=0o600),
        member("link", LINK, link="/no/where", uid=5),
        (member("raw", mode=0o755, uid=3, pax_headers=pax), b"raw"),
    )
    assert unpack(archive, tmp_path) == {"notes": []}
    su = (tmp_path / "su").stat()
    assert (su.st_mode, su.st_uid, su.st_gid) == (0o104755, 12, 34)
    assert (su.st_nlink, su.st_mtime) == (2, 1_000_000_000)
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").lstat().st_uid == 5
    assert os.getxattr(tmp_path / "raw", "security.capability") == capability


def test_an_ordinary_user_gets_no_devices_and_is_told(place: Path) -> None:
    if nobody := as_nobody():
        shutil.chown(place, 65534, 65534)
    archive = tar(
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        (member("su", mode=0o4755, uid=0), b"su"),
        member("dark", FOLDER, mode=0o000),
        (member("dark/file"), b""),
    )
    report = unpack(archive, place, prefix=nobody)
    assert report == {"notes": [{"key": "no_device", "name": "null"}]}
    assert stat.S_IMODE((place / "su").stat().st_mode) == 0o755
    assert (place / "su").stat().st_uid == (65534 if nobody else os.geteuid())


def test_a_later_member_replaces_what_is_there_and_not_what_it_links_to(tmp_path: Path) -> None:
    archive = tar(
        (member("one"), b"1"),
        member("two", HARD, link="one"),
        (member("two"), b"2"),
        member("three", LINK, link="one"),
        (member("three"), b"3"),
    )
    assert unpack(archive, tmp_path) == {"notes": []}
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"one": "1", "two": "2", "three": "3"}


@needs_root
def test_links_to_directories_are_followed_inside_the_root(tmp_path: Path) -> None:
    archive = tar(
        member("usr/bin", FOLDER), member("bin", LINK, link="/usr/bin"), (member("bin/x"), b"x")
    )
    assert unpack(archive, tmp_path) == {"notes": []}
    assert (tmp_path / "usr/bin/x").read_text() == "x"


def without(default: Path, tmp_path: Path, *names: str) -> Path:
    """Return an archive of the default root file system without these."""
    copy = tmp_path / "copy"
    shutil.copytree(default, copy, symlinks=True)
    for name in names:
        (copy / name).unlink()
    (tmp_path / "root.tar").write_bytes(packed(copy))
    return tmp_path / "root.tar"


def test_without_ip_there_is_a_warning_and_without_sh_a_refusal(
    labrun: Labrun, tmp_path: Path, default: Path
) -> None:
    archive = without(default, tmp_path, "bin/ip")
    done = labrun(tmp_path / "new", "--from", archive)
    assert done.returncode == 0
    assert "Note: /bin/ip is not there: the demo's steps about the network" in done.stderr
    shutil.rmtree(tmp_path / "copy")
    archive = without(default, tmp_path, "bin/sh")
    done = labrun(tmp_path / "other", "--from", archive)
    assert done.returncode == 1
    assert errors(done)[0].endswith("/bin/sh is not there")
    assert not (tmp_path / "other").exists()


def with_sh(default: Path, tmp_path: Path, content: bytes, mode: int = 0o755) -> Path:
    """Return an archive of a root file system whose /bin/sh is this."""
    copy = tmp_path / "copy"
    shutil.copytree(default, copy, symlinks=True)
    (copy / "bin/sh").unlink()
    (copy / "bin/sh").write_bytes(content)
    (copy / "bin/sh").chmod(mode)
    (tmp_path / "root.tar").write_bytes(packed(copy))
    return tmp_path / "root.tar"


def test_a_shell_for_another_machine_is_named(
    labrun: Labrun, tmp_path: Path, default: Path
) -> None:
    content = (default / "bin/busybox").read_bytes()
    foreign = content[:18] + (22).to_bytes(2, "little") + content[20:]
    done = labrun(tmp_path / "new", "--from", with_sh(default, tmp_path, foreign))
    assert done.returncode == 1
    assert "/bin/sh is for s390x, and this machine is" in errors(done)[0]


def test_a_missing_loader_is_named(labrun: Labrun, tmp_path: Path, default: Path) -> None:
    dynamic = Path(os.path.realpath("/proc/self/exe")).read_bytes()
    done = labrun(tmp_path / "new", "--from", with_sh(default, tmp_path, dynamic))
    assert done.returncode == 1
    assert "/bin/sh needs the loader /lib" in errors(done)[0]


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"", 0o644, "is not executable"),
        (b"junk\0junk", 0o755, "is not a program"),
        (b"#!/no/such\n", 0o755, "cannot be run: No such file"),
    ],
)
def test_a_shell_that_does_not_run_is_refused(
    labrun: Labrun, tmp_path: Path, default: Path, content: bytes, mode: int, words: str
) -> None:
    archive = with_sh(default, tmp_path, content, mode)
    done = labrun(tmp_path / "new", "--from", archive)
    assert done.returncode == 1
    assert f"/bin/sh {words}" in errors(done)[0]


@needs_root
def test_a_file_system_mounted_noexec_is_named(
    labrun: Labrun, tmp_path: Path, default: Path
) -> None:
    (tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs -o noexec t "$0" && exec "$@"'
    prefix = ["unshare", "-m", "sh", "-c", mount, str(tmp_path / "disk")]
    done = labrun(tmp_path / "disk/new", prefix=prefix)
    assert done.returncode == 1
    assert "mounted noexec" in errors(done)[0]


@needs_root
def test_what_is_run_to_verify_has_no_rights(labrun: Labrun, tmp_path: Path, default: Path) -> None:
    script = b"#!/bin/busybox ash\necho $(id -u) > /tmp/who\nmknod /tmp/dev c 1 3\nexit 0\n"
    done = labrun(tmp_path / "new", "--from", with_sh(default, tmp_path, script))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new/tmp/who").read_text() == "65534\n"
    assert not (tmp_path / "new/tmp/dev").exists()


def layers() -> tuple[bytes, bytes]:
    """Return two layers with all that can be said in them."""
    lower = tar(
        member("keep", FOLDER),
        (member("keep/a"), b"a"),
        (member("keep/b"), b"b"),
        member("opaque", FOLDER),
        (member("opaque/old"), b"old"),
        member("opaque/sub", FOLDER),
        (member("opaque/sub/old"), b"old"),
        (member("gone/deep"), b"deep"),
        (member("file"), b"lower"),
        (member("turns"), b"file"),
    )
    upper = tar(
        (member("opaque/new"), b"new"),
        member("keep/.wh.b"),
        member("opaque/.wh..wh..opq"),
        (member("opaque/sub/new"), b"new"),
        member(".wh.gone"),
        (member("file"), b"upper"),
        member("turns", FOLDER),
        (member("turns/in"), b"in"),
        member(".wh..wh.plnk"),
        member("never/.wh.was"),
        member(".wh.file"),
    )
    return lower, upper


def test_layers_are_applied_in_order_and_whiteouts_hide_what_is_below(tmp_path: Path) -> None:
    for layer in layers():
        assert unpack(layer, tmp_path, layer=True) == {"notes": []}
    assert tree(tmp_path).keys() == {
        "keep",
        "keep/a",
        "opaque",
        "opaque/new",
        "opaque/sub",
        "opaque/sub/new",
        "file",
        "turns",
        "turns/in",
    }
    assert (tmp_path / "file").read_text() == "upper"


def test_in_an_archive_that_is_no_layer_whiteouts_are_plain_files(tmp_path: Path) -> None:
    unpack(tar((member("a"), b""), (member(".wh.a"), b"")), tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".wh.a", "a"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_an_oci_layout_arrives_with_its_layers(
    labrun: Labrun, tmp_path: Path, default: Path, layout: Layout
) -> None:
    image = layout.image(packed(default), *layers())
    done = labrun(tmp_path / "new", "--from", layout.index(image))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new/file").read_text() == "upper"
    assert not (tmp_path / "new/keep/b").exists()
    assert {*tree(default)} <= {*tree(tmp_path / "new")}


def test_an_archive_of_a_layout_as_docker_save_makes_it_arrives_too(
    labrun: Labrun, tmp_path: Path, default: Path, layout: Layout
) -> None:
    (tmp_path / "saved.tar").write_bytes(packed(layout.index(layout.image(packed(default)))))
    done = labrun(tmp_path / "new", "--from", tmp_path / "saved.tar")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "new") == tree(default)


def test_of_a_nested_index_this_machines_image_is_taken(
    labrun: Labrun, tmp_path: Path, default: Path, layout: Layout
) -> None:
    foreign = tar((member("foreign"), b""))
    other = layout.image(
        foreign, architecture="s390x", platform={"os": "linux", "architecture": "s390x"}
    )
    mine = layout.image(packed(default), platform={"os": "linux", "architecture": here()})
    nested = layout.json({"schemaVersion": 2, "manifests": [other, mine]}, "index")
    assert labrun(tmp_path / "new", "--from", layout.index(nested)).returncode == 0
    assert tree(tmp_path / "new") == tree(default)
    done = labrun(tmp_path / "other", "--from", layout.index(other))
    assert done.returncode == 3
    assert f"it has linux/s390x, this is linux/{here()}" in errors(done)[0]
    # Without a platform in the index the image's own configuration tells.
    del other["platform"]
    assert labrun(tmp_path / "other", "--from", layout.index(other)).returncode == 3


def test_a_changed_blob_is_refused(
    labrun: Labrun, tmp_path: Path, default: Path, layout: Layout
) -> None:
    layout.index(layout.image(packed(default)))
    largest = max((layout.directory / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    # A stream that is valid and says the same, but is not the one that was described.
    largest.write_bytes(gzip.compress(gzip.decompress(largest.read_bytes()), 1))
    done = labrun(tmp_path / "new", "--from", layout.directory)
    assert done.returncode == 1
    assert "is not what its digest says" in errors(done)[0]
    assert os.listdir(tmp_path) == ["layout"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "sha256:../../../../etc/passwd"}, "is not a digest"),
        ({"digest": "sha256:" + "0" * 64}, "is missing"),
        ({"size": 3}, "digest"),
        ({"size": "many"}, "damaged"),
        ({"digest": 7}, "is not a digest"),
        ({"size": 1 << 40}, "damaged"),
    ],
)
def test_a_descriptor_that_lies_is_refused(
    labrun: Labrun, tmp_path: Path, layout: Layout, change: dict[str, object], words: str
) -> None:
    image = layout.image(tar(member("bin", FOLDER)))
    done = labrun(tmp_path / "new", "--from", layout.index({**image, **change}))
    assert done.returncode == 1, done.stderr
    assert words in errors(done)[0]
    assert os.listdir(tmp_path) == ["layout"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"manifests": 1}', '{"manifests": [1]}', "[" * 100_000, '{"manifests": []}'],
)
def test_an_index_that_makes_no_sense_is_refused(
    labrun: Labrun, tmp_path: Path, layout: Layout, text: str
) -> None:
    (layout.directory / "index.json").write_text(text)
    done = labrun(tmp_path / "new", "--from", layout.directory)
    assert done.returncode in (1, 3)
    assert len(errors(done)) == 1
    assert os.listdir(tmp_path) == ["layout"]


def test_of_several_images_none_is_guessed(labrun: Labrun, tmp_path: Path, layout: Layout) -> None:
    images = [layout.image(tar(member(name, FOLDER))) for name in ("one", "two")]
    done = labrun(tmp_path / "new", "--from", layout.index(*images))
    assert done.returncode == 1
    assert "holds 2 images for this machine" in errors(done)[0]


def test_a_zstd_layer_arrives_where_zstd_is_and_is_refused_where_it_is_not(
    labrun: Labrun, tmp_path: Path, default: Path
) -> None:
    if not (zstd := shutil.which("zstd")):
        pytest.skip("no zstd on this machine")
    archive = tmp_path / "root.tar.zst"
    content = subprocess.run([zstd, "-c"], input=packed(default), capture_output=True).stdout
    archive.write_bytes(content)
    assert labrun(tmp_path / "new", "--from", archive).returncode == 0
    assert tree(tmp_path / "new") == tree(default)
    done = labrun(tmp_path / "other", "--from", archive, PATH="/nowhere")
    assert done.returncode == 3
    assert errors(done)[0].endswith("install the package zstd")
    archive.write_bytes(content[: len(content) // 2])
    assert labrun(tmp_path / "other", "--from", archive).returncode == 1


def test_the_old_format_of_docker_save_is_named(labrun: Labrun, tmp_path: Path) -> None:
    (tmp_path / "old.tar").write_bytes(
        tar((member("manifest.json"), json.dumps([{"Layers": ["x/layer.tar"]}]).encode()))
    )
    done = labrun(tmp_path / "new", "--from", tmp_path / "old.tar")
    assert done.returncode == 1
    assert "use docker export" in errors(done)[0]


def test_a_directory_that_is_no_layout_is_refused(labrun: Labrun, tmp_path: Path) -> None:
    done = labrun(tmp_path / "new", "--from", tmp_path)
    assert done.returncode == 1
    assert "is not an OCI layout" in errors(done)[0]
