"""The checks of stage 4: the reference keeps them, and what only looks as if it did does not."""

import io
import json
import os
import shlex
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from checks import archives, ground
from checks.archives import Malformed, entry
from checks.bench import Bench
from checks.model import Verdict, axes
from checks.peers import runtime
from checks.probes import observe
from checks.probes.cow import BALLAST, copy_root, used
from checks.trial import Trial
from labs.paths import CHECKOUT
from tests.running import BIN, assert_unchanged, cannot, check, has_fuse, machine, results, run

STAGE4 = {axis.id for axis in axes().values() if axis.stage == 4}
COW = {axis for axis in STAGE4 if axis.startswith("cow.")}
IMAGES = STAGE4 - COW

Cheater = Callable[[str], str]


@pytest.fixture
def cheater(tmp_path: Path) -> Cheater:
    """Return what makes a runtime of a shell script; stages 3 and 4 are at hand in it."""

    def make(script: str) -> str:
        file = tmp_path / "cheater"
        stages = "\n".join(
            f"{name}={shlex.quote(str(BIN / name))}" for name in ("stage3", "stage4")
        )
        file.write_text(f"#!/bin/sh\n{stages}\n{script}", encoding="utf-8")
        file.chmod(0o755)
        return str(file)

    return make


def verdicts(command: str, *asked: str) -> dict[str, str]:
    _, report = check(command, "--only", ",".join(sorted(asked)))
    return {row["id"]: row["verdict"] for row in report["checks"]}


@pytest.mark.usefixtures("as_root", "rootfs")
def test_stage_4_keeps_all_that_is_its_own() -> None:
    before = machine()
    status, report = check(str(BIN / "stage4"), "--only", ",".join(sorted(STAGE4 | {"fs.root"})))
    assert [row for row in report["checks"] if row["result"] != "pass"] == []
    assert (status, results(report, "pass")) == (0, STAGE4 | {"fs.root"})
    assert_unchanged(before)


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_stage_4_keeps_what_the_stages_before_it_promise() -> None:
    earlier = [axis.id for axis in axes().values() if axis.stage < 4]
    _, report = check(str(BIN / "stage4"), "--only", ",".join(earlier))
    assert [row for row in report["checks"] if row["result"] != "pass"] == []


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_before_stage_4_none_of_its_promises_is_kept() -> None:
    assert verdicts(str(BIN / "stage3"), *STAGE4) == dict.fromkeys(STAGE4, "broken")


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_who_copies_the_whole_root_shares_nothing(cheater: Cheater) -> None:
    command = cheater(
        # All but the last words, up to ROOT, are options.
        "shift\n"
        'options=""\n'
        'while [ "${1#-}" != "$1" ]; do options="$options $1"; shift; done\n'
        "root=$1\nshift\n"
        "mkdir -p /var/tmp/copies\n"
        'cp -a --one-file-system "$root" /var/tmp/copies/$$\n'
        'exec "$stage3" run $options /var/tmp/copies/$$ "$@"\n'
    )
    found = verdicts(command, *COW, "fs.root")
    assert found == dict.fromkeys(COW, "kept") | {"cow.sharing": "broken", "fs.root": "isolated"}


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_whose_root_is_another_one_is_not_at_its_root(cheater: Cheater) -> None:
    """Its own overlay of a copy from yesterday: nothing leads out, and it is not ROOT."""
    command = cheater(
        "shift\nroot=$1\nshift\n"
        'mkdir -p "$LABRUN_STORE/old"\n'
        '[ -e "$LABRUN_STORE/old/bin" ] ||'
        ' { cp -ax "$root/." "$LABRUN_STORE/old"; rm "$LABRUN_STORE"/old/mark-*; }\n'
        'exec "$stage4" run "$LABRUN_STORE/old" "$@"\n'
    )
    assert verdicts(command, "fs.root") == {"fs.root": "leaks"}


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_who_lets_nothing_be_written_behaves_as_no_file_system_does(cheater: Cheater) -> None:
    command = cheater('shift\nexec "$stage4" run --read-only "$@"\n')
    assert verdicts(command, *COW) == dict.fromkeys(COW, "broken")


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_who_nods_to_every_command_has_no_images(cheater: Cheater) -> None:
    """It exits with 0 whatever is asked, and runs each image's command on the same root."""
    command = cheater(
        '[ "$1" = run ] || exit 0\n'
        "shift\n"
        'while [ "${1#-}" != "$1" ]; do shift; done\n'
        f'shift\nexec "$stage4" run {shlex.quote(str(_rootfs()))} "$@"\n'
    )
    assert verdicts(command, *IMAGES) == dict.fromkeys(IMAGES, "broken")


