"""One suite for all storage drivers: a container's files are an ordinary file system's files.

Each test runs with mounts of its own. What a driver can't do as the others do is in a table here,
with the reason, and tested too.
"""

import errno
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import linux
from stages.stage4_overlayfs import storage
from tests.running import cannot, has_fuse
from tests.stages import storing
from tests.stages.operations import compare_with_plain, link, mount_again
from tests.stages.storing import Bench, apart, difference, file, folder, raises, sample, tar, tree

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.xdist_group("machine")]

DRIVERS = tuple(storage.DRIVERS)
LAYERED = ("overlay", "aufs")
"""Drivers that keep each layer by itself, and put them together when they mount."""
NO_DIRECTORY_RENAME = ("aufs",)
"""AUFS can't rename what is in lower branches, and says EXDEV; mv(1) copies then."""
MAPPING_STAYS = ("overlay",)
"""Who has mapped a file keeps the lower one; who has it open reads the copy (since Linux 4.19)."""


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Return a driver's name; skip what can't be had here, and say why."""
    name: str = request.param
    if name == "devicemapper":
        asked = subprocess.run(["dmsetup", "targets"], capture_output=True, text=True)
        if asked.returncode:
            pytest.skip(f"cannot: no device mapper: {asked.stderr.splitlines()[0]}")
    if name == "aufs" and not has_fuse():
        cannot("neither AUFS nor FUSE with its library (fuse3) is here")
    return name


@pytest.fixture(scope="module", autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a place for what takes long to make, and stays as it is."""
    Bench.shelf = tmp_path_factory.mktemp("shelf") / "store"
    yield
    Bench.shelf = None


# ---- what is written, deleted and made again


