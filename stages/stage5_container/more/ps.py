"""`ps`: which containers there are, and how they are."""

from __future__ import annotations

import json
import os

from stages.stage4_overlayfs.options import is_path
from stages.stage4_overlayfs.storage import DRIVERS
from stages.stage5_container.more.freeze import frozen
from stages.stage5_container.more.lookup import find
from stages.stage5_container.more.verb import (
    FILTER,
    FORMAT,
    QUIET,
    Verb,
    ago,
    bytes_in,
    date,
    filters,
    last,
    say,
    show,
    size_of,
)
from stages.stage5_container.state import LIVE, everything

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.state import State

COLUMNS = (
    ("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "RunningFor"),
    ("STATUS", "Status"), ("PORTS", "Ports"), ("NAMES", "Names"),
)  # fmt: skip
FILTERS = (
    "ancestor", "before", "exited", "id", "label", "name", "network", "publish", "since", "status",
    "volume",
)  # fmt: skip
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
SIZE = ("SIZE", "Size")
LONGEST = 20
"""Characters of a command that are shown; --no-trunc shows all."""


def ps(store: Store, operands: Sequence[str], options: Options) -> int:
    """List those that run; with --all, or a filter by how they ended, all of them."""
    wanted: dict[str, list[Any]] = {**filters(options, FILTERS)}
    if unknown := {*wanted.get("status", ())} - {*STATES}:
        raise ValueError(f"--filter status={min(unknown)}: say one of {', '.join(STATES)}")
    # By name or ID here, by time below.
    for key in ("before", "since"):
        wanted[key] = [find(store, word).config()["created"] for word in wanted.get(key, ())]
    form, sized = last(options, "--format"), "--size" in options
    sized |= "{{.Size}}" in form
    every = bool({"--all", "--latest", "--last"} & {*options} or {"status", "exited"} & {*wanted})
    rows = []
    for state in everything(store):
        facts = state.facts()
        if (every or facts["status"] in LIVE) and fits(state, facts, wanted):
            rows.append(row_of(state, facts, whole="--no-trunc" in options))
            if sized:
                rows[-1]["Size"] = size_of_written(state)
    if "--latest" in options:
        rows = rows[:1]
    if "--last" in options:
        rows = rows[: int(last(options, "--last"))]
    if "--quiet" in options:
        for row in rows:
            say(row["ID"])
        return 0
    show(rows, (*COLUMNS, SIZE) if sized else COLUMNS, form)
    return 0


def row_of(state: State, facts: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Return one container, with the fields of `docker ps --format json`."""
    config = state.config()
    words = " ".join(f"'{word}'" if " " in word else word for word in config["command"])
    if len(words) > LONGEST and not whole:
        words = f"{words[: LONGEST - 1]}…"
    options = config["options"]
    sources = [text.partition(":")[0] for text in options.get("--volume", ())]
    return {
        "ID": state.id,
        "Image": config["image"],
        "Command": json.dumps(words, ensure_ascii=False),
        "CreatedAt": date(config["created"]),
        "RunningFor": ago(config["created"]),
        "State": state_of(facts),
        "Status": status_of(facts),
        "Ports": ", ".join(f"{outer}->{inner}" for outer, inner in ports_of(facts)),
        "Names": state.name,
        "Labels": ",".join(options.get("--label", ())),
        "Networks": network_of(options),
        "Mounts": ",".join(sources),
        "LocalVolumes": str(sum(not is_path(source) for source in sources)),
    }


def size_of_written(state: State) -> str:
    """Return how much a container has written."""
    own = [f"{state.folder}/{driver}" for driver in DRIVERS]
    uppers = [f"{folder}/upper" for folder in own if os.path.isdir(f"{folder}/upper")]
    return bytes_in(sum(size_of(folder) for folder in uppers or filter(os.path.isdir, own)))


def network_of(options: Mapping[str, Sequence[str]]) -> str:
    """Return the name of its network."""
    for name in ("--network", "--net"):
        if name in options:
            return options[name][-1]
    return "bridge"


def ports_of(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return which ports lead to it now: where outside, 0.0.0.0:8080, and where inside, 80/tcp."""
    return [
        (f"{address}:{outside}", f"{inside}/{protocol}")
        for protocol, address, outside, inside in facts["ports"]
    ]


def state_of(facts: Mapping[str, Any]) -> str:
    """Return its state in Docker's word."""
    if facts["status"] == "running" and frozen(dict(facts)):
        return "paused"
    return "created" if facts["status"] == "starting" else str(facts["status"])


def status_of(facts: Mapping[str, Any]) -> str:
    """Return its state as a person reads it."""
    state = state_of(facts)
    if state in ("running", "paused"):
        up = f"Up {ago(facts['started_at']).removesuffix(' ago')}"
        return f"{up} (Paused)" if state == "paused" else up
    if state == "created":
        return "Created"
    word = "Restarting" if state == "restarting" else "Exited"
    return f"{word} ({facts['exit_code']}) {ago(facts['finished_at'])}"


def fits(state: State, facts: Mapping[str, Any], wanted: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether it is what the filters ask for: of each kind one has to be true."""
    config = state.config()
    labels = config["options"].get("--label", [])
    true: dict[str, Callable[[Any], bool]] = {
        "ancestor": lambda value: value in (config["image"], config["image"].partition(":")[0]),
        "exited": lambda value: facts["status"] == "exited" and str(facts["exit_code"]) == value,
        "id": lambda value: state.id.startswith(value),
        "label": lambda value: any(has_label(one, value) for one in labels),
        "name": lambda value: (
            value.strip("^$/") in state.name
            and (not value.startswith("^") or state.name == value.strip("^$/"))
        ),
        "network": lambda value: network_of(config["options"]) == value,
        "publish": lambda value: any(
            value.partition("/")[0] == outer.rpartition(":")[2] for outer, _ in ports_of(facts)
        ),
        "since": lambda value: config["created"] > value,
        "before": lambda value: config["created"] < value,
        "volume": lambda value: any(
            value in text.split(":")[:2] for text in config["options"].get("--volume", ())
        ),
        "status": lambda value: state_of(facts) == value,
    }
    return all(any(map(true[key], values)) for key, values in wanted.items() if values)


def has_label(label: str, asked: str) -> bool:
    """Return whether a label is the K=V, or has the K, that is asked for."""
    return label == asked or ("=" not in asked and label.partition("=")[0] == asked)


VERBS = {
    "ps": Verb(
        "", 0, 0, "list containers",
        [("-a", "--all", "", "also those that don't run"), FILTER, FORMAT, QUIET,
         ("-l", "--latest", "", "only the youngest"), ("-n", "--last", "N", "the N youngest"),
         ("", "--no-trunc", "", "whole commands"), ("-s", "--size", "", "how much they wrote")],
        ps,
    ),
}  # fmt: skip