def _rootfs() -> Path:
    from labs import rootfs

    return rootfs.default()


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
def test_who_builds_from_the_cache_whatever_changed_is_caught(cheater: Cheater) -> None:
    command = cheater(
        'if [ "$1" = build ]; then\n'
        # The first image that was built is every image that is built.
        '  mkdir -p "$LABRUN_STORE"; first="$LABRUN_STORE/first"\n'
        '  [ "$2" = --no-cache ] && shift\n'
        '  if [ -e "$first" ]; then\n'
        '    "$stage4" image export "$(cat "$first")" "$LABRUN_STORE/$$.tar" &&\n'
        '    exec "$stage4" image import "$LABRUN_STORE/$$.tar" "$3"\n'
        "  fi\n"
        '  echo "$3" > "$first"\n'
        "fi\n"
        'exec "$stage4" "$@"\n'
    )
    found = verdicts(command, "img.cache", "img.layers")
    assert found == {"img.cache": "broken", "img.layers": "kept"}


@pytest.mark.once
@pytest.mark.usefixtures("as_root", "rootfs")
@pytest.mark.parametrize("driver", ["vfs", "aufs"])
def test_each_driver_is_judged_by_what_it_does(driver: str, cheater: Cheater) -> None:
    if driver == "aufs" and not has_fuse():
        cannot("neither AUFS nor FUSE with its library (fuse3) is here")
    command = cheater(
        '[ "$1" = run ] || exec "$stage4" "$@"\n'
        f'shift\nexec "$stage4" run --storage-driver {driver} "$@"\n'
    )
    broken = {
        # Plain copies: the one thing that a union file system saves us from.
        "vfs": {"cow.sharing"},
        # AUFS can't rename what is in a lower branch: EXDEV, as the kernel's own had it.
        "aufs": {"cow.copyup"},
    }[driver]
    found = verdicts(command, *COW, "fs.root")
    assert {axis for axis, verdict in found.items() if verdict == "broken"} == broken
    assert {axis for axis, verdict in found.items() if verdict == "unknown"} == set()


@pytest.mark.once
@pytest.mark.peers
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("peer", ["docker", "podman"])
def test_an_engine_keeps_the_promises_of_images(peer: str, rootfs: Path) -> None:
    for axis in ("img.digest", "img.whiteouts"):
        with Bench(rootfs) as bench:
            finding = observe(axis, Trial(runtime(f"@{peer}"), bench))
        assert finding.verdict is Verdict.KEPT, finding.evidence


# What the probes are made of.


@pytest.mark.usefixtures("as_root")
def test_a_playground_ends_alike_wherever_the_same_is_done(tmp_path: Path) -> None:
    steps = [*ground.changes(1 << 32), *ground.deletions(), *ground.directories()]
    ends = []
    before = Path.cwd()
    try:
        for name in ("one", "other"):
            ground.plant(str(tmp_path / name), 1 << 32)
            outcomes = ground.play(str(tmp_path / name), steps)
            ends.append((outcomes, ground.described(str(tmp_path / name), 1 << 32)))
    finally:
        os.chdir(before)
    assert ends[0] == ends[1]
    # No step is without effect, or the comparison would be of nothing.
    given = dict(ends[0][0])
    assert given["list the new dir"] == "[]"
    assert given["unlink gone again"] == "ENOENT"
    assert given["how many names"] == "2"
    assert given["read by a handle from before"].startswith("b'CHANGED")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"other bytes, of the same length"[: path.stat().st_size]),
        lambda path: path.chmod(0o600),
        lambda path: os.chown(path, 1, 1),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.link(path, path.with_name("linked")),
        lambda path: path.unlink(),
        lambda path: path.with_name("new").touch(),
    ],
)
def test_each_change_of_a_file_changes_its_fingerprint(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"some bytes, of this length")
    before = ground.fingerprint(str(tmp_path))
    file.read_bytes()
    assert ground.differences(before, ground.fingerprint(str(tmp_path))) == []
    change(file)
    assert ground.differences(before, ground.fingerprint(str(tmp_path)))


@pytest.mark.usefixtures("as_root")
def test_a_copy_of_root_is_noticed_wherever_it_is_on_a_bench(rootfs: Path) -> None:
    for folder in ("/tmp", "/var/tmp", "/run", "/dev/shm"):
        with Bench(rootfs) as bench:
            before = used(bench, [])
            Path(bench.path(folder), "copy").write_bytes(os.urandom(BALLAST))
            assert used(bench, []) - before >= BALLAST, folder


