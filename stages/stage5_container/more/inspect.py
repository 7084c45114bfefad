"""`inspect`: all that is known of a container, or of an image, in the words of Docker's."""

from __future__ import annotations

import os
from importlib import import_module

from stages.stage4_overlayfs.image import Image
from stages.stage4_overlayfs.more.history import inspect as inspect_image
from stages.stage5_container.more.lookup import find, made_again
from stages.stage5_container.more.ps import network_of, ports_of, state_of
from stages.stage5_container.more.publish import ANY, ports
from stages.stage5_container.more.verb import AS_WORDS, MANY, Verb, inspect_each, last, rfc3339
from stages.stage5_container.stack import config_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stages.stage4_overlayfs.options import Volume
    from stages.stage4_overlayfs.store import Store
    from stages.stage5_container.more.verb import Options
    from stages.stage5_container.options import Contained
    from stages.stage5_container.state import State


def inspect(store: Store, operands: Sequence[str], options: Options) -> int:
    """Show what containers and images are."""
    kind = last(options, "--type")
    return inspect_each(operands, lambda word: one(store, word, kind), options)


def one(store: Store, word: str, kind: str) -> dict[str, Any]:
    """Return what is known of a container; or where there is none, of an image."""
    try:
        if kind != "image":
            return told(find(store, word))
    except FileNotFoundError:
        if kind == "container":
            raise
    try:
        digest = store.resolve(word)
    except FileNotFoundError as error:
        if kind == "image":
            raise
        why = "no container and no image has this name or ID: `ps -a` and `images` list them"
        raise FileNotFoundError(error.errno, why, word) from None
    names = [name for name, leads in store.names().items() if leads == digest]
    return inspect_image(Image(store, digest), names)


def told(state: State) -> dict[str, Any]:
    """Return what is known of a container."""
    facts, config, container = state.facts(), state.config(), made_again(state)
    container.settle(config_of(state))
    status = state_of(facts)
    command = config["command"]
    return {
        "Id": state.id,
        "Created": rfc3339(config["created"]),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": {
            "Status": status,
            "Running": status in ("running", "paused", "restarting"),
            "Paused": status == "paused",
            "Restarting": status == "restarting",
            "OOMKilled": facts["oom_killed"],
            "Dead": False,
            "Pid": facts["pid"],
            "ExitCode": facts["exit_code"],
            "Error": facts["error"],
            "StartedAt": rfc3339(facts["started_at"]),
            "FinishedAt": rfc3339(facts["finished_at"]),
        },
        "Image": container.image,
        "ResolvConfPath": f"{state.folder}/resolv.conf",
        "HostsPath": f"{state.folder}/hosts",
        "LogPath": f"{state.folder}/log",
        "Name": f"/{state.name}",
        "RestartCount": facts["restarts"],
        "Driver": container.driver,
        "MonitorPid": facts["monitor"],
        "Cgroups": facts["groups"],
        "HostConfig": host_config(container),
        "Mounts": [mount(one, f"{state.store.root}/volumes/") for one in container.volumes],
        "Config": {
            "Hostname": container.hostname,
            "User": container.user,
            "Tty": container.tty,
            "OpenStdin": container.interactive,
            "Env": [
                f"{name.decode(errors='replace')}={value.decode(errors='replace')}"
                for name, value in container.environment.items()
            ],
            "Cmd": command,
            "Image": config["image"],
            "WorkingDir": container.workdir,
            "Labels": container.labels,
            "StopSignal": container.stop_signal or "SIGTERM",
            "StopTimeout": container.grace,
        },
        "NetworkSettings": network(state, facts, config["options"]),
    }


def mount(one: Volume, volumes: str) -> dict[str, Any]:
    """Return what is mounted, and where: a directory of the host's, a volume, or a tmpfs."""
    where = {"Source": one.source, "Destination": f"/{one.target}", "RW": not one.read_only}
    if one.source.startswith(volumes):
        name = one.source.removeprefix(volumes).partition("/")[0]
        return {"Type": "volume", "Name": name, "Driver": "local", **where}
    return {"Type": "bind" if one.source else "tmpfs", **where}


def host_config(container: Contained) -> dict[str, Any]:
    """Return what it was given of the host's."""
    limits = container.limits
    return {
        "Binds": [
            f"{one.source}:/{one.target}{':ro' if one.read_only else ''}"
            for one in container.volumes
            if one.source
        ],
        "NetworkMode": container.network or "bridge",
        "PortBindings": bindings(container),
        "RestartPolicy": {"Name": container.restart, "MaximumRetryCount": container.tries},
        "AutoRemove": container.remove,
        "CapAdd": container.cap_add,
        "CapDrop": container.cap_drop,
        "SecurityOpt": container.security,
        "ReadonlyRootfs": container.read_only,
        "Init": container.init,
        "Memory": limits.memory or 0,
        "MemorySwap": limits.memory_swap or 0,
        "CpuShares": limits.shares or 0,
        "CpuQuota": limits.quota or 0,
        "CpusetCpus": limits.cpus or "",
        "PidsLimit": limits.pids or 0,
        "LogConfig": {"Type": "cri-file", "Config": container.log},
    }


def bindings(container: Contained) -> dict[str, list[dict[str, str]]]:
    """Return which ports were to lead to it: "" for any address, any port."""
    asked: dict[str, list[dict[str, str]]] = {}
    for port in ports(container.publish):
        where = {"HostIp": port.address.replace(ANY, ""), "HostPort": str(port.outside or "")}
        asked.setdefault(f"{port.inside}/{port.protocol}", []).append(where)
    return asked


def network(state: State, facts: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return where it can be reached."""
    open_: dict[str, list[dict[str, str]]] = {}
    for outer, inner in ports_of(facts):
        address, _, port = outer.rpartition(":")
        open_.setdefault(inner, []).append({"HostIp": address, "HostPort": port})
    where = {network_of(options): facts["address"]}
    if os.path.exists(f"{state.folder}/networks"):
        where |= import_module("stages.stage5_container.more.connections").seats(
            state.id, state.folder
        )
    return {
        "IPAddress": facts["address"],
        "Ports": open_,
        "Networks": {name: {"IPAddress": address} for name, address in where.items()},
        "SandboxKey": f"/proc/{facts['pid']}/ns/net" if facts["pid"] else "",
    }


VERBS = {
    "inspect": Verb(
        "NAME...", 1, MANY, "all that is known of containers and images",
        [AS_WORDS, ("", "--type", "TYPE", "container or image")], inspect,
    ),
}  # fmt: skip
