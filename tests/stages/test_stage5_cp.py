"""`stage5 cp`: what goes where, and that a container can't have it go elsewhere."""

import contextlib
import ctypes
import errno
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import linux
from stages.stage4_overlayfs.more.tar import Hostile
from stages.stage5_container.more.cp import End, cp, end
from tests.running import run
from tests.stages.storing import raises

pytestmark = [pytest.mark.usefixtures("as_root")]

WHEN = 1_500_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make the tree of a container, `box`; it lies on the host beside what it must not reach."""
    root = tmp_path / "root"
    for name in ("etc", "data/deep", "proc", "sys", "dev", "usr/lib"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "motd").write_text("hello")
    (root / "data" / "one").write_text("1")
    (root / "data" / "deep" / "two").write_text("2")
    os.symlink("usr/lib", root / "lib")
    os.symlink("one", root / "data" / "link")
    os.chown(root, 100000, 100000)
    return root


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    host = tmp_path / "host"
    host.mkdir()
    monkeypatch.chdir(host)
    return host


@pytest.fixture
def copy(root: Path) -> Callable[..., None]:
    @contextlib.contextmanager
    def root_of(name: str) -> Iterator[str]:
        assert name == "box"
        yield str(root)

    return lambda source, target, **more: cp(str(source), str(target), root_of, **more)


Copy = Callable[..., None]


def content(top: Path) -> dict[str, str]:
    """Return what is below a directory: files with their text, directories with a slash."""
    return {
        f"{path.relative_to(top)}{'/' if path.is_dir() and not path.is_symlink() else ''}": (
            path.read_text() if path.is_file() and not path.is_symlink() else ""
        )
        for path in sorted(top.rglob("*"))
    }


# ---- operands


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box:/etc", End("box", "/etc")),
        ("box:etc", End("box", "/etc")),
        ("box:", End("box", "/")),
        ("./a:b", End("", "./a:b")),
        ("/a:b", End("", "/a:b")),
        ("plain", End("", "plain")),
        ("-", End("", "-")),
        (":x", End("", ":x")),
    ],
)
def test_an_operand_with_a_colon_is_a_containers(text: str, expected: End) -> None:
    assert end(text) == expected


@pytest.mark.parametrize("pair", [("a", "b"), ("box:a", "box:b"), ("-", "-")])
def test_one_end_has_to_be_a_containers_and_one_not(copy: Copy, pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="CONTAINER:PATH"):
        copy(*pair)


# ---- what goes where

TREE = {"one": "1", "deep/": "", "deep/two": "2", "link": ""}


def named(prefix: str) -> dict[str, str]:
    return {f"{prefix}/": "", **{f"{prefix}/{name}": text for name, text in TREE.items()}}


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("box:/etc/motd", ".", {"motd": "hello"}),
        ("box:/etc/motd", "new", {"new": "hello"}),
        ("box:/etc/motd", "there/", {"there/": "", "there/motd": "hello"}),
        ("box:/data", "new", named("new")),
        ("box:/data", "there", {"there/": "", **named("there/data")}),
        ("box:/data/.", "there", named("there")),
        ("box:/data/", "new", named("new")),
        ("box:data/../etc/motd", "x", {"x": "hello"}),
        ("box:/lib/../etc", "new", {"new/": ""}),
    ],
)
def test_out_of_a_container(
    copy: Copy, host: Path, source: str, target: str, expected: dict[str, str]
) -> None:
    if "there" in target:
        (host / "there").mkdir()
    if source == "box:/lib/../etc":
        # /lib leads to /usr/lib, whose `..` is /usr, which has no /etc.
        with pytest.raises(FileNotFoundError):
            copy(source, target)
        return
    copy(source, target)
    assert content(host) == expected


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("file", "box:/etc", "etc/file"),
        ("file", "box:/etc/motd", "etc/motd"),
        ("file", "box:/etc/new", "etc/new"),
        ("file", "box:", "file"),
        ("file", "box:/lib", "usr/lib/file"),
        ("file", "box:/data/link", "data/one"),
        ("folder", "box:/etc", "etc/folder/inner"),
        ("folder/.", "box:/etc", "etc/inner"),
        ("folder", "box:/new", "new/inner"),
        ("folder/.", "box:/new", "new/inner"),
        (".", "box:/new", "new/file"),
    ],
)
def test_into_a_container(
    copy: Copy, host: Path, root: Path, source: str, target: str, expected: str
) -> None:
    (host / "file").write_text("F")
    (host / "folder").mkdir()
    (host / "folder" / "inner").write_text("F")
    copy(source, target)
    assert (root / expected).read_text() == "F"
    # Root of the container, whoever that is outside, owns it.
    assert (root / expected).stat().st_uid == 100000
    assert (root / "data" / "link").is_symlink()


@pytest.mark.parametrize(
    ("source", "target", "number"),
    [
        ("box:/nothing", "x", errno.ENOENT),
        ("box:/etc/motd/", "x", errno.ENOTDIR),
        ("box:/etc/motd", "nowhere/x", errno.ENOENT),
        ("box:/etc/motd", "nowhere/", errno.ENOENT),
        ("box:/data", "file", errno.ENOTDIR),
        ("file", "box:/nowhere/x", errno.ENOENT),
        ("nothing", "box:/etc", errno.ENOENT),
        ("folder", "box:/etc/motd", errno.ENOTDIR),
    ],
)
def test_what_has_no_place_is_an_error(
    copy: Copy, host: Path, root: Path, source: str, target: str, number: int
) -> None:
    (host / "file").write_text("F")
    (host / "folder").mkdir()
    before = content(root)
    with raises(number):
        copy(source, target)
    assert content(root) == before


def test_no_file_takes_the_place_of_a_directory_nor_the_reverse(
    copy: Copy, host: Path, root: Path
) -> None:
    (host / "data").mkdir()
    (host / "data" / "deep").write_text("a file")
    with pytest.raises(IsADirectoryError):
        copy("data", "box:/")
    (host / "data" / "deep").unlink()
    (host / "data" / "one").mkdir()
    with pytest.raises(NotADirectoryError):
        copy("data", "box:/")
    assert (root / "data" / "one").read_text() == "1"


def test_a_link_is_copied_as_one_unless_it_is_to_be_followed(copy: Copy, host: Path) -> None:
    copy("box:/data/link", "as-link")
    copy("box:/data/link", "as-file", follow=True)
    assert os.readlink(host / "as-link") == "one"
    assert (host / "as-file").read_text() == "1"
    assert not (host / "as-file").is_symlink()


def test_owner_times_and_modes(copy: Copy, host: Path, root: Path) -> None:
    file = root / "data" / "one"
    os.chown(file, 7, 8)
    file.chmod(0o640)
    os.utime(file, (WHEN, WHEN))
    os.utime(root / "data", (WHEN, WHEN))
    os.setxattr(file, "user.colour", b"blue")
    copy("box:/data", "plain")
    copy("box:/data", "kept", archive=True)
    plain, kept = (host / "plain" / "one").stat(), (host / "kept" / "one").stat()
    assert (plain.st_uid, plain.st_gid) == (0, 0)
    assert (kept.st_uid, kept.st_gid) == (7, 8)
    for status in (plain, kept):
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, WHEN)
    assert os.getxattr(host / "plain" / "one", "user.colour") == b"blue"
    assert (host / "plain").stat().st_mtime == WHEN


def test_two_names_of_a_file_stay_two_names_of_one(copy: Copy, host: Path, root: Path) -> None:
    os.link(root / "data" / "one", root / "data" / "twin")
    copy("box:/data", "new")
    assert (host / "new" / "one").stat().st_ino == (host / "new" / "twin").stat().st_ino
    copy("new", "box:/back")
    assert (root / "back" / "one").stat().st_nlink == 2


def test_a_directory_that_is_there_keeps_its_mode_and_owner(
    copy: Copy, host: Path, root: Path
) -> None:
    (root / "etc").chmod(0o700)
    (host / "etc").mkdir(0o755)
    (host / "etc" / "new").touch()
    copy("etc", "box:/")
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o700
    assert (root / "etc" / "new").exists()


# ---- what a container has put there


def test_a_link_to_the_host_leads_inside(
    copy: Copy, host: Path, root: Path, tmp_path: Path
) -> None:
    # CVE-2018-15664: /x is a link to a directory of the host's.
    marker = tmp_path / "marker"
    marker.mkdir()
    (marker / "secret").write_text("secret")
    (host / "file").write_text("F")
    os.symlink(marker, root / "x")
    up = "../" * 30
    os.symlink(f"{up}{marker}", root / "y")
    for name in ("x", "y"):
        with pytest.raises(FileNotFoundError):
            copy(f"box:/{name}/secret", "stolen")
        with pytest.raises(FileNotFoundError):
            copy("file", f"box:/{name}/file")
        with pytest.raises(FileNotFoundError):
            copy(f"box:{up}{marker}/secret", "stolen")
    # Where there is such a directory inside, that is meant.
    (root / marker.relative_to("/")).mkdir(parents=True)
    copy("file", "box:/x/file")
    copy("file", "box:/y/other")
    assert {*os.listdir(root / marker.relative_to("/"))} == {"file", "other"}
    assert os.listdir(marker) == ["secret"]
    assert not (host / "stolen").exists()


def test_a_file_that_is_a_link_out_is_not_written_through(
    copy: Copy, host: Path, root: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("canary")
    (host / "motd").write_text("F")
    (root / "etc" / "motd").unlink()
    os.symlink(canary, root / "etc" / "motd")
    with pytest.raises(FileNotFoundError):
        copy("motd", "box:/etc/motd")
    # Into the directory, the link itself makes way.
    copy("motd", "box:/etc")
    assert (root / "etc" / "motd").read_text() == "F"
    assert canary.read_text() == "canary"


def test_a_link_that_arrived_here_is_no_way_for_what_arrives_next(
    copy: Copy, host: Path, root: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    os.symlink(marker, root / "data" / "way")
    copy("box:/data", "here")
    assert os.readlink(host / "here" / "way") == str(marker)
    (root / "data" / "way").unlink()
    (root / "data" / "way").mkdir()
    (root / "data" / "way" / "evil").write_text("evil")
    with pytest.raises(NotADirectoryError):
        copy("box:/data/.", "here")
    assert os.listdir(marker) == []


RENAME_EXCHANGE = 2


def test_a_directory_that_keeps_becoming_a_link_is_never_followed_out(
    copy: Copy, host: Path, root: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    (marker / "file").write_text("secret")
    (root / "spot").mkdir()
    (root / "spot" / "file").write_text("inside")
    os.symlink(marker, root / "flip")
    (host / "file").write_text("F")
    libc = ctypes.CDLL(None, use_errno=True)
    names = [os.fsencode(root / name) for name in ("spot", "flip")]
    over, flips = threading.Event(), [0]

    def exchange() -> None:
        while not over.is_set():
            libc.renameat2(-100, names[0], -100, names[1], RENAME_EXCHANGE)
            flips[0] += 1

    attacker = threading.Thread(target=exchange)
    attacker.start()
    done, until = 0, time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                copy("file", "box:/spot/new")
                done += 1
            with contextlib.suppress(OSError):
                copy("box:/spot/file", "got")
                assert (host / "got").read_text() == "inside"
    finally:
        over.set()
        attacker.join()
    assert done
    assert flips[0] > 100
    assert os.listdir(marker) == ["file"]


def test_a_device_stays_inside_and_a_setuid_program_loses_the_bit(
    copy: Copy, host: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mknod(root / "data" / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    (root / "data" / "one").chmod(0o6755)
    copy("box:/data", "out")
    assert not (host / "out" / "disk").exists()
    assert "disk: left out" in capfd.readouterr().err
    assert stat.S_IMODE((host / "out" / "one").stat().st_mode) == 0o755
    # The other way it is the host's own choice.
    (host / "out" / "one").chmod(0o4755)
    copy("out/one", "box:/usr")
    assert stat.S_IMODE((root / "usr" / "one").stat().st_mode) == 0o4755


def test_a_pipe_and_a_socket_keep_nobody_waiting(copy: Copy, host: Path, root: Path) -> None:
    os.mkfifo(root / "data" / "pipe")
    os.mknod(root / "data" / "socket", stat.S_IFSOCK)
    copy("box:/data", "out")
    assert stat.S_ISFIFO((host / "out" / "pipe").stat().st_mode)
    assert not (host / "out" / "socket").exists()


def test_nothing_of_the_containers_is_run_and_nobody_goes_inside(
    copy: Copy, host: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CVE-2019-14271 took a library of the container's, for names of users.
    (root / "usr" / "lib" / "libnss_files.so.2").write_text("not a library")
    calls: list[str] = []
    monkeypatch.setattr(linux, "watch", lambda words, result: calls.append(words.partition("(")[0]))
    copy("box:/", "all")
    assert (host / "all" / "usr" / "lib" / "libnss_files.so.2").exists()
    assert {*calls} <= {"open", "openat2", "mknod", "setxattr", "removexattr"}


def test_what_grows_meanwhile_is_copied_as_far_as_it_was(
    copy: Copy, host: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = root / "data" / "one"
    read = os.read

    def growing(fd: int, size: int) -> bytes:
        with log.open("a") as file:
            file.write("more")
        return read(fd, size)

    monkeypatch.setattr(os, "read", growing)
    copy("box:/data/one", "log")
    assert (host / "log").read_text() == "1"


# ---- a tar


class Pipe:
    """A stream of bytes, as sys.stdin and sys.stdout are."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)