MOUNTED = """import sys
from pathlib import Path
from checks import kernel
from checks.bench import Bench
from checks.probes.cow import used
rootfs, folder = Path(sys.argv[1]), Path(sys.argv[2])
kernel.unshare(kernel.CLONE_NEWNS)
kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
# Two that lie side by side, one inside the other, and one that is hidden below it.
for name in ("a/hidden", "a", "a-b", "a/inner"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    kernel.mount("mine", str(folder / name), "tmpfs")
    (folder / name / "file").write_text(name)
with Bench(rootfs) as bench:
    for name in ("a", "a-b", "a/inner"):
        print(Path(bench.path(f"{folder}/{name}/file")).read_text())
    before = used(bench, [])
    Path(bench.path(f"{folder}/copy")).write_bytes(bytes(1 << 20))
    print(used(bench, []) - before >= 1 << 20, (folder / "copy").exists())
"""


@pytest.mark.usefixtures("as_root")
def test_what_is_mounted_below_tmp_stays_there_and_tmp_is_the_bench_s_own(
    rootfs: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-mounted-", dir="/tmp") as folder:
        words = [sys.executable, "-c", MOUNTED, str(rootfs), folder]
        done = run(words, cwd=CHECKOUT)
        assert done.stdout.decode().split() == ["a", "a-b", "a/inner", "True", "False"], done.stderr


@pytest.mark.usefixtures("as_root")
def test_a_copy_of_root_is_root_without_what_is_mounted_in_it(rootfs: Path) -> None:
    with Bench(rootfs) as bench:
        copy_root(bench, f"{bench.disk}/copy")
        copy, root = Path(bench.path(f"{bench.disk}/copy")), Path(bench.path(bench.root))
        assert sorted(os.listdir(copy)) == sorted(os.listdir(root))
        assert os.listdir(copy / "proc") == []
        assert os.listdir(root / "proc") != []


LAYERS = [archives.layer(entry("file", b"text" * 200))]
CONFIG = archives.configuration(LAYERS)


def layout(**spoiled: bytes) -> dict[str, bytes]:
    """Return the files of an OCI layout, with some of them other than they should be."""
    blobs = {"config": CONFIG, "layer": LAYERS[0]}

    def row(kind: str, data: bytes) -> dict[str, object]:
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{archives.hexdigest(data)}",
            "size": len(data),
        }

    manifest = json.dumps(
        {"config": row("config.v1+json", CONFIG), "layers": [row("layer.v1.tar", LAYERS[0])]}
    ).encode()
    index = {"manifests": [row("manifest.v1+json", manifest)]}
    files = {
        f"blobs/sha256/{archives.hexdigest(data)}": spoiled.get(name, data)
        for name, data in {**blobs, "manifest": manifest}.items()
    }
    files["index.json"] = json.dumps(index).encode()
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return files


def test_an_image_is_read_in_either_form() -> None:
    (oci,) = archives.read(layout())
    (docker,) = archives.read(archives.files_of(archives.saved("name:1", LAYERS, CONFIG)))
    assert (oci.form, docker.form) == ("oci", "docker")
    assert (oci.config, oci.layers) == (docker.config, docker.layers) == (CONFIG, LAYERS)


@pytest.mark.parametrize("part", ["config", "layer", "manifest"])
def test_a_blob_that_is_not_what_its_digest_says_is_no_image(part: str) -> None:
    with pytest.raises(Malformed, match="its bytes are sha256"):
        archives.read(layout(**{part: b"other"}))


def test_a_saved_image_whose_layer_is_another_is_no_image() -> None:
    other = [archives.spoiled(LAYERS[0], b"text" * 200)]
    with pytest.raises(Malformed, match="the layers are"):
        archives.read(archives.files_of(archives.saved("name:1", other, CONFIG)))


def test_a_spoiled_layer_is_still_a_tar_and_differs_in_one_byte() -> None:
    spoiled = archives.spoiled(LAYERS[0], b"text" * 200)
    assert sum(a != b for a, b in zip(LAYERS[0], spoiled, strict=True)) == 1
    assert list(archives.entries(spoiled)) == ["file"]


def test_a_layer_is_written_as_tar_reads_it(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_text("text")
    os.link(tmp_path / "dir" / "file", tmp_path / "linked")
    os.symlink("dir/file", tmp_path / "link")
    with tarfile.open(fileobj=io.BytesIO(archives.layer_of(str(tmp_path)))) as tar:
        kinds = {info.name: info.type for info in tar}
    assert kinds == {
        "dir": tarfile.DIRTYPE,
        "link": tarfile.SYMTYPE,
        "linked": tarfile.REGTYPE,
        "dir/file": tarfile.LNKTYPE,
    }
