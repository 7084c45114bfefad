"""Stage 4 by the contract, as its caller sees it. Drivers, store and builds have other tests."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import (
    LABRUN,
    abandoned_groups,
    cannot,
    has_fuse,
    processes,
    run,
)
from tests.stages.faults import (
    OWN_NETWORK,
    calls_before_the_command,
    check_each_fails_closed,
    faulty,
    line_of,
)
from tests.stages.storing import difference, tree
from tests.stages.test_stage3 import LIMITS, gone

pytestmark = [
    pytest.mark.usefixtures("as_root", "shop", "nothing_is_left"),
    pytest.mark.xdist_group("machine"),
]

ALL = "pid,net,mnt,ipc,uts,user,cgroup,time"
QUIET = ("--net", "none")
DRIVERS = ("overlay", "vfs", "aufs")
CHANGES = (
    "echo new >/new; rm /etc/passwd; echo more >>/etc/group; mkdir /etc/profile.d; chmod 700 /etc"
)


def said(ended: subprocess.CompletedProcess[bytes]) -> str:
    return line_of(ended, "stage4")


def inside(stage4: str, script: str, *options: str, root: str = "box") -> str:
    """Return what a shell script prints in a container that is removed afterwards."""
    line = [stage4, "run", "--rm", *QUIET, *options, root, "/bin/sh", "-c", script]
    ended = run(line)
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout.decode().strip()


def answer(stage4: str, *words: str) -> str:
    """Return what a command other than `run` prints."""
    ended = run([stage4, *words])
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    return ended.stdout.decode().strip()


def refused(stage4: str, *words: str) -> str:
    """Return the one line of a command that fails, which `run` does before anything runs."""
    ended = run([stage4, *words])
    assert ended.returncode == 125, ended
    return said(ended)


@pytest.fixture(scope="module")
def stock(stage4: str, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with an image, `box`, of the busybox root, unpacked for each driver."""
    # Before any test's own fixtures, as it is made once for all of them.
    if os.geteuid() != 0:
        pytest.skip("cannot: needs root")
    store = tmp_path_factory.mktemp("store")
    environment = {"LABRUN_STORE": str(store)}
    line = [stage4, "image", "import", str(rootfs), "box"]
    assert run(line, environment=environment).returncode == 0
    for driver in available():
        line = [stage4, "run", "--rm", *QUIET, "--storage-driver", driver, "box", "/bin/true"]
        assert run(line, environment=environment).returncode == 0
    return store


