"""What the tests of `labrun rootfs` share: runs of it, archives made by hand, trees compared."""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from labs.paths import CHECKOUT
from labs.rootfs.archive import UNPACK

NOBODY = 65534
PROGRAM = [sys.executable, "-c", "from labs.cli import main; main()", "rootfs"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
ARTICLE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


def as_nobody() -> list[str]:
    """Return the prefix that makes a command an ordinary user's; skips where that can't be."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reachable = [*prefix, sys.executable, "-I", "-S", str(UNPACK), "-"]
    if b"ValueError" not in subprocess.run(reachable, capture_output=True).stderr:
        pytest.skip("an ordinary user can't reach this Python or this checkout")
    return prefix


def environment(cache: Path, **more: str) -> dict[str, str]:
    """Return an environment with this cache, in English."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SUDO_", "LC_", "LANG"))}
    return {
        **kept,
        "LABRUN_CACHE": str(cache),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(cache),
        **more,
    }


class Labrun:
    """`labrun rootfs` with a cache."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def __call__(
        self,
        *arguments: str | Path,
        prefix: Iterable[str] = (),
        cwd: Path | None = None,
        extra: dict[str, str] | None = None,
        **more: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [*prefix, *PROGRAM, *map(str, arguments)],
            env={**environment(self.cache, **more), **(extra or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *arguments: str | Path, **more: str) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            env=environment(self.cache, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines in which it refused."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("labrun: ")]


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """Make a tar member; `link`, `mode`, `uid` and so on as fields."""
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(made, "linkname" if key == "link" else key, value)
    return made


def tar(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a tar archive of these members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in members:
            info, content = each if isinstance(each, tuple) else (each, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def unpack(
    archive: bytes, root: Path, *, layer: bool = False, prefix: Iterable[str] = ()
) -> dict[str, object]:
    """Let unpack.py do its work; return its report."""
    kind = "layer" if layer else "archive"
    done = subprocess.run(
        [*prefix, sys.executable, "-I", "-S", str(UNPACK), str(root), kind],
        input=archive,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def tree(root: Path) -> dict[str, str]:
    """Describe everything in `root`: kind, mode, owner, content."""
    found = {}
    for folder, directories, files in os.walk(root):
        for path in [Path(folder, name) for name in [*directories, *files]]:
            status = path.lstat()
            what = ""
            if path.is_symlink():
                what = os.readlink(path)
            elif path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(root))] = (
                f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {status.st_rdev} {what}"
            )
    return found


def until(fact: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until `fact()` is true."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def program(folder: Path, name: str, script: str) -> Path:
    """Make a shell script that stands in for a program."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def descendants_are_gone(marker: str) -> bool:
    """Tell whether no process has `marker` in its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    return False
            except OSError:
                continue
    return True


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send a signal; return the exit status and what was said."""
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


class Layout:
    """An OCI image layout, written by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, media_type: str, **more: object) -> dict[str, object]:
        """Write a blob; return its descriptor."""
        value = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / value).write_bytes(content)
        digest = f"sha256:{value}"
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def json(self, document: object, kind: str, **more: object) -> dict[str, object]:
        """Write a JSON blob."""
        media_type = f"application/vnd.oci.image.{kind}.v1+json"
        return self.blob(json.dumps(document).encode(), media_type, **more)

    def image(self, *layers: bytes, architecture: str = "", **more: object) -> dict[str, object]:
        """Write an image of these layers, gzipped; return the manifest's descriptor."""
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        config = {"os": "linux", "architecture": architecture or here(), "rootfs": {}}
        manifest = {
            "schemaVersion": 2,
            "config": self.json(config, "config"),
            "layers": [self.blob(gzip.compress(layer), kind) for layer in layers],
        }
        return self.json(manifest, "manifest", **more)

    def index(self, *manifests: dict[str, object]) -> Path:
        """Write index.json; return the layout's directory."""
        document = {"schemaVersion": 2, "manifests": manifests}
        (self.directory / "index.json").write_text(json.dumps(document))
        return self.directory


def here() -> str:
    """Return this machine's name in OCI's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def packed(root: Path) -> bytes:
    """Return a tar archive of a directory."""
    if not shutil.which("tar"):
        pytest.skip("no tar on this machine")
    return subprocess.run(
        ["tar", "-C", str(root), "--numeric-owner", "-c", "."], check=True, capture_output=True
    ).stdout
