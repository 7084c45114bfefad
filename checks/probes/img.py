"""Images: layers that are stacked, named by what is in them, built once, and the same elsewhere."""

import contextlib
import functools
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from checks import archives, ground
from checks.archives import Malformed, entry
from checks.canaries import nonce
from checks.images import Images, NoImages, Refused
from checks.model import Finding, Verdict
from checks.probes import Probe, probe, promise
from checks.probes.cow import used
from checks.runtimes import Request
from checks.trial import NotStarted, Trial
from checks.words import say

BALLAST = 4 << 20
"""Bytes of a layer that would be noticed if it were kept twice."""
UUID = "/proc/sys/kernel/random/uuid"
"""Another text each time that it is read: random(4)."""


def asked_for_images(look: Probe) -> Probe:
    """Have a probe find a promise broken where there are no images, or they aren't dealt with."""

    @functools.wraps(look)
    def judged(trial: Trial) -> Finding:
        try:
            return look(trial)
        except (NoImages, Refused) as error:
            return Finding(Verdict.BROKEN, (str(error),))
        except Malformed as error:
            return Finding(Verdict.BROKEN, (say("img.malformed", reason=error),))

    return judged


def root_layer(trial: Trial) -> bytes:
    """Return ROOT as a layer: something that a command can run in."""
    return archives.layer_of(trial.bench.path(trial.bench.root))


@contextlib.contextmanager
def inside(trial: Trial, image: str) -> Iterator[Callable[[str], bytes | None]]:
    """Start a container of an image; give what reads a file in it, from outside."""
    with trial.started(root=image) as container:

        def look(name: str) -> bytes | None:
            with contextlib.suppress(OSError):
                return bytes.fromhex(container.visit(lambda: ground.read(name).hex()))
            return None

        yield look


def named(word: str) -> str:
    """Return a new name for an image."""
    return f"{nonce(word)}:1"


@probe("img.layers")
@asked_for_images
def layers(trial: Trial) -> Finding:
    """Layers lie on each other in order, inside ROOT only, and the same one is kept once."""
    images, bench = Images(trial), trial.bench
    root, faults = root_layer(trial), []
    ballast = archives.layer(entry("ballast", os.urandom(BALLAST)))
    stack = [
        archives.layer(entry("order", word.encode()), entry(f"only-{word}", word.encode()))
        for word in ("lowest", "middle", "top")
    ]
    first, second = named("layers"), named("layers")
    images.take(first, archives.saved(first, [root, ballast, *stack]))
    with inside(trial, first) as look:
        if (seen := look("/order")) != b"top":
            faults.append(say("img.order", seen=seen))
        names = ("/only-lowest", "/only-middle", "/only-top")
        faults += [say("img.lacking", file=name) for name in names if look(name) is None]
    before = used(bench, [])
    images.take(second, archives.saved(second, [root, ballast, archives.layer(entry("order"))]))
    with inside(trial, second) as look:
        if look("/order") != b"":
            faults.append(say("img.order", seen=look("/order")))
    cost = used(bench, []) - before
    if cost > BALLAST // 2:
        faults.append(say("img.kept_twice", size=cost / 2**20))
    faults += _escapes(trial, images, root)
    return promise(
        faults,
        say("img.in_order", count=len(stack) + 2),
        say("img.kept_once", size=max(cost, 0) / 2**20, layer=BALLAST / 2**20),
        say("img.stays_inside"),
    )


def _escapes(trial: Trial, images: Images, root: bytes) -> list[str]:
    """Have images taken in whose layers write through a link, to a folder of the bench's.

    They may be refused, or what they hold be written inside: never where the link leads outside.
    """
    trap = f"{trial.bench.scratch}/{nonce('trap')}"
    os.mkdir(trial.bench.path(trap), 0o777)
    link, beyond = entry("out", link=trap), entry("out/reached", b"reached\n")
    for stack in ([archives.layer(link, beyond)], [archives.layer(link), archives.layer(beyond)]):
        name = named("hostile")
        with contextlib.suppress(Refused, NotStarted):
            images.take(name, archives.saved(name, [root, *stack]))
            trial.run(Request(["/bin/true"], root=name))
    reached = os.listdir(trial.bench.path(trap))
    return [say("img.escaped", path=f"{trap}/{name}") for name in reached]


