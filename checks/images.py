"""Images of a runtime under test: how it is asked to take in, build and give out images."""

import os
import subprocess
from pathlib import Path

from checks import archives
from checks.canaries import nonce
from checks.runtimes import Unsupported
from checks.trial import PATIENCE, USAGE, Ended, NotStarted, Trial, status_of
from checks.words import say


class NoImages(Exception):
    """The runtime knows no such command: it keeps no images, or does not do that with them."""


class Refused(Exception):
    """The runtime would not, or could not, do with an image what it was asked to."""


class Images:
    """The images of one runtime, in a store on the bench's disk."""

    def __init__(self, trial: Trial) -> None:
        """Take the runtime on its bench."""
        self.trial, self.bench = trial, trial.bench

    def start(
        self, words: str, *operands: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Have the runtime begin to do something; return its process, with what it says in pipes.

        Raises NoImages where it can't be asked, NotStarted where it can't be started.
        """
        trial, pipe = self.trial, subprocess.PIPE
        try:
            argv = trial.runtime.verb(words, operands, self.bench)
            return self.bench.popen(argv, stdin=stdin, stdout=pipe, stderr=pipe)
        except Unsupported as error:
            raise NoImages(str(error)) from None
        except (FileNotFoundError, PermissionError) as error:
            why = {"runtime": trial.runtime.name, "reason": error.strerror}
            raise NotStarted(say("runtime.cannot_start", **why)) from None

    def ask(self, words: str, *operands: str) -> Ended:
        """Have the runtime do something with images; return how it ended.

        Raises NoImages where it knows no such command, NotStarted where it can't be started or
        doesn't end.
        """
        process = self.start(words, *operands)
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise NotStarted(say("runtime.not_ended", seconds=PATIENCE)) from None
        ended = Ended(status_of(process), stdout, stderr)
        if ended.status == USAGE:
            raise NoImages(say("img.no_verb", verb=words))
        return ended

    def must(self, words: str, *operands: str) -> Ended:
        """Have it do that; raise Refused, with what it said, where it fails."""
        ended = self.ask(words, *operands)
        if ended.status:
            said = {"verb": words, "status": ended.status, "said": ended.said()}
            raise Refused(say("img.failed", **said))
        return ended

    def place(self, word: str) -> str:
        """Return a new path on the bench's disk."""
        return f"{self.bench.disk}/{nonce(word)}"

    def file(self, data: bytes) -> str:
        """Write a file on the bench's disk; return its path there."""
        name = f"{self.place('image')}.tar"
        with open(self.bench.path(name), "xb") as file:
            file.write(data)
        return name

    def take(self, name: str, data: bytes) -> None:
        """Have it take in an image from a tar. Raises Refused."""
        file = self.file(data)
        try:
            self.must("image import", file, name)
        finally:
            os.unlink(self.bench.path(file))

    def take_folder(self, folder: str, name: str) -> None:
        """Have it take in a root file system, a folder of the bench's, as an image of one layer."""
        self.take(name, archives.saved(name, [archives.layer_of(self.bench.path(folder))]))

    def give(self, name: str) -> dict[str, bytes]:
        """Have it give an image out as a tar; return the files in that.

        Raises Refused, Malformed.
        """
        file = f"{self.place('export')}.tar"
        self.must("image export", name, file)
        place = Path(self.bench.path(file))
        try:
            return archives.files_of(place.read_bytes())
        except FileNotFoundError:
            raise Refused(say("img.no_file", file=file)) from None
        finally:
            place.unlink(missing_ok=True)

    def give_layout(self, name: str) -> str:
        """Have it give an image out as an OCI layout, a directory on the bench; return which."""
        folder = self.place("layout")
        self.must("image export", name, folder)
        return folder

    def build(self, name: str, folder: str, *options: str) -> Ended:
        """Have it build an image of a folder of the bench's. Raises Refused."""
        return self.must("build", *options, "-t", name, folder)

    def context(self, files: dict[str, str]) -> str:
        """Make a folder to build from; return its path on the bench."""
        folder = self.place("context")
        os.mkdir(self.bench.path(folder))
        self.fill(folder, files)
        return folder

    def fill(self, folder: str, files: dict[str, str]) -> None:
        """Write files into a folder to build from."""
        for name, text in files.items():
            place = Path(self.bench.path(folder), name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
