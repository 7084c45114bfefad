"""The promises to the host: nothing left behind, nothing run after a failure."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checks.bench import tree
from checks.canaries import nonce
from checks.model import Finding
from checks.probes import probe, promise
from checks.runtimes import Request
from checks.trial import NotStarted, Trial
from checks.visitor import is_init
from checks.words import say

SYSVIPC = ("sysvipc/shm", "sysvipc/sem", "sysvipc/msg")
SYSCTLS = ("sys/net/ipv4/ip_forward", "sys/net/ipv4/conf/all/route_localnet")
"""What runtimes switch on for their network, and each network namespace has for itself."""
TAG = int.from_bytes(b"lab", "big")
"""The group of a bridge that stays for the next container, and that `labrun clean` removes."""
LOCKS = "/run/labrun"
"""Where its locks stay."""


@probe("host.failclosed")
def failclosed(trial: Trial) -> Finding:
    """Where a step fails, the command does not run, and the status is 125."""
    mark = nonce("ran")
    command = ["/bin/sh", "-c", f"echo {mark}"]
    folder = Path(trial.bench.path(trial.bench.scratch))
    (folder / "file").write_text("not a directory\n", encoding="ascii")
    cases = {
        say("host.case_no_root"): f"{trial.bench.scratch}/{nonce()}",
        say("host.case_file_root"): f"{trial.bench.scratch}/file",
    }
    faults, seen = [], []
    for case, root in cases.items():
        ended = trial.run(Request(command, root=root))
        if mark.encode() in ended.stdout:
            faults.append(say("host.ran", case=case))
        else:
            seen.append(say("host.refused", case=case, said=ended.said()))
    return promise(faults, *seen)


def _everything(trial: Trial) -> dict[str, list[str]]:
    """Return all that a run could leave on the bench, by its kind in the language in use.

    Not counted: the shared bridge, as long as nothing is plugged in, and the locks (CONTRACT).
    """
    bench = trial.bench
    root = Path(bench.path(bench.root))
    links, addresses = bench.see_network(_network)
    bridges = {
        link["name"]
        for link in links
        if (link["kind"], link["group"]) == ("bridge", TAG)
        and not any(other["master"] == link["index"] for other in links)
    }
    routes = _lines(f"/proc/{bench.pid}/net/route")[1:]
    files = [name for name in bench.files() if name != LOCKS]
    return {
        say("host.mounts"): _lines(f"/proc/{bench.pid}/mountinfo"),
        say("host.processes"): [json.dumps(argv) for argv in bench.processes().values()],
        say("host.groups"): bench.groups(),
        say("host.links"): [link["name"] for link in links if link["name"] not in bridges],
        say("host.addresses"): [f"{at} ({name})" for name, at in addresses if name not in bridges],
        say("host.routes"): [row for row in routes if row.split()[0] not in bridges],
        say("host.files"): [
            name for name in files if not (name.startswith(LOCKS) and name.endswith(".lock"))
        ],
        say("host.root_files"): [_described(root / name) for name in (".", *tree(str(root)))],
        say("host.name"): [bench.see(lambda: os.uname().nodename)],
        # Key, id and mode; the other columns count who has used them.
        say("host.segments"): _by_judges_proc(trial, SYSVIPC, slice(0, 3)),
        say("host.sysctls"): _by_judges_proc(trial, SYSCTLS, slice(None)),
        say("host.rules"): bench.see_network(_rules),
    }


def _rules() -> list[str]:
    """Return the packet rules of this network, those of iptables too where it uses nf_tables.

    Without nft(8) nobody can tell; and to ask must not load a module into the machine's kernel.
    """
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    there = not os.path.exists("/proc/modules") or os.path.isdir("/sys/module/nf_tables")
    if not (nft and there):
        return []
    # Without counters: those of a rule that stays may go on.
    listed = [nft, "--stateless", "list", "ruleset"]
    ended = subprocess.run(listed, capture_output=True, text=True, check=False)
    return [line.strip() for line in ended.stdout.splitlines() if line.strip("\t }")]


def _network() -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the devices of this network, and its IPv4 addresses, by rtnetlink(7)."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        links = [
            {
                "index": link["index"],
                "name": link.get_attr("IFLA_IFNAME"),
                "kind": link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"),
                "group": link.get_attr("IFLA_GROUP"),
                "master": link.get_attr("IFLA_MASTER"),
            }
            for link in ip.get_links()
        ]
        names = {link["index"]: link["name"] for link in links}
        # A device that came after the first answer isn't in it: the host's come and go.
        addresses = [
            (names[row["index"]], row.get_attr("IFA_ADDRESS"))
            for row in ip.get_addr()
            if row["index"] in names
        ]
    return links, [(name, at) for name, at in addresses if not at.startswith("fe80:")]


def _lines(file: str) -> list[str]:
    return Path(file).read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _described(path: Path) -> str:
    facts = path.lstat()
    places = {"mode": facts.st_mode, "size": facts.st_size, "changed": facts.st_mtime_ns}
    return say("host.file", path=path, **places)


def _by_judges_proc(trial: Trial, files: Sequence[str], columns: slice) -> list[str]:
    """Return some columns of files in /proc that show the namespaces of whoever opens them.

    The visitor opens them on the bench, but by the judge's /proc: the bench's may lie.
    """
    proc = os.open("/proc", os.O_PATH)

    def look() -> list[str]:
        found = []
        for name in files:
            with open(os.open(name, os.O_RDONLY, dir_fd=proc), encoding="ascii") as file:
                found += [f"{name}: {' '.join(row.split()[columns])}" for row in file]
        return found

    try:
        return trial.bench.see(look)
    finally:
        os.close(proc)


def _run_and_end(trial: Trial) -> None:
    """Have a command end in each of four ways: success, failure, SIGTERM, SIGKILL."""
    trial.run(Request(["/bin/true"]))
    trial.run(Request([f"/bin/{nonce('none')}"]))
    for number in (signal.SIGTERM, signal.SIGKILL):
        with trial.started() as container:
            # The kernel drops what pid 1 of a namespace has no handler for: there is little to
            # wait for. A command that outlives its runtime is judged by run.signals; leaving, we
            # kill it.
            dropped = number == signal.SIGTERM and is_init(container.pid)
            container.process.send_signal(number)
            container.ends(0.5 if dropped else 3)


@probe("host.residue")
def residue(trial: Trial) -> Finding:
    """Nothing of the runtime's is left: after success, failure, SIGTERM and SIGKILL."""
    before = _everything(trial)
    faults = []
    try:
        _run_and_end(trial)
    except NotStarted as error:
        faults.append(str(error))
    until = time.monotonic() + 5
    while (after := _everything(trial)) != before and time.monotonic() < until:
        time.sleep(0.1)  # the kernel takes namespaces down in the background
    for kind, facts in before.items():
        new = [row for row in after[kind] if row not in facts]
        gone = [row for row in facts if row not in after[kind]]
        faults += [say("host.left", kind=kind, row=row) for row in new]
        faults += [say("host.gone", kind=kind, row=row) for row in gone]
    counts = [say("host.counted", kind=kind, count=len(facts)) for kind, facts in before.items()]
    return promise(faults, say("host.as_before", counts=", ".join(counts)))