@probe("img.whiteouts")
@asked_for_images
def whiteouts(trial: Trial) -> Finding:
    """A layer's deletions delete, and a container's are written as deletions."""
    images, root = Images(trial), root_layer(trial)
    faults: list[str] = []
    lower = archives.layer(
        entry("gone", b"old"),
        entry("kept", b"old"),
        *(entry("dir", None), entry("dir/old", b"old"), entry("dir/older", b"old")),
        *(entry("deep", None), entry("deep/down", None), entry("deep/down/gone", b"old")),
        *(entry("full", None), entry("full/old", b"old")),
    )
    upper = archives.layer(
        entry(".wh.gone"),
        *(entry("dir", None), entry("dir/.wh..wh..opq"), entry("dir/new", b"new")),
        *(entry("deep", None), entry("deep/down", None), entry("deep/down/.wh.gone")),
    )
    name, changed = named("whiteouts"), named("changed")
    images.take(name, archives.saved(name, [root, lower, upper]))
    wanted = {".": {"kept", "dir", "deep", "full"}, "dir": {"new"}, "deep/down": set()}
    called = nonce("deletes")
    with trial.started(root=name, options=("--name", called)) as container:
        faults += _listing_faults(container.visit(lambda: _listings([*wanted])), wanted)
        try:
            container.visit(_delete)
        except OSError as error:
            faults.append(say("img.not_deleted", reason=error.strerror))
        images.must("commit", called, changed)
    _forget(images, called)
    top = archives.entries(archives.read(images.give(changed))[0].layers[-1])
    faults += _unwritten(top)
    with trial.started(root=changed) as container:
        wanted = {".": {"dir", "deep", "full"}, "dir": {"new"}, "full": {"new"}}
        faults += _listing_faults(container.visit(lambda: _listings([*wanted])), wanted)
    written = [path for path in sorted(top) if ".wh." in path]
    return promise(
        faults, say("img.deleted"), say("img.written", entries=", ".join(written)), say("img.again")
    )


def _delete() -> None:
    """Be a container's command that deletes a file, and puts a new directory in one's place."""
    os.unlink("/kept")
    ground.clear("/full")
    os.rmdir("/full")
    os.mkdir("/full", 0o755)
    ground.write("/full/new", os.O_CREAT | os.O_EXCL, b"new")


def _listings(folders: list[str]) -> dict[str, list[str]]:
    """Return the names in some directories of this root, those that are these images' own."""
    own = ("gone", "kept", "dir", "deep", "full")
    return {
        folder: [
            name
            for name in ground.listed(f"/{folder}")
            if folder != "." or name in own or name.startswith(".wh.")
        ]
        for folder in folders
    }


def _listing_faults(found: dict[str, list[str]], wanted: dict[str, set[str]]) -> list[str]:
    return [
        say("img.listing", folder=f"/{folder}", seen=found[folder], wanted=sorted(names))
        for folder, names in wanted.items()
        if set(found[folder]) != names
    ]


def _unwritten(top: Mapping[str, tarfile.TarInfo]) -> list[str]:
    """Return which deletions a container's layer does not speak of, or not as OCI has it."""
    faults = [say("img.device", file=path) for path, info in top.items() if info.ischr()]
    faults += [] if ".wh.kept" in top else [say("img.unwritten", file="/kept")]
    if not {"full/.wh..wh..opq", "full/.wh.old"} & set(top):
        faults.append(say("img.unwritten", file="/full/old"))
    return faults


def _forget(images: Images, container: str) -> None:
    """Have a container removed that was kept for a commit; some have gone already."""
    with contextlib.suppress(NoImages):
        images.ask("rm", container)


@probe("img.build")
@asked_for_images
def build(trial: Trial) -> Finding:
    """An image is built from a Dockerfile, and is as that says."""
    images, bench = Images(trial), trial.bench
    base, name = named("base"), named("built")
    images.take(base, archives.saved(base, [root_layer(trial)]))
    greeting, content = nonce("greeting"), nonce("content")
    folder = images.context(
        {
            "Dockerfile": f"""\
FROM {base}
ENV GREETING={greeting}
WORKDIR /work
COPY . copied/
RUN echo "$GREETING" > made
RUN if read line < {bench.canaries.file}; then echo reached > out; fi
CMD ["/bin/sh", "-c", "read line < made; echo $PWD $line"]
""",
            "folder/file": content,
            "secret": "not for the image",
            ".dockerignore": "secret\n",
        }
    )
    images.build(name, folder)
    faults = []
    ended = trial.run(Request([], root=name))
    if ended.stdout.decode(errors="replace").strip() != f"/work {greeting}":
        faults.append(say("img.command", got=ended.stdout[-200:], said=ended.said()))
    with inside(trial, name) as look:
        if look("/work/copied/folder/file") != content.encode():
            faults.append(say("img.lacking", file="/work/copied/folder/file"))
        if look("/work/copied/secret") is not None:
            faults.append(say("img.not_ignored", file="secret"))
        if look("/work/out") is not None:
            faults.append(say("img.run_outside", path=bench.canaries.file))
    faults += _built_after_a_failure(images, base)
    return promise(faults, say("img.built", greeting=greeting), say("img.build_failed"))