@apart
def test_a_write_lands_in_the_upper_layer_and_the_lower_stays_as_it_was(
    driver: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    fresh = tree(bench.container("fresh"))
    before, top = bench.inside(), bench.container()
    assert tree(top) == fresh
    Path(top, "etc/motd").write_text("mine")
    with open(f"{top}/usr/share/doc", "a", encoding="ascii") as opened:
        opened.write("more")
    os.chmod(f"{top}/su", 0o700)
    os.unlink(f"{top}/usr/share/man/one")
    os.truncate(f"{top}/two", 3)
    assert difference(bench.inside(), before) == {}
    assert difference(tree(bench.again("fresh")), fresh) == {}
    top = bench.again()
    assert Path(top, "etc/motd").read_text() == "mine"
    assert Path(top, "usr/share/doc").read_text() == "doc\nmore"
    bench.end("c1", "fresh")


@apart
def test_layers_are_in_their_order(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    assert Path(top, "etc/motd").read_text() == "hello again\n"
    assert Path(top, "etc/passwd").read_text() == "nobody\n"
    assert os.lstat(f"{top}/etc/passwd").st_uid == 0
    assert os.listdir(f"{top}/old") == ["new"]
    bench.end()


@apart
def test_a_directory_that_a_layer_only_implies_stays_as_it_was_below(
    driver: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(tar(folder("tmp", 0o1777, uid=5)), tar(file("tmp/a/b", b"b")))
    status = os.lstat(f"{bench.container()}/tmp")
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o1777, 5)
    bench.end()


@apart
def test_what_is_deleted_is_gone_and_comes_back_only_when_made_again(
    driver: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    os.unlink(f"{top}/etc/motd")
    shutil.rmtree(f"{top}/usr")
    os.unlink(f"{top}/link")
    for seen in (top, bench.again()):
        assert sorted(os.listdir(seen)) == ["etc", "old", "one", "srv", "su", "two"]
        assert sorted(os.listdir(f"{seen}/etc")) == ["passwd", "three"]
        with raises(errno.ENOENT):
            os.lstat(f"{seen}/etc/motd")
    Path(top, "etc/motd").touch()
    assert Path(bench.again(), "etc/motd").read_bytes() == b""
    bench.end()


@apart
def test_a_directory_made_again_has_nothing_of_the_old_one(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    shutil.rmtree(f"{top}/usr/share")
    os.mkdir(f"{top}/usr/share", 0o700)
    os.mkdir(f"{top}/usr/share/man")
    for seen in (top, bench.again()):
        assert list(storing.walk(f"{seen}/usr/share")) == ["man"]
        assert stat.S_IMODE(os.lstat(f"{seen}/usr/share").st_mode) & 0o777 == 0o700
    # A file where a directory was, and a directory where a file was.
    shutil.rmtree(f"{top}/old")
    Path(top, "old").write_text("file")
    os.unlink(f"{top}/link")
    os.mkdir(f"{top}/link")
    seen = bench.again()
    assert (Path(seen, "old").read_text(), os.listdir(f"{seen}/link")) == ("file", [])
    bench.end()


@apart
def test_a_directory_is_renamed_with_all_that_is_in_it(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    if driver in NO_DIRECTORY_RENAME:
        with raises(errno.EXDEV):
            os.rename(f"{top}/usr/share", f"{top}/share")
        subprocess.run(["mv", f"{top}/usr/share", f"{top}/share"], check=True)
    else:
        os.rename(f"{top}/usr/share", f"{top}/share")
    Path(top, "share/man/one").write_text("changed")
    for seen in (top, bench.again()):
        assert list(storing.walk(f"{seen}/share")) == ["doc", "man", "man/one", "man/two"]
        assert Path(seen, "share/man/one").read_text() == "changed"
        assert Path(seen, "share/man/two").read_text() == "2\n"
        assert os.listdir(f"{seen}/usr") == []
        status = os.lstat(f"{seen}/share")
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o2775, 3, 4)
    # One that the container made itself can be renamed anywhere.
    os.makedirs(f"{top}/mine/deep")
    os.rename(f"{top}/mine", f"{top}/usr/share")
    assert list(storing.walk(f"{bench.again()}/usr")) == ["share", "share/deep"]
    bench.end()


# ---- what a copy-up keeps


@apart
def test_hard_links_stay_one_file_when_one_of_them_is_written(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    with open(f"{top}/one", "a", encoding="ascii") as opened:
        opened.write("more")
    for seen in (top, bench.again()):
        for name in ("one", "two", "etc/three"):
            assert Path(seen, name).read_text() == "linked\nmore"
            assert os.lstat(f"{seen}/{name}").st_nlink == 3
            assert os.path.samefile(f"{seen}/one", f"{seen}/{name}")
    os.link(f"{top}/two", f"{top}/four")
    os.unlink(f"{top}/one")
    os.chmod(f"{top}/etc/three", 0o600)
    seen = bench.again()
    status = os.lstat(f"{seen}/four")
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 3)
    bench.end()


@apart
def test_names_of_a_file_are_counted_when_some_are_deleted(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    for gone, left in (("etc/three", ["one", "two"]), ("one", ["two"])):
        os.unlink(f"{top}/{gone}")
        assert [os.lstat(f"{top}/{name}").st_nlink for name in left] == [len(left)] * len(left)
    top = bench.again()
    os.link(f"{top}/two", f"{top}/four")
    assert os.lstat(f"{top}/two").st_nlink == 2
    os.rename(f"{top}/su", f"{top}/two")
    assert os.lstat(f"{top}/four").st_nlink == 1
    bench.end()


@apart
def test_owner_mode_times_and_attributes_survive_a_copy_up(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    os.utime(f"{top}/su", ns=(1, 2))
    status = os.lstat(f"{top}/su")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o4755, 2)
    assert os.getxattr(f"{top}/su", "user.colour") == b"blue"
    # The times of the directories on the way are those of the image: nobody changed anything there.
    os.chown(f"{top}/usr/share/man/one", 11, 12)
    for name in ("usr", "usr/share", "usr/share/man", "usr/share/man/one"):
        assert os.lstat(f"{top}/{name}").st_mtime == storing.WHEN, name
    os.setxattr(f"{top}/su", "user.shape", b"round")
    os.setxattr(f"{top}/usr", "user.shape", b"square")
    os.removexattr(f"{top}/su", "user.colour")
    seen = bench.again()
    assert os.listxattr(f"{seen}/su") == ["user.shape"]
    assert os.getxattr(f"{seen}/usr", "user.shape") == b"square"
    status = os.lstat(f"{seen}/usr/share/man/one")
    assert (status.st_uid, status.st_gid, status.st_size) == (11, 12, 2)
    bench.end()


@apart
def test_who_opened_a_file_before_its_copy_up_reads_the_copy(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    with open(f"{top}/etc/motd", "rb", buffering=0) as early:
        mapped = mmap.mmap(early.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[:5] == b"hello"
        with open(f"{top}/etc/motd", "r+b", buffering=0) as late:
            late.write(b"HELLO")
            late.flush()
        assert early.read() == b"HELLO again\n"
        stays = b"hello" if driver in MAPPING_STAYS else b"HELLO"
        assert mapped[:5] == stays
        mapped.close()
    assert Path(top, "etc/motd").read_bytes() == b"HELLO again\n"
    bench.end()


@apart
def test_a_file_that_is_deleted_while_open_stays_open(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    with open(f"{top}/etc/motd", "rb", buffering=0) as lower, open(f"{top}/n", "w+b", 0) as upper:
        upper.write(b"new")
        os.unlink(f"{top}/etc/motd")
        os.unlink(f"{top}/n")
        assert sorted(os.listdir(top)) == ["etc", "link", "old", "one", "srv", "su", "two", "usr"]
        assert "motd" not in os.listdir(f"{top}/etc")
        upper.seek(0)
        assert (lower.read(), upper.read()) == (b"hello again\n", b"new")
        assert os.fstat(upper.fileno()).st_size == 3
    assert "motd" not in os.listdir(f"{bench.again()}/etc")
    bench.end()


@apart
def test_an_ordinary_user_may_do_in_there_what_the_modes_say(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(tar(folder("all", 0o1777), folder("group", 0o2777, gid=9), file("no", b"", 0o600)))
    top = bench.container()
    for path in (*tmp_path.parents, tmp_path, *Path(top).parents):
        if str(path).startswith(str(tmp_path.parent)):
            path.chmod(0o755)
    child = linux.fork()
    if child == 0:
        try:
            os.chdir(top)
            os.setgroups([])
            os.setresgid(21, 21, 21)
            os.setresuid(20, 20, 20)
            os.mkdir("all/d")
            Path("all/f").touch()
            Path("group/f").touch()
            with raises(errno.EACCES):
                os.open("no", os.O_RDONLY)
            with raises(errno.EACCES):
                os.mkdir("mine")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    owners = [(os.lstat(f"{top}/{p}").st_uid, os.lstat(f"{top}/{p}").st_gid) for p in OWNED]
    assert owners == [(20, 21), (20, 21), (20, 9)]
    bench.end()


OWNED = ("all/d", "all/f", "group/f")


# ---- containers, and what is kept of them


@apart
def test_two_containers_of_one_image_do_not_see_each_other(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    one, two = bench.container("one"), bench.container("two")
    Path(one, "etc/motd").write_text("one")
    os.unlink(f"{two}/su")
    Path(two, "etc/new").touch()
    assert Path(two, "etc/motd").read_text() == "hello again\n"
    assert os.path.exists(f"{one}/su")
    assert not os.path.exists(f"{one}/etc/new")
    bench.end("one", "two")


@apart
def test_diff_says_what_docker_diff_says(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    assert bench.driver.diff("c1") == []
    Path(top, "etc/motd").write_text("mine")
    os.makedirs(f"{top}/var/lib")
    Path(top, "var/lib/x").touch()
    shutil.rmtree(f"{top}/usr")
    os.chmod(f"{top}/srv", 0o700)
    os.unlink(f"{top}/old/new")
    expected = [
        ("C", "/etc"),
        ("C", "/etc/motd"),
        ("C", "/old"),
        ("D", "/old/new"),
        ("C", "/srv"),
        ("D", "/usr"),
        ("A", "/var"),
        ("A", "/var/lib"),
        ("A", "/var/lib/x"),
    ]
    assert bench.driver.diff("c1") == expected
    bench.driver.unmount("c1")
    assert bench.driver.diff("c1") == expected
    bench.end()


@apart
def test_a_write_that_puts_size_and_time_back_is_a_change_too(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    time.sleep(0.02)  # the kernel's clock of files ticks every 10 ms at worst
    with open(f"{top}/srv/a", "r+b") as opened:
        opened.write(b"b")
    os.utime(f"{top}/srv/a", (storing.WHEN, storing.WHEN))
    assert bench.driver.diff("c1") == [("C", "/srv"), ("C", "/srv/a")]
    bench.end()


@apart
def test_a_committed_layer_is_the_same_tree_in_another_container(
    driver: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    change_everything(top)
    expected = tree(top)
    bench.driver.unmount("c1")
    bench.image(*bench.layers, bench.committed())
    assert difference(tree(bench.container("c2")), expected) == {}
    assert bench.driver.diff("c2") == []
    bench.end("c1", "c2")


def change_everything(top: str) -> None:
    subprocess.run(["mv", f"{top}/usr", f"{top}/var"], check=True)
    Path(top, "var/share/man/one").write_text("changed")
    with open(f"{top}/two", "a", encoding="ascii") as opened:
        opened.write("more")
    shutil.rmtree(f"{top}/old")
    os.mkdir(f"{top}/old")
    Path(top, "old/kept").write_text("again")
    os.unlink(f"{top}/srv/a")
    os.mkfifo(f"{top}/srv/pipe")
    os.symlink("nowhere", f"{top}/srv/link")
    os.setxattr(f"{top}/su", "user.shape", b"round")
    os.chown(f"{top}/link", 5, 6, follow_symlinks=False)
    os.utime(f"{top}/etc", ns=(5, 123456789))


@apart
def test_removed_while_it_is_mounted_it_leaves_nothing(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image(*sample())
    top = bench.container()
    # Deeper than a path may be long; but the union in user space has paths only.
    here = os.open(top, os.O_RDONLY)
    for _ in range(20 if driver == "aufs" else 40):
        os.mkdir("d" * 120, dir_fd=here)
        inner = os.open("d" * 120, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    bench.driver.remove("c1")
    bench.driver.remove("c1")
    bench.driver.unmount("c1")
    bench.end()


@apart
def test_an_image_without_layers_is_an_empty_directory(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    bench.image()
    top = bench.container()
    assert os.listdir(top) == []
    Path(top, "a").touch()
    assert bench.driver.diff("c1") == [("A", "/a")]
    bench.end()


@apart
def test_a_directory_is_used_as_it_is_and_never_changed(driver: str, tmp_path: Path) -> None:
    if driver == "devicemapper":
        pytest.skip("cannot: a device is no directory")
    root = tmp_path / "a:b,c\\d root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_text("lower")
    before = tree(str(root), inner=True)
    bench = Bench(tmp_path, driver)

    def no_tar() -> Any:
        raise AssertionError("it has none")

    bench.image((str(root), no_tar))
    top = bench.container()
    assert tree(top) == tree(str(root))
    (Path(top) / "sub/file").write_text("upper")
    (Path(top) / "proc").mkdir()
    assert bench.driver.diff("c1") == [("A", "/proc"), ("C", "/sub"), ("C", "/sub/file")]
    assert tree(str(root), inner=True) == before
    bench.driver.remove("c1")


@apart
def test_more_layers_than_a_page_of_mount_options_has_room_for(driver: str, tmp_path: Path) -> None:
    if driver not in LAYERED:
        pytest.skip("its layers are no branches of one mount")
    count = 200 if driver == "overlay" else 60
    bench = Bench(tmp_path, driver)
    bench.image(*(tar(file(f"f{n}", b"x"), file("last", b"%d" % n)) for n in range(count)))
    top = bench.container()
    assert len(os.listdir(top)) == count + 1
    assert Path(top, "last").read_text() == str(count - 1)
    bench.end()


# ---- killed, or many at once


@apart
def test_a_layer_is_there_whole_or_not_at_all(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver)
    good = sample()[0]
    whole = good[1]().read()

    class Breaks:
        def __init__(self) -> None:
            self.left = whole[:2000]

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            return

        def read(self, size: int = -1) -> bytes:
            part, self.left = self.left[:size], self.left[size:]
            if not part:
                raise OSError(errno.EIO, "the disk says no")
            return part

    with raises(errno.EIO):
        bench.driver.prepare([(good[0], lambda: Breaks())])  # type: ignore[list-item, return-value]
    assert [p for p in storing.walk(bench.root) if p.endswith("passwd")] == []
    assert os.listdir(f"{bench.root}/tmp") == []
    bench.image(good)
    assert Path(bench.container(), "etc/passwd").read_text() == "root\n"
    bench.end()


@apart
def test_a_driver_that_is_killed_leaves_no_half_layer(driver: str, tmp_path: Path) -> None:
    dice, began = random.Random(4), time.monotonic()
    good, whole = complete(tmp_path / "good", driver)
    turns, longest = 12, 0.06
    if driver == "devicemapper":
        # It takes a hundred times as long, most of it in programs that are not killed with it.
        turns, longest = 3, time.monotonic() - began
    for turn in range(turns):
        bench = Bench(tmp_path / str(turn), driver, empty=True)
        child = linux.fork()
        if child == 0:
            if driver == "devicemapper":
                # As with the runtime, its mounts go with it: what is mounted can't be deleted.
                linux.unshare(linux.CLONE_NEWNS)
            bench.driver.prepare(sample())
            bench.driver.mount("c1", sample())
            os._exit(0)
        time.sleep(dice.random() * longest)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        bench.driver.unmount("c1")
        bench.image(*sample())
        assert difference(tree(bench.container()), whole) == {}
        bench.remove_all()
    good.end()


def complete(path: Path, driver: str) -> tuple[Bench, dict[str, object]]:
    bench = Bench(path, driver, empty=True)
    bench.image(*sample())
    return bench, tree(bench.container())


@apart
def test_many_prepare_the_same_layers_at_once(driver: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, driver, empty=True)
    children = []
    for number in range(4):
        if (child := linux.fork()) == 0:
            try:
                bench.image(*sample())
                top = bench.container(f"c{number}")
                assert Path(top, "srv/a").read_text() == "a\n"
                bench.driver.unmount(f"c{number}")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ends == [0] * 4
    bench.image(*sample())
    bench.end(*(f"c{number}" for number in range(4)))


# ---- whatever is done, it ends as on an ordinary file system


EXAMPLES = {"overlay": 40, "vfs": 30, "aufs": 6, "devicemapper": 2}
"""Sequences that each is tried with: some take a hundred times as long to mount."""


@pytest.mark.once
@apart
def test_whatever_is_done_ends_in_the_same_tree_as_on_a_plain_copy(
    driver: str, tmp_path: Path
) -> None:
    slow = [mount_again] if EXAMPLES[driver] < 10 else []
    compare_with_plain(tmp_path, driver, sample(), EXAMPLES[driver], left_out=slow)


def apart_with_users(fact: Callable[..., None]) -> Callable[..., None]:
    """Have a test run in a user namespace, with mounts of its own."""
    return apart(fact, linux.CLONE_NEWNS | linux.CLONE_NEWUSER)


@apart_with_users
def test_overlay_works_inside_a_user_namespace(tmp_path: Path) -> None:
    # There the kernel refuses index and redirect_dir: the image has no hard links, nor are any
    # made, for of two names of a file that is copied up there would be two files; and what can't
    # be renamed is not compared.
    compare_with_plain(tmp_path, "overlay", sample(links=False), 12, left_out=[link])


@apart_with_users
def test_inside_a_user_namespace_hard_links_part_and_directories_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "overlay")
    bench.image(*sample())
    top = bench.container()
    with open(f"{top}/one", "a", encoding="ascii") as opened:
        opened.write("more")
    assert Path(top, "two").read_text() == "linked\n"
    with raises(errno.EXDEV):
        os.rename(f"{top}/usr/share", f"{top}/share")
    bench.end()


# ---- choosing


def test_a_driver_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="zfs: choose overlay, vfs, aufs, devicemapper"):
        storage.choose("zfs", "/nowhere")


@apart
def test_an_upper_layer_on_an_overlay_is_refused_with_the_remedy(tmp_path: Path) -> None:
    under = Bench(tmp_path / "under", "overlay")
    under.image(*sample())
    bench = Bench(Path(under.container()), "overlay")
    with pytest.raises(OSError, match="mknod") as caught:
        bench.image(*sample())
    assert caught.value.errno == errno.EPERM
    assert "--storage-driver vfs" in storage.why(caught.value)
    under.driver.unmount("c1")


def test_a_name_that_leads_elsewhere_is_no_container(tmp_path: Path) -> None:
    for name in ("", ".", "..", "a/b", "a:b", "a,b", "\\"):
        with pytest.raises(ValueError, match="no name for a container"):
            storage.choose("vfs", str(tmp_path)).remove(name)
