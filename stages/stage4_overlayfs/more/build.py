"""An image from a Dockerfile: each instruction is a step, and none is made twice.

What a step is made of is its key (more/cache.py):

    all       the key of the step before, and the instruction with its variables replaced
    COPY ADD  names, types, modes, owners and bytes of what is copied; no times
    RUN       the command as it is written, and its variables: ENV's, and the ARGs declared so far

The first step's parent is the base's manifest, with `created` where that is said. An ARG alone
changes nothing: who uses it does. Docker's reference: "Build cache invalidation".

How reproducible it is: a layer of COPY depends only on the files, their times of change included,
and on the image below; one of RUN has the times at which it wrote. With `created` no time in the
image is later than that: the same files, of that time or older, and commands that write the same
bytes make the same digests.
"""

from __future__ import annotations

import copy
import errno
import os
import posixpath
import time
from functools import partial
from typing import NamedTuple

from stages.stage4_overlayfs.image import Image, add_layer, new, open_layer
from stages.stage4_overlayfs.more import cache as caches
from stages.stage4_overlayfs.more.context import Context
from stages.stage4_overlayfs.more.copying import Copying, clamped, new_folder
from stages.stage4_overlayfs.more.dockerfile import Refused, parse
from stages.stage4_overlayfs.more.dockerignore import Ignore
from stages.stage4_overlayfs.more.layout import PLATFORMS
from stages.stage4_overlayfs.more.names import full_name, shown
from stages.stage4_overlayfs.more.settings import PATH, Settings, command_of, environment
from stages.stage4_overlayfs.more.words import expand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from typing import Any, TypeVar

    from stages.stage4_overlayfs.image import Layer
    from stages.stage4_overlayfs.more.dockerfile import Instruction
    from stages.stage4_overlayfs.storage import Driver
    from stages.stage4_overlayfs.store import Store

    Run = Callable[[dict[str, Any], str, list[str], dict[str, str], str, str], int]
    """(configuration, root directory, command, variables, directory, user) -> exit status."""
    Make = Callable[[], Layer | None]
    Found = TypeVar("Found")

PROXIES = {
    name
    for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (word, word.upper())
}
"""Build arguments that RUN has without an ARG, and that are no part of the image or the key."""
KEPT = ("architecture", "os", "variant", "os.version", "os.features", "author")
"""What an image has from its base, beside `config` and `history`."""
PREFIX = "build-"
"""What the containers of RUN are called."""


class Event(NamedTuple):
    """What has happened: `what` is

    note    there is something to remark
    step    an instruction begins
    cached  it is in the cache         made  it was made; `digest` is the layer's, if it has one
    built   all are done; `digest` is the image's
    """

    what: str
    line: int
    text: str
    step: int
    steps: int
    digest: str = ""


class Failed(Refused):
    """A RUN that ended with another status than 0."""

    def __init__(self, line: int, text: str, status: int) -> None:
        """Say which, and keep the status."""
        super().__init__(line, f"{shown(text)}: ended with status {status}")
        self.status = status


def build(
    store: Store,
    driver: Driver,
    context: str,
    dockerfile: str = "Dockerfile",
    *,
    tag: str = "",
    build_args: Mapping[str, str] | None = None,
    run: Run,
    cache: bool = True,
    created: int | None = None,
) -> Generator[Event, None, None]:
    """Build an image of the directory `context`, give it a name, and say step by step what happens.

    `dockerfile` is a file of the context, or elsewhere where its path begins with /. `run` runs a
    command in a container and returns its exit status. `cache`: take steps from the cache; they
    are kept there in any case. `created`, in seconds since 1970, is the image's time; now by
    default. Raises Refused or Failed, with the line; OSError; ValueError. The store's lock is
    shared all the while, so prune waits.
    """
    if tag:
        full_name(tag)
    files = Context(context)
    try:
        text, ignored = documents(files, dockerfile)
        found, remarks = parse(text)
        yield from (Event("note", line, remark, 0, len(found)) for line, remark in remarks)
        files.read(Ignore(ignored))
        with store.locked(shared=True):
            given = dict(build_args or {})
            work = Building(store, driver, files, given, run, use_cache=cache, created=created)
            yield from work.all(found)
            image = work.finished()
            if tag:
                image.tag(tag)
        yield Event("built", 0, tag, len(found), len(found), image.digest)
    finally:
        files.close()


