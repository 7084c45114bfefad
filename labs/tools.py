"""Tools of the environment that only some commands need, each group with a lock of its own."""

import subprocess
import sys

from labs.errors import CANNOT, Refused
from labs.paths import CHECKOUT
from labs.privilege import as_owner, environment

GROUPS = {
    "dev": "the linters and the tests' tools",
    "docs": "what builds the site",
    "browser": "what tests the site in a browser",
    "vm": "what speaks with QEMU",
}
"""The groups of pyproject.toml that are locked in `requirements-GROUP.lock`, and what they are."""


def install(group: str) -> None:
    """Install a group's tools from its lock, unless they are here already.

    Raises Refused where pip fails.
    """
    path = CHECKOUT / f"requirements-{group}.lock"
    note = environment() / ".labrun" / f"installed-{group}"
    lock = path.read_text()
    if note.exists() and note.read_text() == lock:
        return
    what = GROUPS[group]
    # Standard output may be somebody's JSON, and pytest's is read by CI.
    print(f"labrun: installing {what}, once", file=sys.stderr, flush=True)
    owner = as_owner()
    done = subprocess.run(
        [
            *(environment() / "bin" / "python", "-I", "-m", "pip", "install", "--no-input"),
            *("--quiet", "--progress-bar", "off", "--disable-pip-version-check"),
            *("--require-hashes", "--only-binary", ":all:", "-r", path),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        **owner,
    )
    if done.returncode != 0:
        print(done.stdout, end="", file=sys.stderr)
        raise Refused(
            f"installing {what}",
            f"pip ended with {done.returncode}, see above",
            "run the same command again when that is mended",
            status=CANNOT,
        )
    # Written by the owner too: under sudo nothing of root's may stay in the environment.
    subprocess.run(
        ["/bin/sh", "-c", 'mkdir -p "${0%/*}" && cat >"$0.new" && mv -f -- "$0.new" "$0"', note],
        input=lock,
        text=True,
        check=True,
        **owner,
    )
