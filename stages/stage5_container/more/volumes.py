"""Volumes that have names: directories of the store's, which outlive the containers that use them.

    volumes/NAME/_data      what `-v NAME:DST` mounts
    volumes/NAME/anonymous  nobody has named it: `-v DST`, a VOLUME of the image's, `volume create`

Made where it isn't there, with the first container that names it, as Docker does; and an empty one
gets what the image has at DST. Nothing else is kept: when it was made, its folder says; who uses
it, the containers do. One that nobody has named goes with its container: with --rm, `rm -v`.
"""

from __future__ import annotations

import errno
import os
import time

from stages.light import later, loads, suppress
from stages.stage4_overlayfs import containers
from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.paths import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from stages.stage4_overlayfs.more import copies, places
    from stages.stage4_overlayfs.options import Volume
    from stages.stage4_overlayfs.store import Store
else:
    copies = later("stages.stage4_overlayfs.more.copies")
    places = later("stages.stage4_overlayfs.more.places")

LONGEST = 255
DATA, UNNAMED = "_data", "anonymous"


def folder(store: str, name: str) -> str:
    """Return where a volume is, or would be; raise ValueError for a name that can't be."""
    if not containers.is_name(name) or len(name) > LONGEST:
        raise ValueError(f"volume {shown(name)}: say letters, digits and _ . - (two at least)")
    return f"{store}/volumes/{name}"


def create(store: str, name: str, *, anonymous: bool = False) -> str:
    """Make a volume where there is none of that name, "" for some new one; return its name."""
    anonymous |= not name
    name = name or os.urandom(32).hex()
    place = folder(store, name)
    # Who has no business in the store gets no further than its folder.
    os.makedirs(f"{store}/volumes", 0o710, exist_ok=True)
    if not os.path.isdir(f"{place}/{DATA}"):
        os.makedirs(place, 0o755, exist_ok=True)
        if anonymous:
            with open(f"{place}/{UNNAMED}", "wb"):
                pass
        os.makedirs(f"{place}/{DATA}", 0o755, exist_ok=True)
    return name


def is_anonymous(store: str, name: str) -> bool:
    """Return whether nobody has named it."""
    return os.path.exists(f"{folder(store, name)}/{UNNAMED}")


def listed(store: str) -> list[str]:
    """Return the names of all volumes, sorted."""
    try:
        names = sorted(os.listdir(f"{store}/volumes"))
    except FileNotFoundError:
        return []
    return [name for name in names if os.path.isdir(f"{store}/volumes/{name}/{DATA}")]


def find(store: str, name: str) -> str:
    """Return a volume's folder; raise FileNotFoundError where there is none."""
    place = folder(store, name)
    if not os.path.isdir(f"{place}/{DATA}"):
        names = ", ".join(listed(store)[:10]) or "none"
        raise FileNotFoundError(errno.ENOENT, f"no volume has this name: there is {names}", name)
    return place


def describe(store: str, name: str) -> dict[str, object]:
    """Return what `volume inspect` shows, with Docker's keys."""
    place = find(store, name)
    made = time.gmtime(os.stat(place).st_mtime)
    return {
        "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", made),
        "Driver": "local",
        "Labels": {"com.docker.volume.anonymous": ""} if is_anonymous(store, name) else {},
        "Mountpoint": f"{place}/{DATA}",
        "Name": name,
        "Options": {},
        "Scope": "local",
    }


def remove(store: Store, name: str) -> None:
    """Remove a volume and all that is in it; raise OSError, EBUSY, while a container has it."""
    place = find(store.root, name)
    # Who makes a container has this lock, too: it comes before us, or finds no volume.
    with store.locked(shared=False):
        if holders := users(store, name):
            names = ", ".join(containers.name_of(store, one) or one for one in holders)
            raise OSError(errno.EBUSY, f"containers have it: {names}: remove them first", name)
        leaving = f"{store.root}/tmp/{os.urandom(8).hex()}"
        os.rename(place, leaving)
    places.remove_tree(leaving)


def discard(store: Store, name: str) -> None:
    """Remove a volume that nobody has named, with its container; another that has it keeps it."""
    # Shared is enough: but for that container nobody can be about to use what has no name.
    with store.locked(shared=True):
        if users(store, name):
            return
        leaving = f"{store.root}/tmp/{os.urandom(8).hex()}"
        with suppress(FileNotFoundError):
            os.rename(folder(store.root, name), leaving)
            places.remove_tree(leaving)


def users(store: Store, name: str) -> list[str]:
    """Return the IDs of the containers that were made with a volume, running or not."""
    found = []
    for identity in sorted(os.listdir(f"{store.root}/containers")):
        try:
            with open(f"{store.root}/containers/{identity}/config.json", encoding="utf-8") as file:
                asked = loads(file.read())["options"].get("--volume", ())
        except (FileNotFoundError, NotADirectoryError):
            continue  # it has no life of its own, and stage 4 knows no names of volumes
        if any(text.startswith(f"{name}:") for text in asked):
            found.append(identity)
    return found


def fill(store: str, root: str, wanted: Iterable[Volume], anonymous: Collection[str] = ()) -> None:
    """Give volumes that are empty what the image whose tree is at `root` has in their place."""
    for one in wanted:
        if not one.source.startswith(f"{store}/volumes/"):
            continue
        name = one.source.removeprefix(f"{store}/volumes/").partition("/")[0]
        create(store, name, anonymous=name in anonymous)
        if not os.listdir(one.source):
            source = f"{root}/{Tree(root).resolve(one.target)}"
            # A link in the image leads inside the image: it was followed there.
            if os.path.isdir(source) and not os.path.islink(source):
                with copies.Copies(one.source) as copied:
                    copied.tree(source)
