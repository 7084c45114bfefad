"""What proves that a union file system did what it promises: read from its directories and files.

Nothing here believes what a container prints where the host can look for itself.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from checks.bench import Bench
from checks.model import Finding, Verdict
from checks.trial import Ended
from labs.demo.lab import Lab
from labs.demo.quantity import told
from labs.demo.stack import Stack, allocated
from labs.texts import say

Contents = Mapping[str, str]
"""Files by their path, each with the digest of what it is."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
UNABLE = 125
"""The exit status of a runtime that could not do what it was asked for (CONTRACT)."""


@dataclass(frozen=True)
class Scene:
    """What there is to look at once a step has run, while its containers still live."""

    bench: Bench
    lab: Lab
    ended: Sequence[Ended]
    """What each container, or each run of a script, has said."""
    stacks: Sequence[Stack]
    """The containers' stacks; none for a script of the host's."""
    seen: Sequence[Contents]
    """The store's files: before anything ran, and after each run."""

    def path(self, path: str) -> Path:
        """Return how labrun reaches a file on the bench."""
        return Path(self.bench.path(path))


Proof = Callable[[Scene], tuple[list[str], list[str]]]
"""Returns what was found, and what is wrong."""
Proofs = Mapping[str, Proof]
"""By axis; "" where it is about none."""


def prove(looks: str, axes: Sequence[str], scene: Scene) -> dict[str, Finding]:
    """Return the finding on each axis of a step; what isn't there to be read is a fault."""
    found = {}
    for axis in axes:
        try:
            evidence, faults = PROOFS[looks][axis](scene)
        except (OSError, tarfile.TarError, ValueError, LookupError) as error:
            evidence, faults = [], [say("proof.unreadable", reason=error)]
        verdict = Verdict.BROKEN if faults else Verdict.KEPT
        found[axis] = Finding(verdict, (*faults, *evidence))
    return found


# ---- one container's stack


def base(scene: Scene) -> tuple[list[str], list[str]]:
    """A write is in the upper directory, and nothing below has changed."""
    (stack,) = scene.stacks
    if not stack.upper:
        return _no_overlay(stack)
    evidence: list[str] = []
    faults: list[str] = []
    files = [path for path, entry in stack.written.items() if entry.kind == "file"]
    evidence += [_at_upper("proof.new", path, stack) for path in files]
    if not files:
        faults.append(say("proof.nothing_written"))
    evidence += [_unchanged(scene, stack, faults), _mounted(stack)]
    return evidence, faults


def whiteout(scene: Scene) -> tuple[list[str], list[str]]:
    """What was deleted is there below, a whiteout above, and nothing to the container."""
    (stack,) = scene.stacks
    if not stack.upper:
        return _no_overlay(stack)
    evidence: list[str] = []
    faults: list[str] = []
    gone = [path for path, entry in stack.written.items() if entry.kind == "whiteout"]
    for path in gone:
        evidence.append(say("proof.whiteout", path=path))
        if not any(path in layer for layer in stack.below):
            faults.append(say("proof.hides_nothing", path=path))
        if path in stack.merged:
            faults.append(say("proof.still_seen", path=path))
        else:
            evidence.append(say("proof.unseen"))
    if not gone:
        faults.append(say("proof.no_whiteout"))
    evidence += [_unchanged(scene, stack, faults), _mounted(stack)]
    return evidence, faults


def copyup(scene: Scene) -> tuple[list[str], list[str]]:
    """A file of which a byte was changed is above, whole, and below as it was."""
    (stack,) = scene.stacks
    if not stack.upper:
        return _no_overlay(stack)
    evidence: list[str] = []
    faults: list[str] = []
    copied = [
        (path, layer, entry)
        for path, entry in stack.written.items()
        for layer, entries in zip(stack.lower, stack.below, strict=True)
        if entry.kind == "file" and path in entries
    ]
    for path, layer, entry in copied:
        old, new = (scene.path(f"{top}/{path}").read_bytes() for top in (layer, stack.upper))
        changed = _differing(old, new)
        taken = told("memory", entry.allocated)
        evidence.append(say("proof.copied", path=path, bytes=changed, taken=taken))
        if len(old) != len(new) or not changed or entry.allocated < entry.size:
            faults.append(say("proof.not_whole", path=path))
    if not copied:
        faults.append(say("proof.nothing_copied"))
    evidence += [_unchanged(scene, stack, faults), _mounted(stack)]
    return evidence, faults


