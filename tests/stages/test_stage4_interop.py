"""Images go to Docker, runc and skopeo and come from there: the same digests, the same files."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dockerd
from tests.running import run

pytestmark = [
    pytest.mark.peers,
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("machine"),
]

LOOK = (
    "cd /data && stat -c '%n %a %u:%g %h %s %Y' * && stat -c '%a %u:%g %Y' . && "
    "cat text && readlink link && "
    "test one -ef two && ls /etc/group /data/gone 2>/dev/null; true"
)
"""What is printed of an image's files; it is the same wherever the image runs."""
MADE = """
FROM {base}
COPY data /data
RUN chown 7:8 /data/text && chmod 4755 /data/text && ln -s text /data/link && \\
    ln /data/one /data/two && touch -h -d @1700000000 /data/* /data && rm /etc/group
RUN rm -r /data/gone && touch -d @1700000000 /data
WORKDIR /data
CMD ["/bin/sh", "-c", {look}]
"""


@pytest.fixture(scope="module")
def docker(rootfs: Path) -> Iterator[dockerd.Docker]:
    # A container's groups are at the top: nothing is left of them when it ends.
    with dockerd.started("--cgroup-parent=/", "--log-driver=none") as running:
        running.load_rootfs(rootfs)
        yield running


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABRUN_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Return a directory to build in."""
    context = tmp_path / "context"
    (context / "data/gone").mkdir(parents=True)
    (context / "data/text").write_text("text\n")
    (context / "data/one").write_text("one\n")
    (context / "data/gone/file").write_text("gone\n")
    return context


def answer(*words: str, cwd: Path | None = None) -> str:
    """Return what a command prints, which has to end well."""
    ended = run(words, cwd=cwd)
    assert ended.returncode == 0, (words, ended)
    return ended.stdout.decode().strip()


def seen(stage4: str, name: str, driver: str = "overlay") -> str:
    """Return what the image's command prints on stage 4."""
    line = [stage4, "run", "--rm", "--net", "none", "--storage-driver", driver, name]
    ended = run(line)
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout.decode().strip()


def seen_by_docker(docker: dockerd.Docker, image: str) -> str:
    return docker("run", "--rm", "--network=none", "--pull=never", image)


