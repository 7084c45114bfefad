"""The article's way: `docker export $(docker create busybox)`, and the container removed again."""

import contextlib
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.rootfs import archive, programs, progress
from labs.rootfs.interrupts import Interrupts
from labs.texts import say

ASK, CREATE, PULL = 30.0, 120.0, 1800.0
"""Seconds for a question to the daemon, for making a container, for fetching an image."""


def unpack(image: str, root: Path, interrupts: Interrupts) -> list[str]:
    """Unpack what `docker export` gives of a container of `image` into `root`.

    The container, which never runs, is removed in any case. Returns remarks; raises Refused.
    """
    if not image or image.startswith("-"):
        raise Refused(f"docker:{image}", say("rootfs.bad_image"), status=USAGE)
    if not shutil.which("docker"):
        raise Refused(
            "docker", say("rootfs.no_docker"), say("rootfs.no_docker.remedy"), status=CANNOT
        )
    _have(image, interrupts)
    # A name of our own choosing: so the container can be removed even when `docker create` was
    # cut off before it told us which one it made.
    container = f"labrun-rootfs-{secrets.token_hex(6)}"
    with interrupts.held():
        try:
            # An image without a command needs one to become a container; it is never run.
            create = ["docker", "create", "--name", container, image, "/bin/sh"]
            _docker(create, interrupts, CREATE, interruptible=False)
            with interrupts.let_through():
                return _export(container, image, root, interrupts)
        finally:
            remove = ["docker", "rm", "-f", "-v", container]
            gone = programs.run(remove, interrupts, seconds=CREATE, interruptible=False)
            if gone.returncode != 0 and "o such container" not in gone.stderr:
                progress.line(say("rootfs.container_stays", command=" ".join(remove)))


def _have(image: str, interrupts: Interrupts) -> None:
    _docker(["docker", "version", "--format", "{{.Server.Version}}"], interrupts, ASK)
    look = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    if programs.run(look, interrupts, seconds=ASK).returncode != 0:
        _docker(["docker", "pull", "--quiet", image], interrupts, PULL)


def _export(container: str, image: str, root: Path, interrupts: Interrupts) -> list[str]:
    with tempfile.TemporaryFile() as errors, interrupts.held():
        child = subprocess.Popen(
            ["docker", "export", container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            with interrupts.let_through():
                doing = say("rootfs.unpacking", name=f"docker:{image}")
                assert child.stdout
                exported = archive.stream(child.stdout.fileno(), interrupts)
                pieces = progress.bar(doing, exported, None)
                try:
                    return archive.unpack(pieces, root, interrupts, name=f"docker:{image}")
                except Refused:
                    # Cut short by Docker, perhaps: then its own words say more.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        if child.wait(1) != 0:
                            errors.seek(0)
                            _refuse(errors.read().decode(errors="replace"))
                    raise
        finally:
            programs.stop(child)


def _docker(
    arguments: list[str], interrupts: Interrupts, seconds: float, *, interruptible: bool = True
) -> None:
    try:
        done = programs.run(arguments, interrupts, seconds=seconds, interruptible=interruptible)
    except subprocess.TimeoutExpired:
        raise Refused(
            "docker",
            say("rootfs.docker_slow", command=" ".join(arguments[:2]), seconds=int(seconds)),
            say("rootfs.docker_down.remedy"),
            status=CANNOT,
        ) from None
    if done.returncode != 0:
        _refuse(done.stderr)


def _refuse(said: str) -> None:
    cause = archive.printable(programs.last_line(said))
    if "ermission denied" in said and "sock" in said:
        raise Refused("docker", cause, say("rootfs.docker_denied.remedy"), status=CANNOT)
    if "annot connect" in said or "failed to connect" in said or "daemon running" in said:
        raise Refused("docker", cause, say("rootfs.docker_down.remedy"), status=CANNOT)
    raise Refused("docker", cause, say("rootfs.docker_image.remedy"), status=FAILED)
