"""What an image may be called, and how a digest is spelled: the grammars of OCI's specifications.

Both become names of files in the store, so what is not in the grammar goes no further.
"""

from __future__ import annotations

from stages.light import later

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
else:
    re = later("re")

HEX = "0123456789abcdef"
SMALL = "abcdefghijklmnopqrstuvwxyz0123456789"
TAGGED = f"{SMALL}{SMALL.upper()}_.-"

# distribution-spec, "Pulling manifests", and the host in front of it as every client takes it
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
HOST = r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
REFERENCE = f"({HOST}{PART}(?:/{PART})*)(?::({TAG}))?"

LONGEST = 255
"""Characters of a name with its tag: NAME_MAX, as each is a file. See limits.h(0p)."""


def check_digest(digest: str) -> str:
    """Return the digits of `sha256:HEX`; raise ValueError for anything else."""
    algorithm, _, digits = digest.partition(":")
    if algorithm != "sha256" or not is_hex(digits):
        raise ValueError(
            f"{shown(digest) or 'nothing'}: not a digest: say sha256: and 64 digits from 0 to f"
        )
    return digits


def is_hex(text: str) -> bool:
    """Return whether these are the digits of a SHA-256."""
    return len(text) == 64 and not text.strip(HEX)


def full_name(reference: str) -> str:
    """Return an image's name with its tag, `latest` where there is none; or raise ValueError."""
    if is_simple(reference):
        return reference if ":" in reference else f"{reference}:latest"
    # A pattern that goes back and forth over an endless name would never come to its end.
    found = re.fullmatch(REFERENCE, reference) if len(reference) <= LONGEST else None
    if not found or found[1] == "sha256":
        raise ValueError(
            f"{shown(reference)}: not an image's name: say NAME or NAME:TAG, in small letters, "
            f"digits and . _ - /, at most {LONGEST} characters"
        )
    name = f"{found[1]}:{found[2] or 'latest'}"
    if len(name) > LONGEST:
        raise ValueError(f"{shown(reference)}: longer than {LONGEST} characters: say a shorter one")
    return name


def is_simple(reference: str) -> bool:
    """Return whether a name is one word with at most a tag: seen without a pattern, as most are."""
    name, colon, tag = reference.partition(":")
    if not name or name.strip(SMALL) or name == "sha256" or len(name) > LONGEST - 129:
        return False
    return not colon or (0 < len(tag) <= 128 and tag[0] not in ".-" and not tag.strip(TAGGED))


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
