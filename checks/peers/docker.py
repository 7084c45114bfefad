"""Docker: a client, and a daemon that does the work. ROOT becomes an image."""

import os
import subprocess
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


class Docker(Runtime):
    """`docker run`, with a daemon on the bench: started once, and gone with the bench."""

    copies_root = True
    has_daemon = True

    def __init__(self, command: str) -> None:
        """Take the peer's name; the daemon is started where it is tried."""
        super().__init__(command)
        self._base = ""
        self._image = ""

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
        self._base, self._image = base, self._import(bench, base)

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return `docker run IMAGE COMMAND`."""
        asked = Asked.of(self, request, "--namespaces", "--hostname", "--net", *LIMITS)
        if "user" in asked.namespaces:
            # It is the daemon's option, for all of its containers (--userns-remap).
            unsupported(self, "--namespaces user")
        words = engine.options(self, asked, request)
        self.prepare(bench)
        # A ROOT that is none is an image that isn't there.
        known = not request.root or request.root == str(bench.root)
        image = self._image if known else nonce("no-image")
        run = [*dockerd.client(self._base), "run", "--pull=never"]
        return [*run, *words, *asked.rest, image, *request.command]

    def _import(self, bench: Bench, base: str) -> str:
        """Make an image of ROOT, which needs no registry; return its name."""
        image = "root:bench"
        # One file system: the bench has mounted /proc in ROOT.
        pack = ["tar", "--one-file-system", "--numeric-owner", "-C", str(bench.root), "-c", "."]
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