@pytest.fixture
def shop(stage4: str, stock: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have `stage4` use that store, and see that the test leaves it, and the image, as it was."""
    monkeypatch.setenv("LABRUN_STORE", str(stock))
    unpacked = [path for path in stock.glob("layers/*/*") if len(path.name) == 64]
    before = {str(path): tree(str(path), inner=True) for path in unpacked}
    yield stock
    left = residue(stock)
    for container in (stock / "containers").iterdir():  # or the next test would find it, too
        run([stage4, "rm", container.name])
    assert left == []
    for path, facts in before.items():
        assert difference(tree(path, inner=True), facts) == {}


def available() -> list[str]:
    """Return the drivers that can be had on this machine, of those that need no preparation."""
    return [name for name in DRIVERS if name != "aufs" or has_fuse()]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in available():
        cannot("neither AUFS nor FUSE with its library (fuse3) is here")
    return name


def residue(store: Path) -> list[str]:
    """Return what a run has left: containers, unfinished files, mounts, processes."""
    left = [str(path) for part in ("containers", "tmp") for path in (store / part).iterdir()]
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    left += [row for row in table if str(store) in row]
    return left + processes(f"{store}/containers")


def copy_of(rootfs: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", str(rootfs), str(target)], check=True)
    return target


@pytest.fixture
def kept(stage4: str, shop: Path) -> Iterator[str]:
    """Return the name of a container that is there, with changes in it."""
    line = [stage4, "run", *QUIET, "--name", "kept", "box", "/bin/sh", "-c", CHANGES]
    assert run(line).returncode == 0
    yield "kept"
    if any(shop.glob("containers/*/name")):
        answer(stage4, "rm", "kept")


# ---- what is written, and where


def test_a_directory_stays_as_it_is_and_the_container_has_the_changes(
    stage4: str, rootfs: Path, shop: Path, driver: str, tmp_path: Path
) -> None:
    root = copy_of(rootfs, tmp_path / "root")
    before = tree(str(root), inner=True)
    line = [stage4, "run", *QUIET, "--name", "writer", "--storage-driver", driver, str(root)]
    ended = run([*line, "/bin/sh", "-c", f"{CHANGES}; cat /new; ls -d /etc/passwd /etc/profile.d"])
    assert ended.stdout == b"new\n/etc/profile.d\n"
    assert difference(tree(str(root), inner=True), before) == {}
    told = ["C /etc", "C /etc/group", "A /etc/profile.d", "D /etc/passwd", "A /new"]
    assert sorted(answer(stage4, "diff", "writer").splitlines()) == sorted(told)
    answer(stage4, "rm", "writer")
    assert difference(tree(str(root), inner=True), before) == {}


def test_a_write_to_an_image_lands_in_upper_and_a_delete_is_a_whiteout(
    stage4: str, shop: Path, kept: str
) -> None:
    (upper,) = shop.glob("containers/*/overlay/upper")
    assert (upper / "new").read_text() == "new\n"
    assert (upper / "etc/group").read_text().endswith("more\n")
    whiteout = os.lstat(upper / "etc/passwd")
    assert (oct(whiteout.st_mode & 0o170000), whiteout.st_rdev) == ("0o20000", 0)
    assert sorted(os.listdir(upper)) == ["etc", "new"]
    # Nobody else sees it.
    assert inside(stage4, "ls /new /etc/passwd 2>/dev/null || true") == "/etc/passwd"
    assert answer(stage4, "image", "verify") == ""


def test_an_image_needs_no_place_for_proc_and_the_room_made_is_no_change(
    stage4: str, rootfs: Path, driver: str, tmp_path: Path
) -> None:
    root = copy_of(rootfs, tmp_path / "root")
    for name in ("proc", "sys", "dev"):
        shutil.rmtree(root / name)
    line = [stage4, "run", *QUIET, "--name", "roomy", "--storage-driver", driver]
    line += ["-v", f"{tmp_path}:/a/b", "--tmpfs", "/c", "-v", "/etc/hostname:/d/name:ro"]
    ended = run([*line, str(root), "/bin/sh", "-c", "test -e /proc/self && ls / /a /d"])
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert {b"proc", b"sys", b"dev", b"b", b"c", b"name"} <= {*ended.stdout.split()}
    assert answer(stage4, "diff", "roomy") == ""
    answer(stage4, "rm", "roomy")
    assert not {"proc", "a", "c", "d"} & {*os.listdir(root)}


def test_what_a_command_puts_where_room_was_made_is_a_change(
    stage4: str, rootfs: Path, tmp_path: Path
) -> None:
    line = [stage4, "run", *QUIET, "--name", "roomy", "-v", f"{tmp_path}:/a/b", "box"]
    assert run([*line, "/bin/touch", "/a/file"]).returncode == 0
    assert answer(stage4, "diff", "roomy").splitlines() == ["A /a", "A /a/file"]
    answer(stage4, "rm", "roomy")


def test_two_containers_of_one_image_see_nothing_of_each_other(stage4: str) -> None:
    script = "echo $1 >/mine; echo up; read a; cat /mine; ls /"
    line = [stage4, "run", "--rm", *QUIET, "box", "/bin/sh", "-c", script, "sh"]
    both = [
        subprocess.Popen([*line, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for word in ("one", "two")
    ]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
    texts = [process.communicate()[0].split() for process in both]
    assert [text[0] for text in texts] == [b"one", b"two"]


@pytest.mark.parametrize("status", [0, 7])
def test_with_rm_nothing_is_left_however_the_command_ends(
    stage4: str, shop: Path, driver: str, status: int
) -> None:
    line = [stage4, "run", "--rm", *QUIET, "--storage-driver", driver, "--name", "brief", "box"]
    ended = run([*line, "/bin/sh", "-c", f"{CHANGES}; exit {status}"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, b"", b"")
    assert residue(shop) == []
    assert not abandoned_groups()
    # Without --rm it is there; the look itself can fail.
    assert run([word for word in [*line, "/bin/true"] if word != "--rm"]).returncode == 0
    assert residue(shop) != []
    answer(stage4, "rm", "brief")


def test_a_command_that_can_t_be_started_leaves_nothing_with_rm(stage4: str, shop: Path) -> None:
    for command, status in (("/bin/none", 127), ("/etc", 126)):
        assert run([stage4, "run", "--rm", *QUIET, "box", command]).returncode == status
    assert residue(shop) == []


# ---- what is kept: diff, commit, rm


def test_a_kept_container_becomes_an_image_that_runs_with_its_changes(
    stage4: str, shop: Path, kept: str
) -> None:
    digest = answer(stage4, "commit", kept, "changed")
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    script = "cat /new; ls /etc/passwd 2>/dev/null; tail -n 1 /etc/group; stat -c %a /etc"
    for driver in available():
        text = inside(stage4, script, "--storage-driver", driver, root="changed")
        assert text.split() == ["new", "more", "700"]
    # The container goes, the image stays; and prune then has nothing of it to keep.
    answer(stage4, "rm", kept)
    assert inside(stage4, "cat /new", root="changed") == "new"
    answer(stage4, "image", "rm", "changed")
    assert "removed:" in answer(stage4, "image", "prune")
    assert "changed" not in answer(stage4, "image", "ls")
    assert inside(stage4, "ls /new 2>/dev/null || echo none") == "none"
    assert answer(stage4, "image", "verify") == ""


def test_a_container_is_found_by_its_id_or_how_that_begins(
    stage4: str, shop: Path, kept: str
) -> None:
    (folder,) = (shop / "containers").iterdir()
    for word in (folder.name, folder.name[:4], kept):
        assert "A /new" in answer(stage4, "diff", word)
    answer(stage4, "rm", folder.name[:6])
    assert residue(shop) == []


def test_a_name_that_is_taken_or_none_is_refused(stage4: str, shop: Path, kept: str) -> None:
    taken = refused(stage4, "run", *QUIET, "--name", kept, "box", "/bin/echo", "ran")
    assert re.search(r"--name kept: container \w{12} has this name: `rm kept` removes it", taken)
    for name in ("a", "-a", "_a", "a/b", "..", "ü-ü", "a b", "a\nb", ".ab"):
        line = refused(stage4, "run", *QUIET, f"--name={name}", "box", "/bin/echo", "ran")
        assert "say letters, digits and _ . - (two at least)" in line
    assert len(list((shop / "containers").iterdir())) == 1


def test_a_container_that_is_running_is_not_removed(stage4: str, shop: Path) -> None:
    line = [stage4, "run", *QUIET, "--name", "busy", "box"]
    with holding(*line):
        assert "it is running: end its command first" in refused(stage4, "rm", "busy")
    answer(stage4, "rm", "busy")


@pytest.mark.parametrize("verb", ["diff", "rm", "commit"])
def test_a_container_that_there_is_not_is_named(stage4: str, verb: str) -> None:
    more = ["image"] if verb == "commit" else []
    for word in ("none", "..", "", "a/b"):
        assert "no container has this name or ID" in refused(stage4, verb, word, *more)


# ---- volumes, read-only roots, tmpfs


def test_a_directory_from_outside_is_at_a_path_that_the_image_hasn_t(
    stage4: str, driver: str, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("outside\n")
    script = "cat /srv/deep/data/there; echo inside >/srv/deep/data/new"
    options = ("-v", f"{tmp_path}:/srv/deep/data", "--storage-driver", driver)
    assert inside(stage4, script, *options) == "outside"
    assert (tmp_path / "new").read_text() == "inside\n"


def test_a_file_from_outside_is_over_one_of_the_images_and_at_a_new_path(
    stage4: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("outside\n")
    for target in ("/etc/passwd", "/none/yet"):
        option = ("-v", f"{tmp_path}/file:{target}")
        assert inside(stage4, f"cat {target}; echo more >>{target}", *option).startswith("outside")
    assert (tmp_path / "file").read_text() == "outside\nmore\nmore\n"


def test_a_volume_may_be_for_reading_only(stage4: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    script = "touch /v/new /v/below/new || touch /new && echo ran"
    line = [stage4, "run", "--rm", *QUIET, "-v", f"{tmp_path}:/v:ro", "box", "/bin/sh", "-c"]
    ended = run([*line, script])
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")
    assert ended.stderr.count(b"Read-only file system") == 2
    assert os.listdir(tmp_path) == ["below"]
    inside(stage4, "touch /v/new", "-v", f"{tmp_path}:/v:rw")
    assert sorted(os.listdir(tmp_path)) == ["below", "new"]


def test_read_only_holds_for_what_is_mounted_below_the_volume_too(
    stage4: str, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    script = 'mount -t tmpfs lab "$1/below"; exec "$2" run --rm --net none -v "$1:/v:ro" box'
    script += " /bin/touch /v/below/new"
    ended = run(["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), stage4])
    assert (ended.returncode, b"Read-only file system" in ended.stderr) == (1, True)


@pytest.mark.parametrize("link", ["{outside}", "../../../../../..{outside}"])
def test_a_link_of_the_image_leads_a_volume_nowhere_outside(
    stage4: str, rootfs: Path, driver: str, tmp_path: Path, link: str
) -> None:
    outside, data, file = tmp_path / "outside", tmp_path / "data", tmp_path / "file"
    outside.mkdir()
    data.mkdir()
    file.write_text("text")
    root = copy_of(rootfs, tmp_path / "root")
    (root / "way").symlink_to(link.format(outside=outside))
    (root / "end").symlink_to(link.format(outside=f"{outside}/end"))
    line = [stage4, "run", "--rm", *QUIET, "--storage-driver", driver]
    line += ["-v", f"{data}:/way/deep", "-v", f"{file}:/end:ro", str(root), "/bin/sh", "-c"]
    # First nothing is where the links lead; then the image has it.
    for _ in range(2):
        ended = run([*line, f"cat {outside}/end; echo >/way/deep/new; ls {outside}"])
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout.split() == [b"textdeep", b"end"]
        assert (os.listdir(outside), os.listdir(data)) == ([], ["new"])
        (root / str(outside)[1:]).mkdir(parents=True, exist_ok=True)
        (root / str(outside)[1:] / "end").touch()


def test_a_link_of_the_image_that_leads_in_a_circle_is_named(
    stage4: str, rootfs: Path, tmp_path: Path
) -> None:
    root = copy_of(rootfs, tmp_path / "root")
    (root / "way").symlink_to("/way")
    line = ["run", "--rm", *QUIET, "-v", f"{tmp_path}:/way/v", str(root), "/bin/echo", "ran"]
    assert "way/v: Too many levels of symbolic links" in refused(stage4, *line)


def test_a_volume_that_is_not_there_is_made_as_docker_does(stage4: str, tmp_path: Path) -> None:
    inside(stage4, "echo >/v/new", "-v", f"{tmp_path}/a/b:/v")
    assert os.listdir(tmp_path / "a/b") == ["new"]


def test_a_path_from_here_is_a_volume_too(stage4: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    line = [stage4, "run", "--rm", *QUIET, "-v", "./data:/v", "box", "/bin/touch", "/v/new"]
    assert run(line, cwd=tmp_path).returncode == 0
    assert os.listdir(tmp_path / "data") == ["new"]


def test_volumes_may_be_in_each_other_in_whatever_order(stage4: str, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    options = ("-v", f"{tmp_path}/inner:/a/b/c", "-v", f"{tmp_path}/outer:/a/b")
    assert inside(stage4, "ls /a/b /a/b/c", *options).split() == [
        *("/a/b:", "c", "outer", "/a/b/c:", "inner"),
    ]
    # The place for the inner one is in the outer one, and stays there, as with Docker.
    assert sorted(os.listdir(tmp_path / "outer")) == ["c", "outer"]
    line = ["run", "--rm", *QUIET, "-v", f"{tmp_path}/outer:/a/b:ro", "--tmpfs", "/a/b/d", "box"]
    why = "DST is to be in a volume that is read-only: make it there first, outside"
    assert why in refused(stage4, *line, "/bin/echo", "ran")
    line = ["run", "--rm", *QUIET, "-v", f"{tmp_path}/outer:/a/b", "--tmpfs", "/a/b/outer", "box"]
    assert "--tmpfs /a/b/outer: Not a directory" in refused(stage4, *line, "/bin/echo", "ran")


def test_a_read_only_root_takes_no_write_but_volumes_and_tmpfs_do(
    stage4: str, driver: str, tmp_path: Path
) -> None:
    script = "for d in / /etc /tmp /v /dev; do touch $d/x 2>/dev/null && echo $d; done; true"
    options = ("--read-only", "--tmpfs", "/tmp", "-v", f"{tmp_path}:/v", "--storage-driver", driver)
    assert inside(stage4, script, *options).split() == ["/tmp", "/v", "/dev"]
    assert inside(stage4, script, "--storage-driver", driver).split() == [
        *("/", "/etc", "/tmp", "/dev"),
    ]


def test_a_tmpfs_is_empty_and_of_the_container_only(stage4: str) -> None:
    script = "ls /etc; touch /etc/x; grep ' /etc ' /proc/self/mountinfo"
    text = inside(stage4, script, "--tmpfs", "/etc")
    assert re.search(r" /etc rw,nosuid,nodev,noexec,.* - tmpfs ", text)
    assert len(text.splitlines()) == 1
    assert "passwd" in inside(stage4, "ls /etc")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-v", "data:/v"], "--volume data:/v: SRC has to be a path: say ./data for one from here"),
        (["-v", "/tmp:v"], "--volume /tmp:v: DST has to be an absolute path, and not / itself"),
        (["-v", "/tmp:/"], "DST has to be an absolute path, and not / itself"),
        (["-v", "/tmp:/a/.."], "DST has to be an absolute path, and not / itself"),
        (["-v", "/tmp"], "DST has to be an absolute path"),
        (["-v", ""], "SRC has to be a path"),
        (["-v", "/tmp:/v:rx"], "--volume /tmp:/v:rx: rx is none of ro, rw"),
        (["--tmpfs", "v"], "--tmpfs v: DST has to be an absolute path"),
        (["--tmpfs", "/"], "--tmpfs /: DST has to be an absolute path, and not / itself"),
        (["--storage-driver", "zfs"], "--storage-driver zfs: choose overlay, vfs, aufs"),
        (["--read-only", "--namespaces", "pid"], "--read-only: it is a mount: add mnt"),
        (["-v", "/tmp:/v", "--namespaces", "pid"], "--volume /tmp:/v: it is a mount: add mnt"),
        (["--tmpfs", "/v", "--namespaces", "pid"], "--tmpfs /v: it is a mount: add mnt"),
        (["-v", "/tmp:/etc/passwd"], "--volume /tmp:/etc/passwd: Not a directory: SRC is a dir"),
        (["-v", "/etc/passwd:/etc"], "--volume /etc/passwd:/etc: Is a directory: SRC is a file"),
        (["--tmpfs", "/etc/passwd"], "--tmpfs /etc/passwd: Not a directory: DST is a file there"),
        (["-v", "/tmp:/etc/passwd/v"], 'etc/passwd/v", O_PATH'),
        (["-v", "/tmp:/etc/passwd/v"], "a part of DST, the path inside, is a file there"),
        (["-w", "/none"], "ROOT has no such directory"),
        (["-w", "none"], "--workdir none: not an absolute path"),
    ],
)
def test_what_cannot_be_fulfilled_is_125_and_nothing_runs(
    stage4: str, shop: Path, options: list[str], why: str
) -> None:
    line = refused(stage4, "run", "--rm", *QUIET, *options, "box", "/bin/echo", "ran")
    assert why in line
    assert residue(shop) == []


# ---- drivers


def test_the_root_is_the_drivers_mount(stage4: str, driver: str, shop: Path) -> None:
    kind = {"overlay": "overlay", "vfs": "ext4", "aufs": "fuse"}[driver]
    row = inside(stage4, "grep ' / / \\| / ' /proc/self/mountinfo", "--storage-driver", driver)
    found = row.splitlines()[0].partition(" - ")[2].split()[0]
    if driver == "vfs":
        assert found not in ("overlay", "fuse")
    else:
        assert found.startswith(kind) or found == "aufs"


def test_a_driver_that_can_t_be_had_here_says_what_it_takes(stage4: str, shop: Path) -> None:
    if run(["dmsetup", "targets"]).returncode == 0 if shutil.which("dmsetup") else False:
        pytest.skip("cannot: here it can be had")
    driver = ("--storage-driver", "devicemapper")
    line = refused(stage4, "run", *QUIET, *driver, "box", "/bin/echo", "ran")
    assert "say --storage-driver overlay" in line
    assert residue(shop) == []


def test_without_mounts_of_its_own_a_container_is_on_its_layers_too(stage4: str) -> None:
    text = inside(stage4, f"{CHANGES}; cat /new", "--namespaces", "pid,uts")
    assert text == "new"


# ---- what an image says of its command


@pytest.fixture
def told(stage4: str, shop: Path) -> Iterator[str]:
    """Return the name of an image with a configuration."""
    line = [stage4, "run", *QUIET, "--name", "made", "box", "/bin/mkdir", "-m", "777", "/work"]
    assert run(line).returncode == 0
    words = ['ENTRYPOINT ["/bin/echo", "entry"]', 'CMD ["and", "command"]', "WORKDIR /work"]
    changes = [word for change in [*words, "USER 1000:7"] for word in ("-c", change)]
    answer(stage4, "commit", *changes, "made", "told")
    answer(stage4, "rm", "made")
    yield "told"
    answer(stage4, "image", "rm", "told")
    answer(stage4, "image", "prune")


def test_without_a_command_it_is_the_images(stage4: str, told: str) -> None:
    ended = run([stage4, "run", "--rm", *QUIET, told])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"entry and command\n", b"")


def test_directory_and_user_are_the_images_unless_the_caller_says_others(
    stage4: str, told: str
) -> None:
    script = "pwd; id -u; id -g; id -G; touch x; stat -c %u:%g x"
    assert inside(stage4, script, root=told).split() == ["/work", "1000", "7", "7", "1000:7"]
    assert inside(stage4, "pwd", "-w", "/etc", root=told) == "/etc"


def test_the_wish_to_die_with_the_runtime_comes_after_the_change_of_user(
    stage4: str, told: str
) -> None:
    # That undoes it: prctl(2), PR_SET_PDEATHSIG. The keeper of the group would be too late a help.
    ended = run([stage4, "run", "--rm", *QUIET, "--trace", told])
    calls = re.findall(r"(?m)^\[\d+\] (setresuid|prctl|close_range|chdir)\(", ended.stderr.decode())
    assert ended.returncode == 0
    assert calls[calls.index("setresuid") :] == ["setresuid", "prctl"]
    assert "close_range" in calls[: calls.index("setresuid")]


def test_an_image_without_a_command_needs_one(stage4: str) -> None:
    assert refused(stage4, "run", "box").endswith("box: the image has no command: say one")


def test_a_directory_needs_a_command(stage4: str, rootfs: Path) -> None:
    ended = run([stage4, "run", str(rootfs)])
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"stage4: it needs a ROOT and a COMMAND")


def test_a_user_that_the_image_has_not_is_named(stage4: str, kept: str) -> None:
    answer(stage4, "commit", "-c", "USER nosuch", kept, "users")
    line = refused(stage4, "run", "--rm", *QUIET, "users", "/bin/echo", "ran")
    assert "nosuch: no user of the image's /etc/passwd: say a number" in line
    answer(stage4, "image", "rm", "users")
    answer(stage4, "image", "prune")


# ---- ROOT, or the name of an image


def test_a_name_that_no_image_has_is_named_and_a_directory_is_hinted_at(
    stage4: str, rootfs: Path, tmp_path: Path
) -> None:
    line = refused(stage4, "run", *QUIET, "none", "/bin/echo", "ran")
    assert "no image has this name: `image ls` lists them, `image import` brings one" in line
    copy_of(rootfs, tmp_path / "here")
    ended = run([stage4, "run", *QUIET, "here", "/bin/echo", "ran"], cwd=tmp_path)
    assert ended.returncode == 125
    assert "no image has this name: for the directory say ./here" in said(ended)
    for root in ("./here", "../" + tmp_path.name + "/here", str(tmp_path / "here")):
        ended = run([stage4, "run", "--rm", *QUIET, root, "/bin/echo", "ran"], cwd=tmp_path)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ran\n", b"")
    ended = run([stage4, "run", "--rm", *QUIET, ".", "/bin/echo", "ran"], cwd=tmp_path / "here")
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")


@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("/no/such", "there is no such directory"),
        ("./none", "there is no such directory"),
        ("/etc/passwd", "ROOT has to be a directory"),
        ("Upper/Case", "Upper/Case"),
        ("a:b:c", "a:b:c"),
        ("sha256:00", "sha256:00"),
        (f"sha256:{'0' * 64}", "the store has no such blob"),
        ("a\nb", "a\\nb"),
    ],
)
def test_a_bad_root_is_named(stage4: str, shop: Path, root: str, why: str) -> None:
    assert why in refused(stage4, "run", *QUIET, root, "/bin/true")
    assert residue(shop) == []


def test_an_image_is_had_by_its_digest_too(stage4: str) -> None:
    digest = answer(stage4, "image", "ls").splitlines()[1].split()[1]
    assert digest.startswith("sha256:")
    found = answer(stage4, "image", "inspect", "box")
    whole = re.search(rf"{digest}[0-9a-f]+", found)
    assert whole
    assert inside(stage4, "echo ran", root=whole[0]) == "ran"


def test_a_store_that_can_t_be_is_named(stage4: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for where in (tmp_path / "file", tmp_path / "file/below"):
        given = {"LABRUN_STORE": str(where)}
        for line in (["run", *QUIET, "box", "/bin/echo", "ran"], ["image", "ls"], ["rm", "x"]):
            ended = run([stage4, *line], environment=given)
            assert (ended.returncode, str(where) in said(ended)) == (125, True)


def test_a_full_disk_is_named_with_the_remedy_and_nothing_is_left(
    stage4: str, rootfs: Path, tmp_path: Path
) -> None:
    script = """
        mount -t tmpfs -o size=6m store "$1"; export LABRUN_STORE="$1/store"
        "$2" image import "$3" box >/dev/null && head -c 3m /dev/zero >"$1/filler"
        "$2" run --net none box /bin/echo ran; echo $?; ls -A "$LABRUN_STORE/containers"
    """
    ended = run(["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), stage4, str(rootfs)])
    assert ended.stdout == b"125\n"
    (line,) = ended.stderr.decode().splitlines()
    assert "No space left on device: make room where the store is: `image prune`" in line


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("image", "import", "/no/such", "x"), "/no/such: No such file"),
        (("image", "import", "/etc/passwd", "x"), "/etc/passwd: not a tar"),
        (("image", "import", "/etc", "UPPER"), "UPPER: not an image's name"),
        (("image", "export", "box", "/no/such/x.tar"), "/no/such: no such directory: make it"),
        (("image", "export", "box", "/no/such/x"), "/no/such: no such directory: make it"),
        (("image", "export", "box", "/etc"), "/etc: something is there already"),
        (("image", "export", "none", "/tmp/x.tar"), "no image has this name"),
        (("image", "rm", "none"), "no image has this name"),
        (("image", "history", "none"), "no image has this name"),
        (("image", "inspect", "a b"), "a b: not an image's name"),
        (("build", "/no/such"), "/no/such: no such directory: name that of the Dockerfile"),
        (("build", "/proc/self"), "Dockerfile: no such Dockerfile: say which with -f"),
        (("build", "-t", "UPPER", "/proc/self"), "UPPER: not an image's name"),
        (("build", "--storage-driver", "zfs", "/etc"), "zfs: choose overlay, vfs, aufs"),
    ],
)
def test_what_another_command_can_t_do_is_one_line(
    stage4: str, shop: Path, words: tuple[str, ...], why: str
) -> None:
    assert why in refused(stage4, *words)
    assert residue(shop) == []


def test_a_container_of_a_directory_is_no_image(stage4: str, rootfs: Path, shop: Path) -> None:
    line = [stage4, "run", *QUIET, "--name", "plain", str(rootfs), "/bin/touch", "/new"]
    assert run(line).returncode == 0
    assert "it was made from a directory, not from an image" in refused(
        stage4, "commit", "plain", "made"
    )
    assert answer(stage4, "diff", "plain") == "A /new"
    answer(stage4, "rm", "plain")
    # Where some can't be removed, the others are.
    assert run(line).returncode == 0
    assert "none: no container has this name or ID: there is plain" in refused(
        stage4, "rm", "none", "plain"
    )
    assert residue(shop) == []


def test_for_root_of_a_user_namespace_an_images_files_are_nobodys(stage4: str) -> None:
    # Uid 0 inside is 100000 outside, and no file is that user's: as in the stages before.
    script = "id -u; stat -c %U /etc; echo >/new; touch /tmp/new && echo tmp"
    line = [stage4, "run", "--rm", *QUIET, "--namespaces", ALL, "box", "/bin/sh", "-c", script]
    ended = run(line)
    assert ended.stdout.split() == [b"0", b"nobody", b"tmp"]
    assert b"can't create /new: Permission denied" in ended.stderr


# ---- usage


def test_the_usage_has_each_option_and_each_command(stage4: str) -> None:
    ended = run([stage4, "--help"])
    text = ended.stdout.decode()
    assert (ended.returncode, ended.stderr) == (0, b"")
    options = ("--name NAME", "--rm", "-v, --volume SRC:DST[:ro]", "--read-only", "--tmpfs DST")
    verbs = ("image import", "image verify", "image prune", "build", "commit", "diff", "rm")
    for word in (*options, "--storage-driver NAME", *verbs):
        assert word in text
    for verb in verbs:
        ended = run([stage4, *verb.split(), "--help"])
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout.startswith(f"Usage: stage4 {verb} ".encode())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "it needs a command"),
        (("frob",), "there is no command 'frob'"),
        (("image",), "image needs a command"),
        (("image", "frob"), "there is no command 'image frob'"),
        (("image", "import", "x"), "image import needs"),
        (("image", "ls", "x"), "image ls needs no operands"),
        (("diff",), "diff needs CONTAINER"),
        (("rm",), "rm needs CONTAINER..."),
        (("commit", "x"), "commit needs CONTAINER NAME"),
        (("build",), "build needs"),
        (("diff", "--frob", "x"), "unknown option --frob"),
        (("run",), "it needs a ROOT or an IMAGE, and a COMMAND"),
        (("run", "--frob", "box"), "unknown option --frob"),
        (("run", "--name"), "--name needs a value, NAME"),
        (("run", "--rm=1", "box"), "--rm takes no value"),
        (("run", "box", ""), "COMMAND is empty"),
    ],
)
def test_a_command_line_that_is_off_is_2_with_usage(
    stage4: str, words: tuple[str, ...], why: str
) -> None:
    ended = run([stage4, *words])
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.decode().startswith(f"stage4: {why}")
    assert b"Usage: stage4" in ended.stderr or b"Images and containers:" in ended.stderr


def test_stage_3_has_none_of_these_options(stage3: str, rootfs: Path) -> None:
    for option in ("--name", "--rm", "--volume", "-v", "--read-only", "--tmpfs"):
        ended = run([stage3, "run", option, "x", str(rootfs), "/bin/true"])
        assert (ended.returncode, b"unknown option" in ended.stderr) == (2, True)


# ---- exit statuses, streams, signals


@contextlib.contextmanager
def holding(*line: str, script: str = "echo up; read a") -> Iterator[subprocess.Popen[bytes]]:
    """Have a container whose command waits for the end of its stdin."""
    process = subprocess.Popen(
        [*line, "/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert process.stdout.readline(), process.communicate()[1]
        yield process
    finally:
        process.communicate()


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 7", 7), ("exit 200", 200), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_the_exit_status_is_the_commands(
    stage4: str, driver: str, script: str, status: int
) -> None:
    # Pid 1 of a namespace would not hear its own signals.
    options = ("--namespaces", "mnt", "--storage-driver", driver)
    ended = run([stage4, "run", "--rm", *options, "box", "/bin/sh", "-c", script])
    assert ended.returncode == status


def test_the_streams_are_the_commands_byte_for_byte(stage4: str, driver: str) -> None:
    line = [stage4, "run", "--rm", *QUIET, "--storage-driver", driver, "box", "/bin/sh", "-c"]
    data = bytes(range(256)) * 300
    ended = run([*line, "cat; echo wrong >&2"], stdin=None, input=data)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, data, b"wrong\n")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGQUIT"])
def test_a_signal_reaches_the_command(stage4: str, shop: Path, name: str) -> None:
    script = f"trap 'exit 7' {name[3:]}; echo; read a"
    with holding(stage4, "run", "--rm", *QUIET, "box", script=script) as process:
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == 7
    assert residue(shop) == []


def test_no_descriptor_but_the_three_is_handed_on(stage4: str, driver: str) -> None:
    line = [stage4, "run", "--rm", *QUIET, "--storage-driver", driver, "box", "/bin/ls"]
    ended = run([*line, "/proc/self/fd"])
    assert ended.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own


def test_the_limits_of_stage_3_hold_on_an_image(stage4: str, shop: Path) -> None:
    options = ("-m", "32m", "--memory-swap", "32m", "--explain")
    line = [stage4, "run", "--rm", *QUIET, *options, "box", "/bin/sh", "-c"]
    ended = run([*line, "exec tail /dev/zero"])
    assert (ended.returncode, b"killed by the kernel" in ended.stderr) == (137, True)
    assert residue(shop) == []


def test_nothing_of_the_hosts_mounts_is_left(stage4: str, shop: Path) -> None:
    table = inside(stage4, "cat /proc/self/mountinfo")
    kinds = [row.partition(" - ")[2].split()[0] for row in table.splitlines()]
    assert kinds == ["overlay", "proc", "sysfs", "tmpfs", "devpts", "tmpfs", "mqueue"]


def test_a_trace_shows_the_union_being_mounted_and_taken_away(stage4: str) -> None:
    line = [stage4, "run", "--rm", "--trace", *QUIET, "box", "/bin/echo", "ran"]
    ended = run(line)
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")
    rows = re.findall(r"^\[\d+\] (.*)$", ended.stderr.decode(), re.MULTILINE)
    assert len(rows) == len(ended.stderr.splitlines())
    order = ["unshare(CLONE_NEWNS)", 'mount("overlay"', "pivot_root(", "execve(", "umount2("]
    places = [next(n for n, row in enumerate(rows) if row.startswith(word)) for word in order[:-1]]
    places.append(max(n for n, row in enumerate(rows) if row.startswith("umount2(")))
    assert places == sorted(places)
    assert "lowerdir=" in rows[places[1]]
    assert "upperdir=" in rows[places[1]]


def test_a_traceback_is_shown_to_whoever_asks(stage4: str) -> None:
    ended = run([stage4, "run", "--debug", *QUIET, "none", "/bin/true"])
    assert (ended.returncode, b"Traceback" in ended.stderr) == (125, True)
    ended = run([stage4, "diff", "--debug", "none"])
    assert (ended.returncode, b"Traceback" in ended.stderr) == (125, True)


# ---- no way on after a failure


@pytest.fixture
def small(stage4: str, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store of its own, with an image that is unpacked in a few calls: `small`."""
    root = tmp_path / "small"
    (root / "bin").mkdir(parents=True)
    shutil.copy2(rootfs / "bin/busybox", root / "bin")
    for name in ("echo", "sh"):
        (root / "bin" / name).symlink_to("busybox")
    monkeypatch.setenv("LABRUN_STORE", str(tmp_path / "store"))
    answer(stage4, "image", "import", str(root), "small")
    return tmp_path / "store"


def never_unpacked(store: Path) -> None:
    for folder in (store / "layers").iterdir():
        shutil.rmtree(folder)


def kinds(calls: dict[str, str]) -> dict[str, str]:
    """Return one of the calls that differ in numbers alone, by half."""
    found: dict[tuple[str, str], str] = {}
    for call, words in calls.items():
        half = call.partition(":")[0]
        found.setdefault((half, re.sub(r"\b[0-9a-f]*[0-9][0-9a-f]*\b", "#", words)), call)
    return {call: calls[call] for call in found.values()}


@pytest.mark.once
@pytest.mark.parametrize("driver", DRIVERS, indirect=True)
def test_whatever_call_fails_the_command_does_not_run_and_nothing_is_left(
    stage4: str, small: Path, driver: str, tmp_path: Path
) -> None:
    volumes = ("-v", f"{tmp_path}:/new/v:ro", "--tmpfs", "/new/t", "--read-only")
    options = ["--rm", "--name", "faulty", "--storage-driver", driver, *volumes, *LIMITS]
    # Each run unpacks the image again.
    never_unpacked(small)
    calls = calls_before_the_command(
        stage4, *options, "small", "/bin/echo", "ran", before=OWN_NETWORK
    )
    words = [text.partition("(")[0] for text in calls.values()]
    assert {"flock", "openat2", "mkdir", "syncfs", "rename", "mount"} <= {*words}
    tried = kinds(calls)
    if driver != "overlay":
        # The rest is the same for all.
        until = next(call for call in calls if calls[call].startswith("clone3("))
        tried = {call: tried[call] for call in [*calls][: [*calls].index(until)] if call in tried}
    tried = {
        call: text
        for call, text in tried.items()
        # These only count: a run goes on without them.
        if not re.match(r'mkdir\(".*/(blkio|cpuacct|freezer)/', text)
    }
    assert len(tried) > 30
    for call, text in tried.items():
        never_unpacked(small)
        line = ["run", *options, "small", "/bin/echo", "ran"]
        told = check_each_fails_closed("stage4", [call], line, before=OWN_NETWORK)
        assert residue(small) == [], (text, told)
    assert not abandoned_groups()
    # Nor is anything in the next run's way.
    assert inside(stage4, "echo ran", "--storage-driver", driver, root="small") == "ran"


@pytest.mark.parametrize("driver", ["overlay", "aufs"], indirect=True)
@pytest.mark.parametrize("call", ['rmdir("/proc/self/fd', 'umount2("/', "rename("])
def test_what_can_t_be_taken_away_is_said_and_goes_with_the_next_prune(
    stage4: str, small: Path, driver: str, call: str
) -> None:
    line = ["run", "--rm", *QUIET, "--storage-driver", driver, "small", "/bin/echo", "ran"]
    # It is unpacked: from here on a directory is renamed only when the container goes.
    assert run([stage4, *line]).returncode == 0
    ended = run(faulty("stage4", call, *line))
    (text,) = ended.stderr.decode().splitlines()
    assert (ended.returncode, text.startswith("stage4: ")) == (125, True)
    assert "Input/output error" in text
    assert not abandoned_groups()
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert str(small) not in table
    answer(stage4, "image", "prune")
    assert residue(small) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_who_is_stopped_while_an_image_is_unpacked_leaves_nothing(
    stage4: str, small: Path, tmp_path: Path, name: str
) -> None:
    for number in range(2000):
        (tmp_path / "small" / str(number)).touch()
    answer(stage4, "image", "import", str(tmp_path / "small"), "many")
    # It gives way to us: we have to see it at work.
    process = subprocess.Popen(
        ["nice", "-n", "19", stage4, "run", "--name", "kept", *QUIET, "many", "/bin/echo", "ran"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not [*small.glob("tmp/overlay-*/diff/bin")]:
        assert process.poll() is None
    process.send_signal(getattr(signal, name))
    assert process.communicate() == (b"", b"")
    assert process.returncode == -getattr(signal, name)
    assert residue(small) == []
    assert inside(stage4, "echo ran", root="many") == "ran"


@pytest.mark.parametrize("verb", ["import", "build"])
def test_who_stops_another_command_finds_nothing_half_made(
    stage4: str, small: Path, tmp_path: Path, verb: str
) -> None:
    for number in range(2000):
        (tmp_path / "small" / str(number)).write_bytes(bytes(9000))
    if verb == "import":
        line, sign = ["image", "import", str(tmp_path / "small"), "many"], "tmp/*"
    else:
        answer(stage4, "image", "import", str(tmp_path / "small"), "many")
        (tmp_path / "context").mkdir()
        (tmp_path / "context/Dockerfile").write_text("FROM many\nRUN echo ran\n")
        line, sign = ["build", str(tmp_path / "context")], "tmp/overlay-*/diff/bin"
    process = subprocess.Popen([stage4, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not [*small.glob(sign)]:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == b""
    assert process.returncode == -signal.SIGINT
    assert residue(small) == []
    assert answer(stage4, "image", "verify") == ""


# ---- beside each other


def test_prune_takes_nothing_from_under_those_who_start(
    stage4: str, small: Path, tmp_path: Path
) -> None:
    # Many files: a copy of them is on its way for a while.
    for number in range(1000):
        (tmp_path / "small" / str(number)).touch()
    line = [stage4, "run", "--rm", *QUIET, "--storage-driver", "vfs", str(tmp_path / "small")]
    line += ["/bin/echo", "ran"]
    starting = [subprocess.Popen(line, stdout=subprocess.PIPE) for _ in range(4)]
    while any(process.poll() is None for process in starting):
        answer(stage4, "image", "prune")
    assert [process.communicate()[0] for process in starting] == [b"ran\n"] * 4
    assert residue(small) == []


def test_an_image_without_a_name_stays_as_long_as_a_container_is_of_it(
    stage4: str, small: Path
) -> None:
    script = "echo up; read a; exec /bin/echo still there"
    line = [stage4, "run", *QUIET, "--name", "user", "small"]
    with holding(*line, script=script) as process:
        answer(stage4, "image", "rm", "small")
        assert "removed: 0 blobs, 0 layers" in answer(stage4, "image", "prune")
        assert process.communicate(b"\n")[0] == b"still there\n"
    assert "removed: 0 blobs, 0 layers" in answer(stage4, "image", "prune")
    answer(stage4, "rm", "user")
    assert "removed: 3 blobs, 1 layers" in answer(stage4, "image", "prune")
    assert not any((small / "blobs/sha256").iterdir())


# ---- killed


@pytest.mark.once
@pytest.mark.parametrize("driver", ["overlay", "aufs"], indirect=True)
def test_sigkill_never_leaves_what_prune_and_clean_don_t_remove(
    stage4: str, small: Path, driver: str
) -> None:
    mark = f"lab-{os.urandom(6).hex()}"
    line = [stage4, "run", *QUIET, "--storage-driver", driver, *LIMITS]
    command = ["small", "/bin/sh", "-c", f": {mark}; echo >/new; echo up; read a"]
    never_unpacked(small)
    began = time.monotonic()
    assert run([*line, "--rm", *command]).returncode == 1
    start = time.monotonic() - began
    chance, ran, times = random.Random(4), 0, 100 if driver == "overlay" else 30
    for number in range(times):
        if number % 5 == 0:
            never_unpacked(small)
        # Some are to be kept: those are somebody's until `rm`.
        options = ["--name", f"kept{number}"] if number % 4 == 0 else ["--rm"]
        process = subprocess.Popen(
            [*line, *options, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0, 1.5 * start))
        if number % 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        stdout, _ = process.communicate()
        ran += bool(stdout)
        if number % 10 == 9:
            assert answer(stage4, "image", "verify") == ""
    assert 0 < ran < times, "the moments were not spread over the start"
    assert not gone(mark)
    assert not abandoned_groups()
    assert str(small) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    # The last one's file server goes with its runtime, as soon as it has its turn.
    until = time.monotonic() + 30
    while (servers := processes(f"{small}/containers")) and time.monotonic() < until:
        time.sleep(0.1)
    assert not servers
    # What killed ones were to remove is what clean removes, and says before.
    left = {path for path in residue(small) if not (Path(path) / "name").exists()}
    assert left
    # Those that were killed last may hold a lock until the kernel has taken down all of them.
    until = time.monotonic() + 10
    told = ""
    while not (known := all(path in told for path in left)) and time.monotonic() < until:
        told = run([LABRUN, "clean", "--dry-run"]).stdout.decode()
    assert known, (left, told)
    assert run([LABRUN, "clean", "--yes"]).returncode == 0
    assert answer(stage4, "image", "verify") == ""
    files = [*small.glob("containers/*/name")]
    assert sorted(residue(small)) == sorted(str(file.parent) for file in files)
    answer(stage4, "rm", *(file.read_text() for file in files))
    assert residue(small) == []
    assert inside(stage4, "echo ran", "--storage-driver", driver, root="small") == "ran"
