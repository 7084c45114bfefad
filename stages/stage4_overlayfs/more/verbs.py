"""What images and containers are dealt with by: `image …`, `build`, `commit`, `diff`, `rm`."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from importlib import import_module
from typing import NamedTuple

from stages import linux
from stages.command_line import FAILED, USAGE, Usage, note, parse
from stages.stage4_overlayfs import containers, storage
from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.aside import step_aside
from stages.stage4_overlayfs.more.build import build as build_image
from stages.stage4_overlayfs.more.commit import commit as commit_image
from stages.stage4_overlayfs.more.exporting import export_layout, export_tar
from stages.stage4_overlayfs.more.history import history, inspect
from stages.stage4_overlayfs.more.importing import import_image
from stages.stage4_overlayfs.more.interrupts import stoppable
from stages.stage4_overlayfs.more.leftovers import leftovers, remove_leftovers
from stages.stage4_overlayfs.more.names import full_name, shown
from stages.stage4_overlayfs.more.progress import Progress, in_units
from stages.stage4_overlayfs.more.prune import prune
from stages.stage4_overlayfs.more.verify import verify
from stages.stage4_overlayfs.options import Stacked, store_folder
from stages.stage4_overlayfs.pack import pack
from stages.stage4_overlayfs.room import leave_room, make_room
from stages.stage4_overlayfs.runtime import run_on
from stages.stage4_overlayfs.stack import user_of
from stages.stage4_overlayfs.store import Store
from stages.stage4_overlayfs.whiteouts import ApplyForm, in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import Any

    from stages.stage4_overlayfs.more.build import Event

    Options = Mapping[str, Sequence[str]]
    Row = tuple[str, str, str, str]

HELP = ("-h", "--help", "", "show this and do nothing")
DEBUG = ("", "--debug", "", "show a traceback with an error")
TRACE = ("", "--trace", "", "show each system call on stderr as it is made")
DRIVER = ("", "--storage-driver", "NAME", f"{', '.join(storage.DRIVERS)} (overlay)")


class Verb(NamedTuple):
    """One command: its operands as usage shows them, how many it takes, its options."""

    operands: str
    least: int
    most: int
    meaning: str
    options: Sequence[Row]
    do: Callable[[Store, Sequence[str], Options], int]


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ---- images


def image_import(store: Store, operands: Sequence[str], options: Options) -> int:
    """Bring an image in: from a tar, `-` for stdin, an OCI layout, or a directory."""
    source, name = operands
    image = import_image(
        store,
        sys.stdin.buffer if source == "-" else source,
        name,
        pick=last(options, "--pick"),
        form=last(options, "--form"),
        pack=lambda directory: pack(directory, ApplyForm()),
    )
    say(image.digest)
    return 0


def image_ls(store: Store, _: Sequence[str], options: Options) -> int:
    """List the names, each with the digest of its manifest and its size."""
    rows = []
    for name, digest in store.names().items():
        layers = {layer[1]: layer[3] for layer in Image(store, digest).layers}
        rows.append((name, digest, len(layers), sum(layers.values())))
    if "--json" in options:
        keys = ("name", "digest", "layers", "size")
        say(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return 0
    table(
        [("NAME", "DIGEST", "LAYERS", "SIZE")]
        + [(n, d[:19], c, in_units(s)) for n, d, c, s in rows]
    )
    return 0


def image_rm(store: Store, operands: Sequence[str], _: Options) -> int:
    """Forget names; `image prune` then removes what nobody needs any more."""
    return each(operands, store.untag)


def image_history(store: Store, operands: Sequence[str], options: Options) -> int:
    """Show how an image was made, its first step first."""
    rows = history(Image(store, store.resolve(operands[0])))
    if "--json" in options:
        say(json.dumps(rows, ensure_ascii=False))
        return 0
    shape = [("CREATED", "LAYER", "SIZE", "CREATED BY")]
    for row in rows:
        layer = row["diff_id"][:19] or "-"
        shape.append(
            (shown(row["created"]), layer, in_units(row["size"]), shown(row["created_by"]))
        )
    table(shape)
    return 0


def image_inspect(store: Store, operands: Sequence[str], _: Options) -> int:
    """Show what an image is, as JSON."""
    found = []
    for operand in operands:
        digest = store.resolve(operand)
        names = [name for name, leads in store.names().items() if leads == digest]
        found.append(inspect(Image(store, digest), names))
    say(json.dumps(found, indent=2, ensure_ascii=False))
    return 0


def image_export(store: Store, operands: Sequence[str], options: Options) -> int:
    """Write an image: a tar that Docker loads, and is an OCI layout, too; or such a directory."""
    name, target = operands
    image = Image(store, store.resolve(name))
    names = [] if name.startswith("sha256:") else [full_name(name)]
    docker = last(options, "--form") != "oci"
    if target == "-":
        export_tar(image, sys.stdout.buffer, names, docker=docker)
        sys.stdout.buffer.flush()
    elif not os.path.isdir(folder := os.path.dirname(os.path.abspath(target))):
        raise ValueError(f"{shown(folder)}: no such directory: make it first")
    elif target.endswith(".tar"):
        # Whole or not at all: who finds the file finds an image.
        making = f"{target}.{os.urandom(4).hex()}"
        try:
            with open(making, "xb") as file:
                export_tar(image, file, names, docker=docker)
            os.rename(making, target)
        finally:
            if os.path.lexists(making):
                os.unlink(making)
    else:
        export_layout(image, target, names)
    return 0


def image_prune(store: Store, _: Sequence[str], options: Options) -> int:
    """Remove what no name and no container needs, and what a killed process has left."""

    def discard(driver: str, layer: str) -> None:
        storage.choose(driver, store.root).discard(layer.partition(":")[2])

    dry_run = "--dry-run" in options
    left = leftovers(store)
    if not dry_run and (left or os.listdir(f"{store.root}/layers")):
        # What an image has closed to all but root, an ordinary user may enter as its root only.
        own_mounts(Stacked(["/", "?"], {}))
        remove_leftovers(store)
    for path in left:
        say(path)
    gone = prune(store, discard, dry_run=dry_run)
    for digest in (*gone.blobs, *(f"{driver} {layer}" for driver, layer in gone.layers)):
        say(digest)
    word = "would be " if dry_run else ""
    say(f"{word}removed: {len(gone.blobs)} blobs, {len(gone.layers)} layers, {in_units(gone.size)}")
    return 0


def image_verify(store: Store, _: Sequence[str], _options: Options) -> int:
    """Read every blob again, and see whether it is what its name says."""
    faults = verify(store)
    for fault in faults:
        note(fault)
    return FAILED if faults else 0


def image_pull(store: Store, operands: Sequence[str], _: Options) -> int:
    """Fetch an image from a registry; its name says which, as it does for Docker."""
    with Progress(sys.stderr) as progress:
        image = distribution().pull(store, operands[0], tell=progress.tell)
    say(image.digest)
    return 0


def image_push(store: Store, operands: Sequence[str], _: Options) -> int:
    """Send an image to the registry that its name says, or TARGET."""
    with Progress(sys.stderr) as progress:
        digest = distribution().push(store, *operands, tell=progress.tell)
    say(digest)
    return 0


def distribution() -> ModuleType:
    """Return the room of registries: HTTP and TLS take long to load."""
    return import_module("stages.stage4_overlayfs.more.distribution")


# ---- containers


def build(store: Store, operands: Sequence[str], options: Options) -> int:
    """Build an image of a directory with a Dockerfile, and say what each step did."""
    given = dict(word.partition("=")[::2] for word in options.get("--build-arg", ()))
    driver = last(options, "--storage-driver") or "overlay"
    if not os.path.isdir(operands[0]):
        raise ValueError(f"{shown(operands[0])}: no such directory: name that of the Dockerfile")
    shell = Stacked([operands[0] if operands[0].startswith("/") else f"./{operands[0]}", "?"], {})
    own_mounts(shell)
    events = build_image(
        store,
        storage.choose(driver, store.root),
        operands[0],
        last(options, "--file") or "Dockerfile",
        tag=last(options, "--tag"),
        build_args=given,
        run=run_step,
        cache="--no-cache" not in options,
    )
    # Closed, so that it tidies up also where Ctrl-C comes while we are saying something.
    with closing(events):
        for event in events:
            tell(event)
    return 0


def tell(event: Event) -> None:
    """Say what a step of a build did."""
    if event.what == "step":
        say(f"[{event.step}/{event.steps}] {shown(event.text)}")
    elif event.what == "note":
        note(event.text)
    elif event.what == "built":
        say(event.digest)
    else:
        told = "CACHED" if event.what == "cached" else "made"
        say(f"      {told}{' ' if event.digest else ''}{event.digest[:19]}")


def run_step(
    config: dict[str, Any],
    root: str,
    argv: list[str],
    env: dict[str, str],
    workdir: str,
    user: str,
) -> int:
    """Run a command of a RUN in the tree `root`; return its exit status."""
    ordinary = in_user_namespace()
    container = Stacked([root, *argv], {"--net": ["none"]} if ordinary else {})
    if ordinary:
        # Root of nothing but a namespace, which the child is in already.
        container.rootless = True
        container.namespaces |= {"user"}
        container.entered = container.entered | {"user"}
    container.environment = {os.fsencode(key): os.fsencode(env[key]) for key in env}
    container.workdir, container.user = workdir, user_of(root, user)
    made = make_room(root, container)
    try:
        return run_on(container)
    finally:
        leave_room(made)


def commit(store: Store, operands: Sequence[str], options: Options) -> int:
    """Make an image of what a container wrote, on top of the image it was made from."""
    own_mounts(Stacked(["/", "?"], {}))
    identity = containers.find(store, operands[0])
    driver = written_by(store, identity)
    image = commit_image(store, driver, identity, operands[1], options.get("--change", ()))
    say(image.digest)
    return 0


def diff(store: Store, operands: Sequence[str], _: Options) -> int:
    """Show what a container Added, Changed and Deleted."""
    own_mounts(Stacked(["/", "?"], {}))
    identity = containers.find(store, operands[0])
    for kind, path in written_by(store, identity).diff(identity):
        say(f"{kind} {path}")
    return 0


def rm(store: Store, operands: Sequence[str], _: Options) -> int:
    """Remove containers, and all that they wrote."""
    own_mounts(Stacked(["/", "?"], {}))
    return each(operands, lambda word: containers.remove(store, containers.find(store, word)))


def written_by(store: Store, identity: str) -> storage.Driver:
    """Return the driver that has a container's files; raise where nothing was ever mounted."""
    if driver := containers.driver_of(store, identity):
        return driver
    raise ValueError(f"{identity}: it was never started: `rm {identity}` removes it")