def rename(scene: Scene) -> tuple[list[str], list[str]]:
    """A directory that was renamed leads back to its files; one that was made again hides them."""
    (stack,) = scene.stacks
    if not stack.upper:
        return _no_overlay(stack)
    evidence: list[str] = []
    faults: list[str] = []
    marked = {
        mark: path
        for path, entry in stack.written.items()
        for mark in ("redirect", "opaque")
        if mark in entry.marks
    }
    for mark in ("redirect", "opaque"):
        if path := marked.get(mark, ""):
            value = stack.written[path].marks[mark]
            evidence.append(say(f"proof.{mark}", path=path, value=value))
        else:
            faults.append(say("proof.unmarked", mark=mark))
    inside = [path for path in stack.merged if os.path.dirname(path) == marked.get("redirect")]
    copied = [path for path in inside if path in stack.written]
    evidence.append(say("proof.moved", count=len(inside), copied=len(copied)))
    hidden = [path for path in stack.merged if os.path.dirname(path) == marked.get("opaque")]
    if hidden or not inside:
        faults.append(say("proof.not_empty", count=len(hidden)))
    evidence += [_unchanged(scene, stack, faults), _mounted(stack)]
    return evidence, faults


def peers(scene: Scene) -> tuple[list[str], list[str]]:
    """Two containers have the same directories below, and each another one above."""
    one, other = scene.stacks
    if not (one.upper and other.upper):
        return _no_overlay(one)
    evidence: list[str] = []
    faults: list[str] = []
    if one.lower != other.lower or one.upper == other.upper:
        faults.append(say("proof.not_shared"))
    evidence.append(say("proof.shared", lower=":".join(one.lowers), count=len(one.lower)))
    for path in sorted(set(one.written) & set(other.written)):
        if one.written[path].kind != "file":
            continue
        texts = [scene.path(f"{each.upper}/{path}").read_bytes() for each in scene.stacks]
        lines = [set(text.splitlines()) for text in texts]
        if not (lines[0] - lines[1] and lines[1] - lines[0]):
            faults.append(say("proof.mixed", path=path))
        else:
            evidence.append(say("proof.own_copies", path=path))
    evidence.append(_unchanged(scene, one, faults))
    return evidence, faults


def _mounted(stack: Stack) -> str:
    """Return what the container's root is."""
    lower = ":".join(stack.lowers)
    return say("proof.mounted", upper=stack.option("upperdir"), lower=lower)


def _no_overlay(stack: Stack) -> tuple[list[str], list[str]]:
    return [], [say("proof.no_overlay", type=stack.type)]


def _differing(old: bytes, new: bytes) -> int:
    """Return how many bytes differ: piece by piece, as nearly all pieces are alike."""
    pieces = [(old[at : at + 4096], new[at : at + 4096]) for at in range(0, len(old), 4096)]
    return sum(a != b for one, two in pieces if one != two for a, b in zip(one, two, strict=False))


def _at_upper(key: str, path: str, stack: Stack) -> str:
    entry = stack.written[path]
    return say(key, path=path, size=entry.size)


def _unchanged(scene: Scene, stack: Stack, faults: list[str]) -> str:
    """Return whether each file below is what it was before; what isn't is a fault."""
    before, after = scene.seen[0], scene.seen[-1]
    below = [path for path in {*before, *after} if path.startswith(tuple(stack.lower))]
    changed = [path for path in below if before.get(path) != after.get(path)]
    if changed or not below:
        faults.append(say("proof.changed", count=len(changed), all=len(below)))
    return say("proof.unchanged", count=len(below) - len(changed), layers=len(stack.lower))


# ---- what scripts of the host's have made of the store


def sharing(scene: Scene) -> tuple[list[str], list[str]]:
    """What each run's `du` said, of one container and of ten: the last run's hardly grew."""
    grown = []
    for ended in scene.ended:
        sizes = [int(word) for word in re.findall(r"(?m)^(\d+)\s", ended.stdout.decode())]
        if len(sizes) != 2 or ended.status:
            return [], [ended.said()]
        grown.append((sizes[1] - sizes[0]) * 1024)
    image = scene.bench.see(lambda: allocated(f"{scene.lab.store}/layers"))
    copies, shared = grown[0], grown[-1]
    evidence = [
        say("proof.grown", shared=told("memory", shared), image=told("memory", image)),
        say("proof.copies", copies=told("memory", copies)),
    ]
    faults = [] if shared < image <= copies else [say("proof.not_cheap")]
    return evidence, faults


