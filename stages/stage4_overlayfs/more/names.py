"""What an image may be called, and how a digest is spelled: the grammars of OCI's specifications.

Both become names of files in the store, so what is not in the grammar goes no further.
"""

from __future__ import annotations

import re

HEX = re.compile(r"[0-9a-f]{64}")

# distribution-spec, "Pulling manifests", and the host in front of it as every client takes it
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
HOST = r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
REFERENCE = re.compile(f"({HOST}{PART}(?:/{PART})*)(?::({TAG}))?")

LONGEST = 255
"""Characters of a name with its tag: NAME_MAX, as each is a file. See limits.h(0p)."""


def check_digest(digest: str) -> str:
    """Return the digits of `sha256:HEX`; raise ValueError for anything else."""
    algorithm, _, digits = digest.partition(":")
    if algorithm != "sha256" or not HEX.fullmatch(digits):
        raise ValueError(
            f"{shown(digest) or 'nothing'}: not a digest: say sha256: and 64 digits from 0 to f"
        )
    return digits


def full_name(reference: str) -> str:
    """Return an image's name with its tag, `latest` where there is none; or raise ValueError."""
    # A pattern that goes back and forth over an endless name would never come to its end.
    found = REFERENCE.fullmatch(reference) if len(reference) <= LONGEST else None
    if not found or found[1] == "sha256":
        raise ValueError(
            f"{shown(reference)}: not an image's name: say NAME or NAME:TAG, in small letters, "
            f"digits and . _ - /, at most {LONGEST} characters"
        )
    name = f"{found[1]}:{found[2] or 'latest'}"
    if len(name) > LONGEST:
        raise ValueError(f"{shown(reference)}: longer than {LONGEST} characters: say a shorter one")
    return name


def file_name(reference: str) -> str:
    """Return the file that keeps a name: the name itself, with `~`, which no name has, for `/`."""
    return full_name(reference).replace("/", "~")


def reference_of(file: str) -> str:
    """Return the name that a file keeps."""
    return file.replace("~", "/")


def shown(text: object) -> str:
    """Return what a stranger wrote so that it is one line, and no terminal obeys it."""
    spelt = str(text)
    spelt = spelt if len(spelt) <= 200 else f"{spelt[:200]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in spelt)