def _built_after_a_failure(images: Images, base: str) -> list[str]:
    """Build an image whose RUN fails; return as a fault that there is one all the same."""
    name = named("failed")
    folder = images.context({"Dockerfile": f"FROM {base}\nRUN exit 3\n"})
    with contextlib.suppress(Refused):
        images.build(name, folder)
        return [say("img.built_all_the_same")]
    return []


@probe("img.cache")
@asked_for_images
def cache(trial: Trial) -> Finding:
    """What is built already is not built again, until what it was made of changes."""
    images = Images(trial)
    base = named("base")
    images.take(base, archives.saved(base, [root_layer(trial)]))
    dockerfile = f"""\
FROM {base}
RUN read uuid < {UUID}; echo $uuid > /first
COPY data /data
RUN read uuid < {UUID}; echo $uuid > /second
"""
    folder = images.context({"Dockerfile": dockerfile, "data": "one\n"})
    data = images.bench.path(f"{folder}/data")

    def built(*options: str) -> tuple[bytes | None, ...]:
        name = named("cached")
        images.build(name, folder, *options)
        with inside(trial, name) as look:
            return tuple(map(look, ("/first", "/data", "/second")))

    first = built()
    faults = [] if all(first) else [say("img.lacking", file="/first, /data, /second")]

    def expect(case: str, found: tuple[bytes | None, ...], *changed: bool) -> None:
        steps = ("RUN", "COPY", "RUN")
        for step, old, new, wanted in zip(steps, first, found, changed, strict=True):
            if (old != new) != wanted:
                said = {"case": case, "step": step}
                faults.append(say("img.stale", **said) if wanted else say("img.made_again", **said))

    expect(say("img.case_again"), built(), False, False, False)
    os.utime(data, (0, 0))
    expect(say("img.case_touched"), built(), False, False, False)
    Path(data).write_text("two\n", encoding="ascii")
    expect(say("img.case_changed"), built(), False, True, True)
    Path(data).write_text("one\n", encoding="ascii")
    expect(say("img.case_back"), built(), False, False, False)
    images.fill(folder, {"Dockerfile": dockerfile.replace("/first\n", "/first; :\n")})
    expect(say("img.case_first"), built(), True, False, True)
    images.fill(folder, {"Dockerfile": dockerfile})
    expect(say("img.case_no_cache"), built("--no-cache"), True, False, True)
    return promise(
        faults, say("img.cached", first=_text(first[0]), second=_text(first[2])), say("img.cases")
    )


def _text(read: bytes | None) -> str:
    """Return what was read of a file, as evidence."""
    return (read or b"").decode(errors="replace").strip()


@probe("img.digest")
@asked_for_images
def digest(trial: Trial) -> Finding:
    """What is not what its digest says is refused: when it comes in, and in the store."""
    images, root = Images(trial), root_layer(trial)
    faults, notes = [], []
    text = nonce("text").encode()
    good = archives.layer(entry("file", text + bytes(600)))
    name = named("whole")
    images.take(name, archives.saved(name, [root, good]))
    with inside(trial, name) as look:
        if look("/file") != text + bytes(600):
            faults.append(say("img.lacking", file="/file"))
    # The same length, the same names: only a digest tells. A layer that is there already need not
    # be read again, so the first is one that nobody has seen.
    unseen = nonce("text").encode()
    other = archives.layer(entry("file", unseen + bytes(600)))
    wrong, bad = archives.spoiled(other, unseen), archives.spoiled(good, text)
    meant = archives.configuration([root, other])
    spoiled: dict[str, tuple[Callable[[str], bytes], bytes]] = {
        say("img.spoiled_saved"): (
            lambda new: archives.saved(new, [root, wrong], meant),
            unseen,
        ),
        say("img.spoiled_exported"): (
            lambda new: _renamed(images, name, new, good, bad),
            text,
        ),
    }
    for what, (make, whole) in spoiled.items():
        new = named("spoiled")
        try:
            images.take(new, make(new))
        except Refused as error:
            notes.append(say("img.refused", case=what, said=error))
            continue
        ended = trial.run(Request(["/bin/cat", "/file"], root=new))
        if ended.stdout.startswith(whole):
            notes.append(say("img.had_it", case=what))
        elif ended.stdout:
            faults.append(say("img.not_refused", case=what))
        else:
            notes.append(say("img.not_run", case=what, said=ended.said()))
    faults += _unnoticed(images, name, good, notes)
    return promise(faults, *notes)