def cache(scene: Scene) -> tuple[list[str], list[str]]:
    """The second build made nothing; the one after a change made what comes behind it."""
    blobs = [[path for path in seen if "/blobs/" in path] for seen in scene.seen]
    new = [len(set(after) - set(before)) for before, after in pairwise(blobs)]
    said = [ended.stdout.decode() for ended in scene.ended]
    if any(ended.status for ended in scene.ended):
        return [], [ended.said() for ended in scene.ended if ended.status]
    digests = [DIGEST.findall(text)[-1] for text in said]
    first, again, changed = new
    evidence = [
        say("proof.built", first=first, again=again, changed=changed),
        say("proof.same_digest", digest=digests[1][:19]),
    ]
    faults = []
    if again or digests[0] != digests[1] or "CACHED" not in said[1]:
        faults.append(say("proof.built_again"))
    if not first or not changed or digests[2] == digests[1]:
        faults.append(say("proof.not_built"))
    return evidence, faults


EXPORTED = "less.tar"


def layers(scene: Scene) -> tuple[list[str], list[str]]:
    """Each blob in the tar is named by the SHA-256 of its bytes."""
    with tarfile.open(scene.path(f"{scene.lab.context}/{EXPORTED}")) as tar:
        blobs = {row.name: tar.extractfile(row) for row in tar if "/sha256/" in row.name}
        named = {
            os.path.basename(name): hashlib.sha256(file.read()).hexdigest()
            for name, file in blobs.items()
            if file
        }
    wrong = [name for name, digest in named.items() if name != digest]
    faults = [say("proof.misnamed", name=name) for name in wrong]
    return [say("proof.named", count=len(named), layers=len(_layers(scene)))], faults


def _layers(scene: Scene) -> list[str]:
    """Return the names of the layers in the tar, lowest first."""
    with tarfile.open(scene.path(f"{scene.lab.context}/{EXPORTED}")) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest
        (row,) = json.load(manifest)
    names: list[str] = row["Layers"]
    return names


def whiteouts(scene: Scene) -> tuple[list[str], list[str]]:
    """The layer in the tar spells a deletion as AUFS did, and has no device for it."""
    name = _layers(scene)[-1]
    with (
        tarfile.open(scene.path(f"{scene.lab.context}/{EXPORTED}")) as tar,
        tarfile.open(fileobj=tar.extractfile(name)) as layer,
    ):
        rows = layer.getmembers()
    found = [row.name for row in rows if os.path.basename(row.name).startswith(".wh.")]
    devices = [row.name for row in rows if row.ischr()]
    evidence = [say("proof.in_tar", name=path) for path in found]
    faults = [] if found and not devices else [say("proof.no_whiteout")]
    return evidence, faults


def digest(scene: Scene) -> tuple[list[str], list[str]]:
    """What came back has the digest of what went out."""
    said = [DIGEST.findall(ended.stdout.decode()) for ended in scene.ended]
    out, back = said[0][-1:], said[-1][-1:]
    evidence = [say("proof.round_trip", digest=back[0][:19])] if back else []
    return evidence, [] if out and out == back else [say("proof.other_digest")]


def drivers(scene: Scene) -> tuple[list[str], list[str]]:
    """Every driver that runs here says the same of the same changes."""
    told = [_changes(ended) for ended in scene.ended if ended.status != UNABLE]
    changes = ", ".join(told[-1] if told else [])
    every = len(scene.ended)
    evidence = [say("proof.drivers", count=len(told), all=every, changes=changes)]
    evidence += [
        say("proof.cannot", said=ended.said()) for ended in scene.ended if ended.status == UNABLE
    ]
    alike = len(told) > 1 and all(each and each == told[0] for each in told)
    return evidence, [] if alike else [say("proof.drivers_differ")]


def _changes(ended: Ended) -> list[str]:
    return re.findall(r"(?m)^[ACD] /\S+$", ended.stdout.decode())


PROOFS: Mapping[str, Proofs] = {
    "base": {"cow.base": base},
    "whiteout": {"cow.whiteout": whiteout},
    "copyup": {"cow.copyup": copyup},
    "rename": {"cow.opaque": rename},
    "peers": {"cow.peers": peers},
    "sharing": {"cow.sharing": sharing},
    "cache": {"img.cache": cache},
    "tarballs": {"img.layers": layers, "img.whiteouts": whiteouts, "img.digest": digest},
    "drivers": {"": drivers},
}
"""What a step looks for, by the axes that it is about."""