# ---- what they share


def each(operands: Sequence[str], do: Callable[[str], None]) -> int:
    """Do something with each operand: one that can't be done doesn't keep the others from it."""
    status = 0
    for operand in operands:
        try:
            do(operand)
        except (OSError, ValueError) as error:
            note(line_of(error))
            status = FAILED
    return status


def own_mounts(container: Stacked) -> None:
    """Have mounts of our own; an ordinary user's files are root's in a namespace of the user's."""
    container.namespaces |= {"user"} if container.rootless else set()
    step_aside(container)


def last(options: Options, name: str) -> str:
    """Return an option's last value, "" where it isn't said."""
    return options.get(name, [""])[-1]


def table(rows: Sequence[Sequence[object]]) -> None:
    """Write rows in columns; the last one is as wide as it likes."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True)]
        say("  ".join(cells).rstrip())


JSON = ("", "--json", "", "as JSON")
VERBS = {
    "image import": Verb(
        "TAR|DIR|OCI-LAYOUT NAME", 2, 2, "bring an image in, or a root file system",
        [("", "--pick", "IMAGE", "which of several, by its name there"),
         ("", "--form", "FORM", "oci, docker or rootfs, where it can't be told by looking")],
        image_import,
    ),
    "image ls": Verb("", 0, 0, "list the images", [JSON], image_ls),
    "image rm": Verb("NAME...", 1, 999, "forget names", [], image_rm),
    "image history": Verb("NAME", 1, 1, "how it was made", [JSON], image_history),
    "image inspect": Verb("NAME...", 1, 999, "what it is, as JSON", [], image_inspect),
    "image export": Verb(
        "NAME FILE.tar|DIR|-", 2, 2, "write a tar that Docker loads, or an OCI layout",
        [("", "--form", "FORM", "docker (a tar for both), or oci alone")],
        image_export,
    ),
    "image pull": Verb("NAME", 1, 1, "fetch an image from a registry", [], image_pull),
    "image push": Verb(
        "NAME [TARGET]", 1, 2, "send an image to the registry in its name, or TARGET's", [],
        image_push,
    ),
    "image prune": Verb(
        "", 0, 0, "remove what nobody needs",
        [("", "--dry-run", "", "only say what that is")], image_prune,
    ),
    "image verify": Verb("", 0, 0, "check every blob and every image", [], image_verify),
    "build": Verb(
        "-t NAME DIR", 1, 1, "make an image from a Dockerfile",
        [("-t", "--tag", "NAME", "its name"),
         ("-f", "--file", "FILE", "the Dockerfile, of DIR or from / (Dockerfile)"),
         ("", "--build-arg", "K=V", "for an ARG"),
         ("", "--no-cache", "", "make every step again"), DRIVER],
        build,
    ),
    "commit": Verb(
        "CONTAINER NAME", 2, 2, "make an image of a container",
        [("-c", "--change", "LINE", 'an instruction for it: CMD ["/bin/sh"]')], commit,
    ),
    "diff": Verb("CONTAINER", 1, 1, "what a container added, changed, deleted", [], diff),
    "rm": Verb("CONTAINER...", 1, 999, "remove containers", [], rm),
}  # fmt: skip


def overview() -> str:
    """Return what `--help` says of all these."""
    lines = ["Images and containers:"]
    lines += [f"  {f'{name} {verb.operands}':<38} {verb.meaning}" for name, verb in VERBS.items()]
    lines.append("The store is /var/lib/labrun/store, a user's ~/.local/share/labrun/store, or")
    return "\n".join([*lines, "where LABRUN_STORE says."])


def usage(name: str, verb: Verb) -> str:
    """Return what `--help` prints for one of them."""
    lines = [f"Usage: stage4 {name} [OPTIONS] {verb.operands}".rstrip(), "", "Options:"]
    for short, long, value, meaning in (*verb.options, TRACE, DEBUG, HELP):
        spelling = f"{short + ',' if short else '   '} {long} {value}"
        lines.append(f"  {spelling:<22} {meaning}")
    return "\n".join(lines)


def serve_verb(arguments: Sequence[str]) -> int:
    """Do one of these; return the exit status that the contract wants."""
    words = 2 if arguments[0] == "image" else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    debug = False
    try:
        if name not in VERBS:
            if name in ("image", "image -h", "image --help"):
                raise Usage("image needs a command")
            raise Usage(f"there is no command {name!r}")
        verb = VERBS[name]
        options, operands = parse(rest, [*verb.options, TRACE, DEBUG, HELP])
        debug = "--debug" in options
        if "--help" in options:
            say(usage(name, verb))
            return 0
        if not verb.least <= len(operands) <= verb.most:
            raise Usage(f"{name} needs {verb.operands or 'no operands'}")
        if "--trace" in options:
            linux.watch = linux.trace
        with stoppable():
            return verb.do(Store(store_folder()), operands, options)
    except Usage as error:
        note(f"{error}\n\n{usage(name, VERBS[name]) if name in VERBS else overview()}")
        return USAGE
    except BrokenPipeError:
        return FAILED
    except (OSError, ValueError) as error:
        if debug:
            sys.excepthook(type(error), error, error.__traceback__)
        note(line_of(error))
        return FAILED


def line_of(error: OSError | ValueError) -> str:
    """Return an error as one line: what, and why."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error).replace("\n", "\\n")
    parts = (str(error.filename), error.strerror or "", storage.why(error))
    return ": ".join(filter(None, parts)).replace("\n", "\\n")