def _renamed(images: Images, name: str, new: str, good: bytes, bad: bytes) -> bytes:
    """Return an image as it was exported, under a new name, and with a layer spoiled."""
    files = images.give(name)
    short, other = name.partition(":")[0].encode(), new.partition(":")[0].encode()
    changed = {
        path: bad if data == good else data.replace(short, other)
        for path, data in files.items()
        if path != "repositories"
    }
    return archives.layer(*(entry(path, data) for path, data in changed.items()))


def _unnoticed(images: Images, name: str, good: bytes, notes: list[str]) -> list[str]:
    """Change a layer in the store; return as a fault that nobody notices."""
    place = _kept(images.bench.path(images.bench.disk), good)
    if not place:
        notes.append(say("img.no_blob"))
        return []
    try:
        if whole := images.ask("image verify").status:
            return [say("img.verify_wrong", status=whole)]
        data = place.read_bytes()
        mode = place.stat().st_mode
        place.chmod(0o600)
        place.write_bytes(archives.spoiled(data, data[600:700]))
        place.chmod(mode & 0o7777)
        if images.ask("image verify").status == 0:
            return [say("img.verify_silent")]
        with contextlib.suppress(Refused):
            images.must("image export", name, f"{images.place('damaged')}.tar")
            return [say("img.export_silent")]
    except NoImages as error:
        notes.append(str(error))
        return []
    notes.append(say("img.verified", file=place.name))
    return []


def _kept(folder: str, data: bytes) -> Path | None:
    """Return the file below a folder that holds just these bytes, None where there is none."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(OSError):
                facts = path.lstat()
                alike = stat.S_ISREG(facts.st_mode) and facts.st_size == len(data)
                if alike and path.read_bytes() == data:
                    return path
    return None


@probe("img.interop")
@asked_for_images
def interop(trial: Trial) -> Finding:
    """What goes out is what came in, digest for digest, and others can read it."""
    images, root = Images(trial), root_layer(trial)
    name = named("interop")
    stack = [root, archives.layer(entry("file", b"text"))]
    config = archives.configuration(stack, ["/bin/true"])
    images.take(name, archives.saved(name, stack, config))
    faults, notes = [], []
    for image in archives.read(images.give(name)):
        if image.config != config:
            faults.append(say("img.config_other", form=image.form))
        if list(image.layers) != stack:
            faults.append(say("img.layers_other", form=image.form))
        notes.append(say("img.read", form=image.form, digest=archives.hexdigest(image.config)[:12]))
    try:
        faults += _there_and_back(images, name, config, notes)
    except NoImages as error:
        notes.append(str(error))
    return promise(faults, *notes)


def _there_and_back(images: Images, name: str, config: bytes, notes: list[str]) -> list[str]:
    """Have skopeo carry an image elsewhere, and bring it back; return what changed on the way.

    Where there is no skopeo, a layout that was exported is imported as it is.
    """
    bench, faults = images.bench, []
    archive = f"{images.place('export')}.tar"
    images.must("image export", name, archive)
    if shutil.which("skopeo"):
        carried = f"{images.place('carried')}.tar"
        back = named("back")
        _skopeo(images, f"docker-archive:{archive}", f"docker-archive:{carried}:{back}")
        images.must("image import", carried, back)
        returned = archives.read(images.give(back))[0]
        if returned.config != config:
            faults.append(say("img.config_other", form="skopeo"))
        notes.append(say("img.skopeo", form="docker-archive"))
    layout = images.give_layout(name)
    before = archives.read(archives.folder_files(bench.path(layout)))[0]
    if shutil.which("skopeo"):
        carried = images.place("layout")
        # It would compress the layers, unless it is told to leave them as they are.
        _skopeo(images, f"oci:{layout}", f"oci:{carried}:1", "--preserve-digests")
        layout = carried
        notes.append(say("img.skopeo", form="oci"))
    back = named("back")
    images.must("image import", layout, back)
    layout = images.give_layout(back)
    after = archives.read(archives.folder_files(bench.path(layout)))[0]
    if before.manifest != after.manifest:
        faults.append(say("img.manifest_other", before=before.manifest, after=after.manifest))
    notes.append(say("img.round", digest=after.manifest))
    return faults


def _skopeo(images: Images, source: str, target: str, *options: str) -> None:
    """Have skopeo copy an image on the bench. Raises Refused: then it can't read what came out."""
    pipe = subprocess.PIPE
    process = images.bench.popen(
        ["skopeo", "--insecure-policy", "copy", *options, source, target],
        stdout=pipe,
        stderr=pipe,
    )
    _, said = process.communicate()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Refused(say("img.skopeo_failed", said=lines[-1] if lines else process.returncode))
