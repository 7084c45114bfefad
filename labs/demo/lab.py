"""The demo's own images: a store in memory, on the bench's mounts, that goes with the bench.

In it is an image of two layers: ROOT, and on it some files in /srv, built as a student would.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks import kernel
from checks.bench import Bench
from checks.runtimes import Request, Runtime, unsupported
from checks.trial import Ended, NotStarted, status_of

BASE = "base"
SIZE = "256m"
"""What the store may take: ten copies of the image, and what they are made from."""
BIG = 4 << 20
"""Bytes of a file that is large enough for a copy of it to show."""
FILES: Mapping[str, bytes] = {
    "big": b"." * BIG,
    "guests": b"labrun was here\n",
    "letter": b"Dear reader\n",
    "site/index.html": b"<h1>Hello</h1>\n",
    "site/style.css": b"h1 { color: teal }\n",
}
"""What the image has in /srv."""
PAGE = b"<h1>Hello</h1>\n"
SERVER = ["httpd", "-f", "-v", "-h", "/www"]
"""busybox's: in the foreground, telling what it answers, with the pages in /www."""


class Plan(NamedTuple):
    """What a stage's image is made from, and what the student's own build finds."""

    image: str
    dockerfile: str
    files: Mapping[str, bytes]
    context: Mapping[str, bytes]


PLANS = {
    "stage4": Plan(
        "lab",
        f"FROM {BASE}\nCOPY srv /srv\n",
        {f"srv/{name}": content for name, content in FILES.items()},
        {
            "Dockerfile": b"FROM lab\nRUN rm /srv/letter\nCOPY page.html /srv/site/\n",
            "page.html": b"<p>one</p>\n",
        },
    ),
    "stage5": Plan(
        "web",
        f"FROM {BASE}\nCOPY www /www\nEXPOSE 80\nCMD {json.dumps(SERVER)}\n",
        {"www/index.html": PAGE},
        {},
    ),
}
WRITTEN = 1_700_000_000
"""When the files were written, in seconds since 1970: always the same makes the same layer."""


class Imaged(Runtime):
    """A runtime that keeps the contract, with the demo's store, and its image in place of ROOT."""

    def __init__(self, chosen: Runtime, store: str, image: str, options: Sequence[str]) -> None:
        """Take the runtime, the store, an image of it, and options in the contract's spelling."""
        super().__init__(chosen.name)
        self.chosen, self.store, self.image, self.options = chosen, store, image, options

    def argv(self, request: Request, bench: Bench) -> list[str]:
        """Return the command line; the container is removed when its command ends."""
        options = ["--rm", *self.options, *request.options]
        whole = Request(
            request.command,
            request.environment,
            request.workdir,
            request.root or self.image,
            options,
        )
        return self.chosen.argv(whole, bench)

    def environment(self, request: Request) -> Mapping[str, str]:
        """Return what says where the store is."""
        return {**self.chosen.environment(request), "LABRUN_STORE": self.store}


class Lab:
    """A folder on the bench: the context of a build, and a store, as new for each step."""

    def __init__(self, chosen: Runtime, bench: Bench, stage: str) -> None:
        """Make a stage's images with a runtime.

        Raises Unsupported for one that isn't the contract's, NotStarted where it doesn't make them,
        OSError and Hindered.
        """
        if type(chosen) is not Runtime:
            unsupported(chosen, "image import")
        self.chosen, self.bench, self.stage, self.plan = chosen, bench, stage, PLANS[stage]
        self.folder = f"{bench.scratch}/lab"
        self.store, self.context = f"{self.folder}/store", f"{self.folder}/site"
        self.pristine = f"{self.folder}/pristine"
        bench.see(self._furnish)
        self.made(["image", "import", f"{self.folder}/root", BASE], self.pristine)
        self.made(["build", "-t", self.plan.image, f"{self.folder}/image"], self.pristine)

    def _furnish(self) -> None:
        """On the bench: mount the folder, and write the files that images are made from."""
        if os.path.isdir(self.folder):
            # A runtime that made no images was asked once more.
            kernel.umount(self.folder)
        else:
            os.mkdir(self.folder, 0o755)
        kernel.mount("tmpfs", self.folder, "tmpfs", 0, f"mode=755,size={SIZE}")
        os.umask(0o022)
        # Not what the bench has mounted in ROOT: that is no part of it.
        os.mkdir(f"{self.folder}/root")
        kernel.mount(str(self.bench.root), f"{self.folder}/root", None, kernel.MS_BIND)
        files = {f"image/{name}": content for name, content in self.plan.files.items()}
        files["image/Dockerfile"] = self.plan.dockerfile.encode()
        for name, content in files.items():
            self._write(name, content)
        for folder, _, _ in os.walk(f"{self.folder}/image"):
            os.utime(folder, (WRITTEN, WRITTEN))

    def _write(self, name: str, content: bytes) -> None:
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (WRITTEN, WRITTEN))

    def renew(self) -> None:
        """Make the store, and the context of the student's build, what they were at first."""
        script = 'rm -rf "$1" "$2" && cp -a "$3" "$1" && mkdir "$2"'
        words = [self.store, self.context, self.pristine]
        ended = self.run(["/bin/sh", "-c", script, "sh", *words], {})
        if ended.status:
            raise NotStarted(ended.said())
        self.bench.see(self._lay_out)

    def _lay_out(self) -> None:
        for name, content in self.plan.context.items():
            self._write(f"site/{name}", content)

    def made(self, words: Sequence[str], store: str) -> Ended:
        """Have the runtime do something with a store; raise NotStarted where it doesn't."""
        argv = [*shlex.split(self.chosen.name), *words]
        ended = self.run(argv, {"LABRUN_STORE": store})
        if ended.status:
            raise NotStarted(f"{words[0]}: {ended.said()}")
        return ended

    def clear(self) -> None:
        """Have the runtime remove the containers that a script has left, mounts and all."""
        if names := self.bench.see(lambda: sorted(os.listdir(f"{self.store}/containers"))):
            # From stage 5 on some of them may run.
            force = ["-f"] if self.stage >= "stage5" else []
            self.made(["rm", *force, *names], self.store)

    def script(self, command: Sequence[str]) -> list[str]:
        """Return a script of the host's, in which `stage4` is the runtime, wherever that is."""
        head = f"{called(self.stage, self.words)}cd {shlex.quote(self.context)}\n"
        return [*command[:2], head + command[2]]

    @property
    def words(self) -> list[str]:
        """Return how the runtime is called from anywhere: it may have been named from here."""
        return [
            os.path.abspath(word) if os.path.exists(word) and (number or "/" in word) else word
            for number, word in enumerate(shlex.split(self.chosen.name))
        ]

    def run(self, argv: Sequence[str], environment: Mapping[str, str]) -> Ended:
        """Run a program on the bench to its end."""
        pipe = subprocess.PIPE
        process = self.bench.popen(argv, environment=environment, stdout=pipe, stderr=pipe)
        stdout, stderr = process.communicate()
        return Ended(status_of(process), stdout, stderr)


def called(name: str, words: Sequence[str]) -> str:
    """Return what has a shell know a program by another name."""
    return f'{name}() {{ {shlex.join(words)} "$@"; }}\n'