def seen_by_runc(layout: str, folder: Path) -> str:
    """Return what the image's command prints in a bundle that umoci makes of a layout."""
    bundle = folder / "bundle"
    answer("umoci", "unpack", "--image", layout, str(bundle))
    config = json.loads((bundle / "config.json").read_bytes())
    config["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        return answer("runc", "run", "--bundle", str(bundle), f"labrun-{os.urandom(4).hex()}")
    finally:
        shutil.rmtree(bundle)


def ids(docker: dockerd.Docker, image: str) -> tuple[str, list[str]]:
    """Return an image's ID, the digest of its configuration, and those of its layers."""
    (found,) = json.loads(docker("image", "inspect", image))
    return found["Id"], found["RootFS"]["Layers"]


def inspected(stage4: str, image: str) -> tuple[str, list[str]]:
    """Return the same of an image here."""
    (found,) = json.loads(answer(stage4, "image", "inspect", image))
    return found["Id"], found["RootFS"]["Layers"]


def check_look(text: str) -> None:
    """See that it is the tree that MADE makes: the same everywhere, and the right one."""
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["link", "one", "text", "two"]
    assert lines[1].split()[1:] == ["644", "0:0", "2", "4", "1700000000"]
    assert lines[2].split()[1:] == ["4755", "7:8", "1", "5", "1700000000"]
    assert lines[4:] == ["755 0:0 1700000000", "text", "text"]


def build(stage4: str, rootfs: Path, context: Path) -> str:
    """Build the image `made:1` with stage 4; return its digest."""
    answer(stage4, "image", "import", str(rootfs), "busybox")
    (context / "Dockerfile").write_text(MADE.format(base="busybox", look=json.dumps(LOOK)))
    return answer(stage4, "build", "-t", "made:1", str(context)).splitlines()[-1]


def test_what_docker_built_runs_here_and_comes_back_to_docker_as_the_same_image(
    stage4: str, docker: dockerd.Docker, rootfs: Path, context: Path, tmp_path: Path
) -> None:
    # From scratch: what Docker has of it, it has built.
    with subprocess.Popen(["cp", "-a", str(rootfs), str(context / "root")]) as copied:
        assert copied.wait() == 0
    text = MADE.format(base="scratch\nCOPY root /", look=json.dumps(LOOK))
    (context / "Dockerfile").write_text(text)
    environment = {**docker.environment, "DOCKER_BUILDKIT": "0"}
    line = ["docker", "build", "--network=none", "-t", "built:1", str(context)]
    ended = run(line, environment=environment)
    assert ended.returncode == 0, ended
    there = ids(docker, "built:1")
    told = seen_by_docker(docker, "built:1")
    check_look(told)

    docker("save", "-o", str(tmp_path / "saved.tar"), "built:1")
    answer(stage4, "image", "import", str(tmp_path / "saved.tar"), "built:1")
    for driver in ("overlay", "vfs", "aufs"):
        if driver != "aufs" or os.path.exists("/dev/fuse"):
            assert seen(stage4, "built:1", driver) == told
    assert inspected(stage4, "built:1") == there

    # Docker forgets it, so that it has to come from here.
    docker("rmi", "built:1")
    docker("image", "prune", "--all", "--force")
    answer(stage4, "image", "export", "built:1", str(tmp_path / "back.tar"))
    docker("load", "-i", str(tmp_path / "back.tar"))
    assert ids(docker, "built:1") == there
    assert seen_by_docker(docker, "built:1") == told
    docker("rmi", "built:1")


def test_what_is_built_here_runs_in_docker_and_in_runc(
    stage4: str, docker: dockerd.Docker, rootfs: Path, context: Path, tmp_path: Path
) -> None:
    build(stage4, rootfs, context)
    told = seen(stage4, "made:1")
    check_look(told)
    answer(stage4, "image", "export", "made:1", str(tmp_path / "made.tar"))
    docker("load", "-i", str(tmp_path / "made.tar"))
    assert seen_by_docker(docker, "made:1") == told
    assert ids(docker, "made:1") == inspected(stage4, "made:1")
    # Docker's own way out gives an image of the same ID, too.
    docker("save", "-o", str(tmp_path / "saved.tar"), "made:1")
    answer(stage4, "image", "import", str(tmp_path / "saved.tar"), "back:1")
    assert inspected(stage4, "back:1") == inspected(stage4, "made:1")
    docker("rmi", "made:1")

    answer(stage4, "image", "export", "made:1", str(tmp_path / "layout"))
    archive = f"oci-archive:{tmp_path}/made.tar:1"
    for source in (f"oci:{tmp_path}/layout:1", archive):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        answer("skopeo", "copy", source, f"oci:{tmp_path}/copy:made")
        assert seen_by_runc(f"{tmp_path}/copy:made", tmp_path) == told


def test_a_round_trip_through_skopeo_changes_no_digest(
    stage4: str, rootfs: Path, context: Path, tmp_path: Path
) -> None:
    digest = build(stage4, rootfs, context)
    answer(stage4, "image", "export", "made:1", str(tmp_path / "out"))
    # Else skopeo compresses the layers, and then the manifest is another.
    plain = ("--dest-oci-accept-uncompressed-layers", "--preserve-digests")
    answer("skopeo", "copy", *plain, f"oci:{tmp_path}/out:1", f"oci:{tmp_path}/copy:1")
    said = answer("skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{tmp_path}/copy:1")
    assert said == digest
    assert answer(stage4, "image", "import", str(tmp_path / "copy"), "again:1") == digest
    answer(stage4, "image", "export", "again:1", str(tmp_path / "twice"))
    blobs = [{*os.listdir(tmp_path / name / "blobs/sha256")} for name in ("out", "copy", "twice")]
    assert blobs[0] == blobs[1] == blobs[2]
    assert seen(stage4, "again:1") == seen(stage4, "made:1")
    # Compressed on the way it has other blobs, and is the same image.
    answer("skopeo", "copy", f"oci:{tmp_path}/out:1", f"oci:{tmp_path}/packed:1")
    assert answer(stage4, "image", "import", str(tmp_path / "packed"), "packed:1") != digest
    assert inspected(stage4, "packed:1") == inspected(stage4, "made:1")
    assert answer(stage4, "image", "verify") == ""