def documents(files: Context, dockerfile: str) -> tuple[bytes, str]:
    """Return the Dockerfile, and the .dockerignore: that of this Dockerfile, or the context's."""
    ignored = None
    if dockerfile.startswith("/"):
        above = Context(posixpath.dirname(dockerfile))
        try:
            text = above.text(posixpath.basename(dockerfile))
        finally:
            above.close()
    else:
        text = files.text(dockerfile)
        ignored = files.text(f"{dockerfile}.dockerignore")
    if text is None:
        raise FileNotFoundError(errno.ENOENT, "no such Dockerfile: say which with -f", dockerfile)
    if ignored is None:
        ignored = files.text(".dockerignore") or b""
    return text, ignored.decode("utf-8", "surrogateescape")


def sweep(store: Store, driver: Driver) -> list[str]:
    """Remove what builds that were killed have left, and return its names.

    It has the lock alone, and builds share it: so whatever is there is nobody's.
    """
    with store.locked(shared=False):
        names = [name for name in os.listdir(f"{store.root}/containers") if name.startswith(PREFIX)]
        for name in sorted(names):
            driver.remove(name)
    return sorted(names)


class Building:
    """An image on its way: its configuration and its layers so far."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        files: Context,
        given: dict[str, str],
        run: Run,
        *,
        use_cache: bool,
        created: int | None,
    ) -> None:
        """Begin with nothing."""
        self.store, self.driver, self.files = store, driver, files
        self.given, self.run = given, run
        self.use_cache, self.created = use_cache, created
        self.common: dict[str, str] = {}  # ARGs before FROM
        self.arguments: dict[str, str] = {}  # and behind it
        self.used: set[str] = set()
        self.layers: list[Layer] = []
        self.needs: list[str] = []
        self.key = ""

    def all(self, found: Sequence[Instruction]) -> Iterator[Event]:
        """Do each instruction."""
        for step, one in enumerate(found, 1):
            say = partial(Event, line=one.line, text=one.text, step=step, steps=len(found))
            yield say("step")
            try:
                if one.name == "FROM":
                    self.begin(one)
                elif one.name == "ARG":
                    self.declare(one)
                else:
                    was_cached, layer = self.step(one)
                    yield say("cached" if was_cached else "made", digest=layer[0] if layer else "")
            except Refused:
                raise
            except ValueError as error:
                raise Refused(one.line, error) from None
            except OSError as error:
                if error.errno is None:  # a decompressor's, in words of its own
                    raise
                words = f"Dockerfile:{one.line}: {error.strerror}"
                raise OSError(error.errno, words, error.filename) from error
        if unused := sorted(self.given.keys() - self.used - PROXIES):
            text = f"--build-arg {shown(', '.join(unused))}: no ARG asks for it"
            yield Event("note", 0, text, len(found), len(found))

    def begin(self, one: Instruction) -> None:
        """Take the base image, or nothing: `scratch`."""
        name = expand(one.words[0], self.common, one.escape)
        if not name:
            raise ValueError("FROM nothing: its ARG has no value")
        if name == "scratch":
            machine = os.uname().machine
            base: dict[str, Any] = {
                "architecture": PLATFORMS.get(machine, machine),
                "os": "linux",
            }
            self.key = caches.key_of("", "scratch", self.created)
        else:
            image = Image(self.store, self.store.resolve(name))
            base, self.layers = image.config, list(image.layers)
            self.needs = [image.digest, image.config_digest, *(row[1] for row in self.layers)]
            self.key = caches.key_of("", image.digest, self.created)
        self.config = {key: base[key] for key in KEPT if base.get(key)}
        self.config["config"] = copy.deepcopy(base.get("config") or {})
        if self.config["config"].get("OnBuild"):
            raise ValueError(f"{shown(name)}: has ONBUILD triggers, which are not known here")
        self.config["history"] = copy.deepcopy(base.get("history") or [])
        self.began = len(self.config["history"])
        self.settings = Settings(self.config["config"])

    def declare(self, one: Instruction) -> None:
        """Take an ARG: from the command line, its default, or that of one before FROM."""
        inside = bool(self.key)
        values = self.values() if inside else self.common
        found: dict[str, str] = {}
        for name, default in one.pairs:
            if name in self.given:
                self.used.add(name)
                found[name] = self.given[name]
            elif default is not None:
                found[name] = expand(default, values, one.escape)
            elif inside and name in self.common:
                found[name] = self.common[name]
        (self.arguments if inside else self.common).update(found)

    def values(self) -> dict[str, str]:
        """Return the variables: an ENV is stronger than an ARG of its name."""
        return {**self.arguments, **environment(self.config["config"])}

    def step(self, one: Instruction) -> tuple[bool, Layer | None]:
        """Do one instruction, or take it from the cache: return which, and its layer."""
        told, facts, make = self.prepared(one)
        self.key = caches.key_of(self.key, told, *facts)
        made = caches.find(self.store, self.key) if self.use_cache else None
        was_cached = made is not None
        if made is None:
            layer = make()
            history: dict[str, Any] = {"created": stamp(self.created), "created_by": told}
            if layer is None:
                history["empty_layer"] = True
            made = caches.Step(layer, history)
        if made.layer:
            self.layers.append(made.layer)
            self.needs.append(made.layer[1])
        self.config["history"].append(made.history)
        if not was_cached:
            # What can't be unpacked has no place in an image, nor in the cache.
            if made.layer:
                self.driver.prepare(self.openers())
            caches.keep(self.store, self.key, made, self.needs)
        return was_cached, made.layer

    def prepared(self, one: Instruction) -> tuple[str, list[object], Make]:
        """Return an instruction as history tells it, what else its key has, and what makes it."""
        if one.name == "RUN":
            command = command_of(one, self.config["config"])
            arguments = self.values()
            declared = {name: arguments[name] for name in sorted(self.arguments)}
            words = [f"{name}={value}" for name, value in declared.items()]
            before = f"|{len(words)} {' '.join(words)} " if words else ""
            facts: list[object] = [command, arguments, self.settings.workdir, self.user]
            return f"RUN {before}{' '.join(command)}", facts, partial(self.ran, one, command)
        if one.name in ("COPY", "ADD"):
            return self.copied(one)
        told = self.settings.apply(one, self.values())
        make = self.workdir if one.name == "WORKDIR" else lambda: None
        return told, [], make

    @property
    def user(self) -> str:
        """Return whom RUN runs as: "" is root."""
        return self.config["config"].get("User") or ""

    def copied(self, one: Instruction) -> tuple[str, list[object], Make]:
        """Prepare COPY or ADD."""
        values = self.values()
        *sources, target = (expand(word, values, one.escape) for word in one.words)
        flags = {key: expand(value, values, one.escape) for key, value in one.flags.items()}
        if not target or not all(sources):
            raise ValueError(f"{one.name} of nothing: a variable has no value")
        if any("\0" in word for word in (*sources, target)):
            raise ValueError(f"{one.name} of a name with a NUL in it")
        whole = posixpath.join(self.settings.workdir, target)
        chown, chmod = flags.get("chown", ""), flags.get("chmod", "")
        copying = Copying(self.files, sources, whole, chown=chown, chmod=chmod)
        words = [*(f"--{key}={value}" for key, value in sorted(flags.items())), *sources, target]
        facts: list[object] = [whole, copying.facts()]

        def make() -> Layer:
            writing = partial(copying.layer, unpacks=one.name == "ADD")
            return self.with_tree(lambda root: self.kept(writing(root)))

        return f"{one.name} {' '.join(words)}", facts, make

    def workdir(self) -> Layer | None:
        """Make the directory, where it isn't there."""
        now = time.time_ns() if self.created is None else self.created * 10**9
        path = self.settings.workdir
        chunks = self.with_tree(lambda root: new_folder(root, path, now))
        return self.kept(iter(chunks)) if chunks else None

    def ran(self, one: Instruction, command: list[str]) -> Layer:
        """Run a command in a container; what it changed is the layer."""
        given = {name: self.given[name] for name in sorted(PROXIES & self.given.keys())}
        env = {"PATH": PATH, **given, **self.values()}
        self.driver.prepare(self.openers())
        container = PREFIX + os.urandom(8).hex()
        try:
            root = self.driver.mount(container, self.openers())
            status = self.run(self.config, root, command, env, self.settings.workdir, self.user)
            if status:
                raise Failed(one.line, one.text, status)
            self.driver.unmount(container)
            return self.kept(self.driver.commit(container))
        finally:
            self.driver.remove(container)

    def with_tree(self, look: Callable[[str], Found]) -> Found:
        """Return what `look` makes of the image's tree so far, which it only reads."""
        self.driver.prepare(self.openers())
        container = PREFIX + os.urandom(8).hex()
        try:
            return look(self.driver.mount(container, self.openers()))
        finally:
            self.driver.remove(container)

    def kept(self, chunks: Iterator[bytes]) -> Layer:
        """Keep a layer's tar."""
        return add_layer(self.store, clamped(chunks, self.created))

    def openers(self) -> list[tuple[str, Callable[[], Any]]]:
        """Return the layers as a driver wants them."""
        return [(layer[0], partial(open_layer, self.store, layer)) for layer in self.layers]

    def finished(self) -> Image:
        """Return the image, which has no name yet."""
        history = self.config["history"]
        # The steps' own times: an image that is all in the cache is the same image.
        times = [row["created"] for row in history[self.began :]] or [stamp(self.created)]
        return new(self.store, {**self.config, "created": times[-1]}, self.layers)


def stamp(seconds: int | None) -> str:
    """Return a time as images have it, RFC 3339 in UTC; None is now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
