"""Docker: a client, and a daemon that does the work. ROOT becomes an image."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from checks import kernel
from checks.bench import Bench
from checks.canaries import nonce
from checks.peers import dockerd, engine
from checks.runtimes import LIMITS, Asked, Request, Runtime, Unsupported, unsupported
from checks.words import say

START = 300.0
"""Seconds that the daemon may take to start.

It takes one; under emulation, with others, minutes.
"""
STORE = "size=512m,mode=711"
"""Where the daemon keeps its data: in memory, for an overlay can't be stacked on the bench's."""


XATTRS = ("--xattrs", "--xattrs-include=*")


class Docker(Runtime):
    """`docker run`, with a daemon on the bench: started once, and gone with the bench."""

    copies_root = True
    has_daemon = True

    def __init__(self, command: str) -> None:
        """Take the peer's name; the daemon is started where it is tried."""
        super().__init__(command)
        self._base = ""
        self._images: dict[str, str] = {}

    def prepare(self, bench: Bench) -> None:
        """Start the daemon on the bench, and give it ROOT as an image.

        Raises Unsupported on the machine itself, and where the daemon or its image can't be had.
        """
        base = os.path.join(bench.scratch, "docker")
        if self._base == base:
            return
        engine.make_room(self, bench)
        os.mkdir(bench.path(base))
        bench.see(lambda: kernel.mount("docker", base, "tmpfs", data=STORE))
        dockerd.write_settings(Path(bench.path(base)))
        log = Path(bench.path(base), "log")
        with log.open("wb") as file:
            daemon = bench.popen(
                [*dockerd.command(base), "--cgroup-parent=/", "--log-driver=none"],
                environment={"PATH": dockerd.path()},
                stdout=file,
                stderr=file,
            )
        bench.keep(daemon)
        if not dockerd.answers(bench.path(base), lambda: daemon.poll() is None, START):
            raise Unsupported(say("runtime.no_daemon", said=dockerd.last_words(log)))
        self._base = base
        self._images = {str(bench.root): self._import(bench, str(bench.root), "root:bench")}

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `docker run IMAGE COMMAND`."""
        known = (
            *("--namespaces", "--hostname", "--net", *LIMITS, "--name", "--rm"),
            *("--security-opt", "--tty", "--detach"),
        )
        asked = Asked.of(self, request, *known)
        if "user" in asked.namespaces:
            # It is the daemon's option, for all of its containers (--userns-remap).
            unsupported(self, "--namespaces user")
        words = engine.options(self, asked, request)
        words += ["--log-driver=json-file"] if "--detach" in asked.values else []
        self.prepare(bench)
        image = self._image(bench, request.root or str(bench.root))
        run = [*dockerd.client(self._base), "run", "--pull=never"]
        return [*run, *words, *asked.rest, image, *request.command]

    def verb(self, words: str, operands: Sequence[str], bench: Bench) -> list[str]:
        """Return `docker load`, and so on."""
        self.prepare(bench)
        # BuildKit is a service of its own in newer versions, and asks registries.
        docker = ["env", "DOCKER_BUILDKIT=0", *dockerd.client(self._base)]
        return [*docker, *engine.verb(self, words, operands)]

    def _image(self, bench: Bench, root: str) -> str:
        """Return the image for a ROOT, made of it where it is a directory that is new."""
        if not root.startswith("/"):
            return root
        if root not in self._images:
            # A ROOT that is none is an image that isn't there.
            if not os.path.isdir(bench.path(root)):
                return nonce("no-image")
            self._images[root] = self._import(bench, root, f"root:{len(self._images)}")
        return self._images[root]

    def _import(self, bench: Bench, root: str, image: str) -> str:
        """Make an image of a directory, which needs no registry; return its name."""
        base = self._base
        # One file system: the bench has mounted /proc in ROOT.
        pack = ["tar", "--one-file-system", "--numeric-owner", "-C", root, *XATTRS, "-c", "."]
        tar = bench.popen(pack, stdout=subprocess.PIPE)
        bench.keep(tar)
        assert tar.stdout
        # Only the client has it then: where that ends early, tar ends too.
        with tar.stdout as packed:
            load = bench.popen(
                [*dockerd.client(base), "import", "-", image],
                stdin=packed,
                stderr=subprocess.PIPE,
            )
        bench.keep(load)
        _, said = load.communicate()
        if load.returncode or tar.wait():
            reason = said.decode(errors="replace").strip() or f"tar: {tar.returncode}"
            raise Unsupported(say("runtime.no_image", reason=reason))
        return image
