"""The root file system from busybox: the article's, to the point."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labs import rootfs
from labs.errors import CANNOT, Refused
from labs.rootfs import apt, busybox, elf, staging
from labs.rootfs.interrupts import Interrupts
from tests.labs.rootfs.bench import (
    ARTICLE_PATH,
    Labrun,
    as_nobody,
    errors,
    needs_root,
    program,
    tree,
)

PYTHON = [sys.executable, "-I", "-S"]


def in_chroot(root: Path, *command: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `root`, looked for along `path` by execvpe, without a shell."""
    script = (
        "import os, sys, warnings; os.chroot(sys.argv[1]); os.chdir('/')\n"
        "try: os.execvpe(sys.argv[3], sys.argv[3:], {'PATH': sys.argv[2]})\n"
        "except FileNotFoundError: os._exit(127)"
    )
    return subprocess.run(
        [*PYTHON, "-c", script, str(root), path, *command],
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_has_the_directories_of_the_article(default: Path) -> None:
    # The article's own listing, without the busybox.tar that it left there.
    article = "bin dev etc home proc root sys tmp usr var"
    assert " ".join(sorted(os.listdir(default))) == article


def test_tmp_is_everybodys_and_sticky_and_nothing_else_is(default: Path) -> None:
    shared = [name for name, line in tree(default).items() if line.startswith("41777 ")]
    assert sorted(shared) == ["tmp", "var/tmp"]
    assert not [name for name, line in tree(default).items() if line.startswith("40777 ")]


def test_all_applets_are_relative_links_in_bin_alone(default: Path) -> None:
    links = {
        path.relative_to(default).parts[0]: os.readlink(path)
        for path in default.rglob("*")
        if path.is_symlink()
    }
    assert links == {"bin": "busybox"}
    assert len(os.listdir(default / "bin")) > len(busybox.NEEDED)
    assert os.listdir(default / "usr/bin") == os.listdir(default / "usr/sbin") == []


@needs_root
def test_ls_is_not_found_along_the_articles_path_and_bin_ls_is(default: Path) -> None:
    assert in_chroot(default, "ls", path=ARTICLE_PATH).returncode == 127
    assert in_chroot(default, "/bin/ls", path=ARTICLE_PATH).stdout.split() == sorted(
        os.listdir(default)
    )
    # The control: it is the path that decides.
    assert in_chroot(default, "ls", path="/bin").returncode == 0


@needs_root
def test_ip_route_in_a_chroot_prints_the_hosts_routes(default: Path) -> None:
    marked = 'ip link set lo up && ip route add 198.51.100.77/32 dev lo && exec "$@"'
    script = "import os,sys; os.chroot(sys.argv[1]); os.execv('/bin/ip', ['ip', 'route'])"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", marked, "sh", *PYTHON, "-c", script, str(default)],
        capture_output=True,
        text=True,
    )
    assert "198.51.100.77" in done.stdout, done.stderr


def test_two_runs_make_the_same_to_the_byte(labrun: Labrun, tmp_path: Path) -> None:
    assert labrun(tmp_path / "one").returncode == labrun(tmp_path / "two").returncode == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two") != {}
    times = {path.lstat().st_mtime for path in (tmp_path / "one").rglob("*")}
    assert times == {busybox.DATE}