def packed(*entries: tuple[str, bytes, dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data, more in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_a_tar_comes_out(copy: Copy, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Pipe()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    copy("box:/data", "-")
    with tarfile.open(fileobj=io.BytesIO(out.buffer.getvalue())) as archive:
        assert archive.getnames() == ["data", "data/deep", "data/link", "data/one", "data/deep/two"]
        two = archive.extractfile("data/deep/two")
        assert two
        assert two.read() == b"2"


def test_a_tar_goes_in_and_a_link_in_it_leads_inside(
    copy: Copy, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    link = {"type": tarfile.SYMTYPE, "linkname": str(marker)}
    data = packed(("./plain", b"P", {"uid": 9}), ("a", b"", link), ("lib/so", b"L", {}))
    monkeypatch.setattr(sys, "stdin", Pipe(data))
    copy("-", "box:/")
    assert (root / "plain").read_text() == "P"
    assert (root / "plain").stat().st_uid == 100000
    assert (root / "usr" / "lib" / "so").read_text() == "L"
    monkeypatch.setattr(sys, "stdin", Pipe(packed(("a/evil", b"E", {}))))
    with pytest.raises(FileNotFoundError):
        copy("-", "box:/")
    assert os.listdir(marker) == []
    monkeypatch.setattr(sys, "stdin", Pipe(data))
    copy("-", "box:/data", archive=True)
    assert (root / "data" / "plain").stat().st_uid == 9


@pytest.mark.parametrize("name", ["../evil", "a/../../evil"])
def test_a_tar_that_leads_out_is_refused(
    copy: Copy, root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(packed((name, b"E", {}))))
    with pytest.raises(Hostile):
        copy("-", "box:/data")
    assert not (root / "evil").exists()


def test_a_tar_goes_into_a_directory_only(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    for target, number in (("box:/nowhere", errno.ENOENT), ("box:/etc/motd", errno.ENOTDIR)):
        monkeypatch.setattr(sys, "stdin", Pipe(packed()))
        with raises(number):
            copy("-", target)


def test_no_tar_is_written_to_a_terminal(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    with pytest.raises(ValueError, match="terminal"):
        copy("box:/etc", "-")


# ---- a container that runs


@pytest.fixture
def running(rootfs: Path, tmp_path: Path) -> Iterator[str]:
    """Return the root of a container that runs, as /proc has it."""
    stage5 = str(Path(sys.executable).with_name("stage5"))
    script = "mkdir /d; echo inside >/d/file; ln -s /proc/1/root /magic; echo $0; read w"
    mark = f"cp-{os.urandom(4).hex()}"
    line = [stage5, "run", "--rm", "--net", "none", "--tmpfs", "/t", str(rootfs)]
    store = {"LABRUN_STORE": str(tmp_path / "store")}
    with subprocess.Popen(
        [*line, "/bin/sh", "-c", script, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **store},
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline().decode() == f"{mark}\n"
        (pid,) = [
            entry.name
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and command(entry) == ["/bin/sh", "-c", script, mark]
        ]
        yield f"/proc/{pid}/root"
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait() == 0


def command(process: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().decode().split("\0")[:-1]
    return []


def test_to_and_from_a_container_that_runs(running: str, host: Path) -> None:
    @contextlib.contextmanager
    def root_of(_: str) -> Iterator[str]:
        yield running

    cp("box:/d/file", "got", root_of)
    assert (host / "got").read_text() == "inside\n"
    cp("got", "box:/t/in-the-tmpfs", root_of)
    assert Path(running, "t", "in-the-tmpfs").read_text() == "inside\n"
    for path in ("/magic/etc/passwd", "/proc/1/root/etc/passwd", "/proc/1/cwd/etc/passwd"):
        with raises(errno.ELOOP):
            cp(f"box:{path}", "stolen", root_of)
    # All of it, but what has no end: the kernel's own files.
    cp("box:/", "all", root_of)
    assert (host / "all" / "d" / "file").read_text() == "inside\n"
    assert (host / "all" / "t" / "in-the-tmpfs").exists()
    assert [os.listdir(host / "all" / name) for name in ("proc", "sys", "dev")] == [[], [], []]


# ---- the command


@pytest.fixture
def stage5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("LABRUN_STORE", str(tmp_path / "store"))
    program = str(Path(sys.executable).with_name("stage5"))

    def say(*words: str, status: int = 0) -> str:
        ended = run([program, *words])
        assert ended.returncode == status, ended
        return (ended.stderr if status else ended.stdout).decode().strip()

    return say


def test_the_command_reaches_a_container_whether_or_not_it_runs(
    stage5: Callable[..., str], rootfs: Path, host: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "there").write_text("V")
    (host / "file").write_text("F")
    script = "mkdir /d; echo D >/d/file; ln -s /etc /d/way; echo ready; read w; sleep 600"
    line = ["run", "-d", "--name", "box", "--net", "none", "-v", f"{volume}:/data", str(rootfs)]
    stage5(*line, "/bin/sh", "-c", script)
    until = time.monotonic() + 20
    while "ready" not in stage5("logs", "box") and time.monotonic() < until:
        time.sleep(0.05)
    try:
        for number, state in enumerate(("running", "exited")):
            if state == "exited":
                stage5("stop", "-t", "0", "box")
            stage5("cp", "file", f"box:/d/{state}")
            stage5("cp", "file", f"box:/data/{state}")
            stage5("cp", "file", f"box:/d/way/{state}")
            stage5("cp", f"box:/d/{state}", f"out-{state}")
            stage5("cp", "box:/data/there", f"there-{state}")
            assert (host / f"out-{state}").read_text() == "F"
            assert (host / f"there-{state}").read_text() == "V"
            assert (volume / state).read_text() == "F"
            assert len(list(volume.iterdir())) == 2 + number
            # One that isn't there, and what is said of it.
            assert "/nowhere" in stage5("cp", "box:/nowhere", ".", status=125)
        told = stage5("diff", "box").splitlines()
        assert {"A /d/running", "A /d/exited", "A /etc/running", "A /etc/exited"} <= {*told}
        assert not [row for row in told if "/data/" in row]
    finally:
        stage5("rm", "-f", "box")
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert not os.path.exists(f"/etc/{state}")
