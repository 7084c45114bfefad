"""Volumes that have names: they outlive containers, and are nobody else's."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.stage4_overlayfs.options import Volume
from stages.stage5_container.more import volumes
from tests.running import run

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.xdist_group("stage5 volumes")]

Ask = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def ask(stage5: str, tmp_path: Path) -> Ask:
    def asked(*words: str) -> subprocess.CompletedProcess[bytes]:
        store = {"LABRUN_STORE": str(tmp_path / "store")}
        return run([stage5, *words], environment=store)

    return asked


def inside(ask: Ask, rootfs: Path, script: str, *options: str) -> str:
    quiet = ("run", "--rm", "--network", "none", *options)
    ended = ask(*quiet, str(rootfs), "/bin/sh", "-c", script)
    assert ended.returncode == 0, ended
    return ended.stdout.decode().strip()


def test_what_one_container_writes_the_next_one_reads(ask: Ask, rootfs: Path) -> None:
    inside(ask, rootfs, "echo kept > /data/note", "-v", "notes:/data")
    assert inside(ask, rootfs, "cat /other/note", "-v", "notes:/other:ro") == "kept"
    assert inside(ask, rootfs, "ls /data", "-v", "more:/data") == ""
    refused = "echo new > /other/note || echo refused"
    assert inside(ask, rootfs, refused, "-v", "notes:/other:ro") == "refused"


def test_volumes_are_made_listed_inspected_and_removed(
    ask: Ask, rootfs: Path, tmp_path: Path
) -> None:
    assert ask("volume", "create", "first").stdout == b"first\n"
    assert ask("volume", "create", "first").stdout == b"first\n"
    unnamed = ask("volume", "create").stdout.decode().strip()
    assert len(unnamed) == 64
    inside(ask, rootfs, ":", "-v", "second:/data")
    rows = [line.split() for line in ask("volume", "ls").stdout.decode().splitlines()]
    assert rows[0] == ["DRIVER", "VOLUME", "NAME"]
    assert sorted(rows[1:]) == sorted(["local", name] for name in ("first", "second", unnamed))
    assert ask("volume", "ls", "-q", "--filter", "name=eco").stdout == b"second\n"
    [shown] = json.loads(ask("volume", "inspect", "first").stdout)
    assert shown["Mountpoint"] == str(tmp_path / "store/volumes/first/_data")
    assert ask("volume", "rm", "first", unnamed).stdout.decode().split() == ["first", unnamed]
    assert ask("volume", "ls", "-q").stdout == b"second\n"
    assert os.listdir(tmp_path / "store/volumes") == ["second"]
    assert os.listdir(tmp_path / "store/tmp") == []


def test_a_volume_that_a_container_has_stays(ask: Ask, rootfs: Path) -> None:
    line = ("run", "--network", "none", "-v", "notes:/data", "--name", "holder")
    assert ask(*line, str(rootfs), "/bin/true").returncode == 0
    ended = ask("volume", "rm", "notes")
    assert (ended.returncode, b"containers have it: holder" in ended.stderr) == (125, True)
    assert ask("volume", "ls", "-q", "--filter", "dangling=true").stdout == b""
    assert ask("rm", "holder").returncode == 0
    assert ask("volume", "ls", "-q", "--filter", "dangling=true").stdout == b"notes\n"
    assert ask("volume", "rm", "notes").returncode == 0


def test_one_that_nobody_has_named_goes_with_its_container(ask: Ask, rootfs: Path) -> None:
    def names() -> list[str]:
        return ask("volume", "ls", "-q").stdout.decode().split()

    assert inside(ask, rootfs, "echo gone > /data/x; cat /data/x", "-v", "/data") == "gone"
    assert names() == []
    line = ("run", "--network", "none", "-v", "/data", "-v", "kept:/kept", "--name", "holder")
    script = "echo new >> /data/x; cat /data/x"
    assert ask(*line, str(rootfs), "/bin/sh", "-c", script).stdout == b"new\n"
    # It is the same one, when the container is started again.
    assert ask("start", "-a", "holder").stdout == b"new\nnew\n"
    [mount] = [
        one
        for one in json.loads(ask("inspect", "holder").stdout)[0]["Mounts"]
        if one["Destination"] == "/data"
    ]
    assert (mount["Type"], sorted(names())) == ("volume", sorted([mount["Name"], "kept"]))
    assert len(mount["Name"]) == 64
    # Who needs it keeps it; `rm` alone leaves it, and then `prune` takes it, and none with a name.
    assert ask("volume", "prune").stdout == b"Total reclaimed space: 0B\n"
    assert ask("rm", "holder").returncode == 0
    assert mount["Name"] in ask("volume", "prune").stdout.decode()
    assert names() == ["kept"]
    assert ask(*line, str(rootfs), "/bin/true").returncode == 0
    assert len(names()) == 2
    assert ask("rm", "-v", "holder").returncode == 0
    assert names() == ["kept"]
    assert "kept" in ask("volume", "prune", "-a").stdout.decode()
    assert names() == []


def test_an_image_gets_a_volume_where_it_wants_one(ask: Ask, rootfs: Path, tmp_path: Path) -> None:
    assert ask("image", "import", str(rootfs), "base").returncode == 0
    (tmp_path / "Dockerfile").write_text(
        "FROM base\nRUN mkdir -p /data && echo from the image >/data/x\nVOLUME /data\n", "ascii"
    )
    assert ask("build", "-t", "box", str(tmp_path)).returncode == 0
    line = ("run", "--network", "none")
    ended = ask(*line, "--rm", "box", "/bin/cat", "/data/x", "/proc/mounts")
    assert (ended.returncode, b"from the image" in ended.stdout) == (0, True)
    assert b" /data " in ended.stdout
    assert ask("volume", "ls", "-q").stdout == b""
    # Where something else is mounted there, there is no other.
    assert ask(*line, "-v", "named:/data", "--name", "one", "box", "/bin/true").returncode == 0
    assert ask("volume", "ls", "-q").stdout == b"named\n"
    assert ask(*line, "--tmpfs", "/data", "--name", "two", "box", "/bin/true").returncode == 0
    assert ask("volume", "ls", "-q").stdout == b"named\n"
    assert ask("rm", "-v", "one", "two").returncode == 0
    assert ask("volume", "ls", "-q").stdout == b"named\n"
    assert ask("volume", "rm", "-f", "named", "nobodys").stdout == b"named\n"


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "x", "", "a b", "a" * 256])
def test_a_name_that_leads_elsewhere_is_refused(ask: Ask, tmp_path: Path, name: str) -> None:
    for verb in ("create", "rm", "inspect"):
        if name or verb != "create":
            ended = ask("volume", verb, name)
            assert (ended.returncode, ended.stdout.strip()) in ((125, b""), (125, b"[]")), ended
    assert not (tmp_path / "store" / "volumes").exists()


def test_one_that_is_not_there_is_named(ask: Ask) -> None:
    ended = ask("volume", "rm", "gone", "lost")
    assert ended.returncode == 125
    assert ended.stderr.count(b"no volume has this name: there is none") == 2


def test_an_empty_volume_gets_what_the_image_has_there_once(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    (root / "srv" / "deep").mkdir(parents=True)
    (root / "srv" / "deep" / "page").write_text("hello", encoding="ascii")
    (root / "srv").chmod(0o750)
    os.chown(root / "srv" / "deep" / "page", 1234, 1234)
    (root / "out").symlink_to(tmp_path)
    data = store / "volumes" / "web" / "_data"
    wanted = [Volume(str(data), "srv")]
    volumes.fill(str(store), str(root), wanted)
    page = data / "deep" / "page"
    assert (page.read_text(encoding="ascii"), page.stat().st_uid) == ("hello", 1234)
    assert data.stat().st_mode & 0o7777 == 0o750
    page.unlink()
    volumes.fill(str(store), str(root), wanted)
    assert not page.exists()
    # Whatever a link in the image says, nothing of the host's comes along.
    other = store / "volumes" / "other" / "_data"
    volumes.fill(str(store), str(root), [Volume(str(other), "out"), Volume(str(other), "none")])
    assert os.listdir(other) == []