def test_umask_makes_no_difference(labrun: Labrun, tmp_path: Path, default: Path) -> None:
    done = labrun(tmp_path / "new", prefix=["sh", "-c", 'umask 077; exec "$@"', "sh"])
    assert done.returncode == 0
    assert tree(tmp_path / "new") == tree(default)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_last_line_is_what_to_type_next(labrun: Labrun, tmp_path: Path) -> None:
    done = labrun("with space", cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith("stage1 run 'with space' /bin/sh")
    assert ("sudo" in done.stderr) == (os.geteuid() != 0)
    assert "sudo" in labrun("other", cwd=tmp_path, SUDO_UID="1000").stderr


def test_speaks_chinese(labrun: Labrun, tmp_path: Path) -> None:
    done = labrun("neu", "--lang", "zh", cwd=tmp_path)
    assert done.stderr.splitlines()[-1].startswith("下一步：")


def test_an_empty_directory_is_filled(labrun: Labrun, tmp_path: Path, default: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert labrun(tmp_path / "empty").returncode == 0
    assert tree(tmp_path / "empty") == tree(default)


def test_the_same_again_changes_nothing(labrun: Labrun, tmp_path: Path) -> None:
    target = tmp_path / "root"
    labrun(target)
    (target / "home/mine").write_text("a student's")
    inode = target.stat().st_ino
    again = labrun(target)
    assert again.returncode == 0
    assert "Nothing was changed" in again.stderr
    assert target.stat().st_ino == inode
    assert (target / "home/mine").read_text() == "a student's"


def test_something_else_is_left_alone(labrun: Labrun, tmp_path: Path) -> None:
    target = tmp_path / "root"
    labrun(target)
    (target / "etc/passwd").write_text("changed")
    before = tree(target)
    again = labrun(target)
    assert again.returncode == 1
    assert errors(again) == [
        f"labrun: {target}: is not empty, and holds something else: name another directory"
    ]
    assert tree(target) == before
    assert os.listdir(tmp_path) == ["root"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file", "exists and is not a directory"),
        ("link", "is a symbolic link"),
        ("full", "is not empty"),
        ("no/such/parent", "is not a directory"),
        (".", "is the directory you are in"),
        ("n" * 300, "File name too long"),
    ],
)
def test_where_nothing_can_be_put_one_line_says_so(
    labrun: Labrun, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "here").mkdir()
    where = tmp_path / "here" if name == "." else tmp_path
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    before = tree(tmp_path)
    done = labrun(name, cwd=where)
    assert done.returncode == 1
    assert len(errors(done)) == 1
    assert words in errors(done)[0]
    assert tree(tmp_path) == before


@needs_root
def test_a_mount_point_is_refused(labrun: Labrun, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs t "$0" && exec "$@"'
    done = labrun(
        tmp_path / "disk", prefix=["unshare", "-m", "sh", "-c", mount, str(tmp_path / "disk")]
    )
    assert done.returncode == 1
    assert "is a mount point" in errors(done)[0]


def test_a_directory_that_is_not_ours_to_write_is_refused(labrun: Labrun, place: Path) -> None:
    nobody = as_nobody()
    (place / "cache").mkdir()
    if nobody:
        shutil.chown(place / "cache", 65534, 65534)
    else:
        place.chmod(0o555)
    done = Labrun(place / "cache")(place / "new", prefix=nobody)
    place.chmod(0o755)
    assert done.returncode == 1
    assert "Permission denied: name a directory of your own, or use sudo" in errors(done)[0]


def test_an_ordinary_user_gets_one_too(place: Path, default: Path) -> None:
    if nobody := as_nobody():
        shutil.chown(place, 65534, 65534)
    done = Labrun(place / "cache")(place / "new", prefix=nobody)
    assert done.returncode == 0, done.stderr
    assert {*tree(place / "new")} == {*tree(default)}
    assert "sudo" in done.stderr.splitlines()[-1]


def test_an_unknown_source_is_a_mistake_of_usage(labrun: Labrun, tmp_path: Path) -> None:
    done = labrun(tmp_path / "new", "--from", "nonsense")
    assert done.returncode == 2
    assert "--from takes busybox, docker" in errors(done)[0]


def test_the_cached_one_is_made_once(
    cache: Path, default: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABRUN_CACHE", str(cache))
    inode = default.stat().st_ino
    assert rootfs.default() == default
    assert default.stat().st_ino == inode
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["bin/ls", "etc/passwd", "proc", "bin/busybox"])
def test_a_damaged_cached_one_is_made_anew(
    default: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("LABRUN_CACHE", str(tmp_path))
    shutil.copytree(default.parent.parent / "packages", tmp_path / "packages", symlinks=True)
    mine = rootfs.default()
    (mine / "home/extra").touch()
    assert (rootfs.default() / "home/extra").exists()
    broken = mine / damage
    if broken.is_dir():
        broken.rmdir()
    else:
        broken.unlink()
        broken.write_text("broken")
    assert rootfs.default() == mine
    assert tree(mine) == tree(default)
    assert os.listdir(mine.parent) in ([mine.name, ".lock"], [".lock", mine.name])


def test_a_static_busybox_on_the_path_is_used_and_a_dynamic_one_is_not(
    default: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busybox, "PLACES", ())
    monkeypatch.setattr(apt, "have", lambda: False)
    monkeypatch.setenv("LABRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    shutil.copy(default / "bin/busybox", tmp_path / "busybox")
    assert busybox.find(Interrupts()).path == tmp_path / "busybox"
    # This Python is an ELF file with a loader, as a distribution's dynamic busybox is.
    shutil.copy(os.path.realpath("/proc/self/exe"), tmp_path / "busybox")
    with pytest.raises(Refused, match="install the package busybox-static") as no:
        busybox.find(Interrupts())
    assert no.value.status == CANNOT


def test_a_busybox_that_lacks_applets_or_is_foreign_does_not_fit(
    default: Path, tmp_path: Path
) -> None:
    content = (default / "bin/busybox").read_bytes()
    ours = elf.ours()
    other = tmp_path / "busybox"
    other.write_bytes(content)
    other.chmod(0o755)
    assert busybox.fit(other)
    other.write_bytes(content[:18] + b"\xf3\0" + content[20:])
    assert elf.read(other) != ours
    assert not busybox.fit(other)
    assert not busybox.fit(program(tmp_path, "few", "echo ls; echo sh"))
    assert not busybox.fit(tmp_path / "missing")


def test_without_package_lists_apt_gets_private_ones_and_runs_no_hooks(
    place: Path, default: Path
) -> None:
    if not apt.have():
        pytest.skip("no apt on this machine")
    nobody = as_nobody()
    (place / "lists/partial").mkdir(parents=True)
    hook = place / "hook-ran"
    (place / "conf").write_text(
        f'Dir::State::lists "{place}/lists";\n'
        f'APT::Update::Post-Invoke {{ "touch {hook}"; }};\n'
        f'APT::Update::Pre-Invoke {{ "touch {hook}"; }};\n'
    )
    if nobody:
        shutil.chown(place, 65534, 65534)
    done = Labrun(place / "cache")(place / "new", prefix=nobody, APT_CONFIG=str(place / "conf"))
    assert done.returncode == 0, done.stderr
    assert os.listdir(place / "lists") == ["partial"]
    assert not hook.exists()
    assert sorted(os.listdir(place / "cache/packages")) == [".lock", "busybox-static"]


def test_what_apt_complains_of_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "apt-get", "echo 'E: no network' >&2; exit 100")
    program(tmp_path / "bin", "dpkg-deb", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with pytest.raises(Refused, match=r"E: no network.*--from docker") as no:
        apt.unpack("busybox-static", tmp_path, tmp_path, Interrupts())
    assert no.value.status == CANNOT


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    made: list[Path] = []

    def fill(root: Path, work: Path) -> None:
        (tmp_path / ".dead.abcd1234/root").mkdir(parents=True)
        made.append(root.parent)
        staging.sweep(tmp_path)
        assert root.is_dir()
        (root / "file").touch()

    staging.build(tmp_path / "living", fill, Interrupts())
    assert made[0].name.startswith(".living.")
    assert tree(tmp_path).keys() == {"living", "living/file"}


@needs_root
def test_nothing_is_removed_in_which_something_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "tree/mnt").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    script = (
        "from pathlib import Path; from labs.rootfs import staging\n"
        f"staging.remove(Path({str(tmp_path / 'tree')!r}))"
    )
    mount = f'mount --bind {tmp_path}/precious {tmp_path}/tree/mnt && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", script],
        cwd=Path(rootfs.__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert "umount" in done.stderr
    assert (tmp_path / "precious/file").exists()
