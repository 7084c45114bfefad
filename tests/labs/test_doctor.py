"""`labrun doctor` says what is so: on this machine, and on ones from which something was taken.

What can be taken is taken for real: in a mount namespace of its own a tree is covered, in a user
namespace a limit is set to 0. Pure cgroup v2 and other architectures are in the VM's tests.
"""

import contextlib
import ctypes
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from labs import machine, texts
from labs.doctor import cgroups, row, screen, system, table
from labs.doctor.attempt import Outcome, attempt, unshare
from labs.doctor.facts import Facts
from labs.doctor.row import Finding, State, words
from labs.errors import CANNOT
from tests.labs.rootfs.bench import until

CHECKOUT = Path(__file__).resolve().parents[2]
DOCTOR = (sys.executable, "-c", "from labs.cli import main; main()", "doctor")
SPARE = 54321
"""A user that owns nothing on this machine."""
USER = f"setpriv --reuid {SPARE} --regid {SPARE} --clear-groups"
ROOT = os.geteuid() == 0

needs_root = pytest.mark.skipif(not ROOT, reason="needs root")


def run(*options: str, inside: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor; `inside` is a shell command line that ends by running "$@"."""
    command = (*DOCTOR, *options)
    return subprocess.run(
        ["sh", "-c", inside, "sh", *command] if inside else command,
        cwd=CHECKOUT,
        env={
            **os.environ,
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "80",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def report(inside: str = "") -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the JSON report, and its rows by their ids."""
    done = run("--json", "-", inside=inside)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    can = all(stage["can"] for stage in found["stages"].values())
    assert done.returncode == (0 if can else CANNOT)
    return found, {row["id"]: row for row in found["rows"]}


def as_user() -> str:
    """Return how to start a command as an ordinary user, where we are root."""
    if not ROOT:
        return ""
    inside = f'exec {USER} "$@"'
    if run("--help", inside=inside).returncode != 0:
        pytest.skip(f"user {SPARE} can't read this Python, or this checkout")
    return inside


@pytest.fixture(scope="module")
def here() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    return report()


@pytest.fixture
def adopts() -> Iterator[None]:
    """Orphans become children of this process, so that only our own are looked at."""
    libc, set_child_subreaper = ctypes.CDLL(None), 36
    libc.prctl(set_child_subreaper, 1, 0, 0, 0)
    yield
    libc.prctl(set_child_subreaper, 0, 0, 0, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def world() -> dict[str, object]:
    """Return what a trial could leave behind, without what other tests make meanwhile."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                children.append(stat.parent.name)
    groups = []
    for mount in machine.cgroups(machine.mounts()):
        for folder, below, _ in os.walk(mount.point):
            below[:] = [name for name in below if not name.startswith("labrun-")]
            groups.append(folder)
    return {
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "links": sorted(name for name in os.listdir("/sys/class/net") if name[:3] != "lab"),
        "cgroups": sorted(groups),
        "loops": sorted(path.name for path in Path("/dev").glob("loop*")),
        "host name": os.uname().nodename,
        "children": children,
    }


def new_in_the_world(before: dict[str, object]) -> list[object]:
    """Return what wasn't there before."""
    return [
        fact
        for key, now in world().items()
        for fact in (now if isinstance(now, list) else [now])
        if fact not in (known if isinstance(known := before[key], list) else [known])
    ]


def test_the_report_has_the_form_of_the_contract(here: Any) -> None:
    found, rows = here
    assert found["schema"] == 1
    assert set(found["host"]) == {"kernel", "arch", "cgroup", "root"}
    assert list(found["stages"]) == [f"stage{number}" for number in range(1, 6)]
    for entry in rows.values():
        assert entry["state"] in set(State)
        assert entry["fact"]
        assert entry["where"]
        for name in (*entry["required_by"], *entry["optional_for"]):
            assert name in found["stages"]
    for name, stage in found["stages"].items():
        lacks = [
            entry["id"]
            for entry in rows.values()
            if name in entry["required_by"] and entry["state"] in ("no", "unknown")
        ]
        assert stage == {"can": not lacks, "lacks": lacks}


def test_every_lack_has_a_remedy(here: Any) -> None:
    lacking = [entry for entry in here[1].values() if entry["state"] != "yes"]
    assert [entry["id"] for entry in lacking if not entry["remedy"]] == []


@needs_root
def test_what_is_said_of_namespaces_is_what_unshare_says(here: Any) -> None:
    for kind in ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup"):
        done = subprocess.run(["unshare", f"--{'mount' if kind == 'mnt' else kind}", "true"])
        assert (here[1][f"ns.{kind}"]["state"] == "yes") == (done.returncode == 0)


@pytest.mark.usefixtures("adopts")
def test_nothing_is_left_behind() -> None:
    before = world()
    run()
    assert world() == before


@pytest.mark.usefixtures("adopts")
def test_nothing_is_left_behind_by_an_ordinary_user() -> None:
    inside, before = as_user(), world()
    run(inside=inside)
    assert world() == before


@pytest.mark.usefixtures("adopts")
def test_nothing_is_left_behind_when_it_is_killed() -> None:
    before = world()
    for delay in (0.15, 0.25, 0.35, 0.5):
        doctor = subprocess.Popen(DOCTOR, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        doctor.kill()
        doctor.wait()
    # What it had tried in processes of its own ends with it, as soon as they have their turn; and
    # what other tests took away meanwhile isn't missed.
    until(lambda: not new_in_the_world(before), seconds=60)


def test_an_ordinary_user_is_told_to_come_back_as_root() -> None:
    found, rows = report(as_user())
    assert found["host"]["root"] is False
    assert rows["machine.root"]["state"] == "no"
    for name in ("cap.sys_admin", "ns.pid", "ns.net", "fs.overlay", "net.veth"):
        assert (rows[name]["state"], rows[name]["remedy"]) == ("unknown", "sudo ./labrun doctor")
    assert not any(stage["can"] for stage in found["stages"].values())


@needs_root
def test_a_kernel_without_user_namespaces_is_named_by_its_limit() -> None:
    _, rows = report(
        "exec unshare --user --map-root-user sh -c "
        '\'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"\' sh "$@"'
    )
    for name in ("machine.rootless", "ns.user"):
        assert rows[name]["state"] == "no"
        assert "/proc/sys/user/max_user_namespaces is 0" in rows[name]["fact"]
        assert rows[name]["remedy"].endswith("sysctl user.max_user_namespaces=15000")
    assert rows["fs.overlay_rootless"]["state"] == "no"
    assert rows["machine.root"]["state"] == "limited"
    assert rows["machine.outermost"]["state"] == "limited"


@needs_root
def test_a_limit_on_another_namespace_is_named_too() -> None:
    _, rows = report(
        "exec unshare --user --map-root-user sh -c "
        '\'echo 0 > /proc/sys/user/max_uts_namespaces; exec "$@"\' sh "$@"'
    )
    assert rows["ns.uts"]["state"] == "no"
    assert "/proc/sys/user/max_uts_namespaces is 0" in rows["ns.uts"]["fact"]
    assert rows["ns.ipc"]["state"] == "yes"


@needs_root
def test_without_proc_it_is_one_line() -> None:
    done = run(inside='exec unshare --mount sh -c \'mount -t tmpfs none /proc; exec "$@"\' sh "$@"')
    assert (done.returncode, done.stdout) == (CANNOT, "")
    assert done.stderr.startswith("labrun: doctor: /proc isn't mounted")
    assert done.stderr.endswith(": mount -t proc proc /proc\n")
    assert done.stderr.count("\n") == 1


@needs_root
def test_without_cgroups_stage_3_cannot_run_and_stage_2_can() -> None:
    found, rows = report(
        'exec unshare --mount sh -c \'mount -t tmpfs none /sys/fs/cgroup; exec "$@"\' sh "$@"'
    )
    assert found["host"]["cgroup"] == "none"
    assert rows["cgroup.version"]["state"] == "no"
    assert rows["cgroup.memory"]["state"] == "no"
    assert "mount -t cgroup" in rows["cgroup.memory"]["remedy"]
    assert "cgroup.memory" in found["stages"]["stage3"]["lacks"]
    assert not any(name.startswith("cgroup.") for name in found["stages"]["stage2"]["lacks"])


@needs_root
def test_a_controller_that_is_mounted_read_only_is_not_a_yes() -> None:
    tree = next(
        mount
        for mount in machine.cgroups(machine.mounts())
        if mount.type == "cgroup2" or "memory" in mount.options
    )
    _, rows = report(
        f'exec unshare --mount sh -c \'mount -o bind,remount,ro {tree.point}; exec "$@"\' sh "$@"'
    )
    assert rows["cgroup.memory"]["state"] == "no"
    assert rows["cgroup.memory"]["remedy"] == f"mount -o remount,bind,rw {tree.point}"


@needs_root
def test_root_without_its_capabilities_is_told_which() -> None:
    found, rows = report('exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin "$@"')
    assert rows["cap.sys_admin"]["state"] == "no"
    assert rows["cap.net_admin"]["state"] == "yes"
    assert "CAP_SYS_ADMIN" in rows["ns.pid"]["fact"]
    assert rows["fs.overlay"]["state"] == "no"
    assert "cap.sys_admin" not in found["stages"]["stage1"]["lacks"]
    assert "cap.sys_admin" in found["stages"]["stage2"]["lacks"]


@needs_root
def test_a_hidden_device_is_missed() -> None:
    _, rows = report(
        "exec unshare --mount sh -c 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3; "
        'exec "$@"\' sh "$@"'
    )
    for name in ("fs.fuse", "fs.loop"):
        assert rows[name]["state"] == "no"


@needs_root
def test_without_its_library_fuse_is_missed() -> None:
    _, rows = report(
        "exec unshare --mount sh -c "
        '\'mount --bind /dev/null /etc/ld.so.cache && exec "$@"\' sh "$@"'
    )
    assert rows["fs.fuse"]["state"] == "no"
    assert "fuse3" in rows["fs.fuse"]["remedy"]


@needs_root
def test_an_inner_pid_namespace_is_a_container() -> None:
    _, rows = report('exec unshare --pid --fork --mount-proc "$@"')
    assert rows["machine.outermost"]["state"] == "limited"
    assert "pid" in rows["machine.outermost"]["fact"]


@needs_root
def test_inside_a_chroot_the_kernel_refuses_a_user_namespace() -> None:
    copy = (
        "mount -t tmpfs none /mnt && mkdir /mnt/root && "
        'for entry in /*; do if [ -L "$entry" ]; then cp -P "$entry" /mnt/root; '
        'elif [ -d "$entry" ] && [ "$entry" != /mnt ]; then '
        'mkdir "/mnt/root$entry" && mount --rbind "$entry" "/mnt/root$entry"; fi; done; '
        f'exec chroot /mnt/root sh -c \'cd {CHECKOUT} && exec "$@"\' sh "$@"'
    )
    _, rows = report(f'exec unshare --mount sh -c {shlex.quote(copy)} sh "$@"')
    assert rows["machine.outermost"]["state"] == "limited"
    assert rows["machine.rootless"]["state"] == "no"
    assert "inside a chroot" in rows["machine.rootless"]["fact"]


FILTERED = """
import ctypes, os, struct, sys
unshare = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
program = b"".join(struct.pack("=HBBI", *line) for line in (
    (0x20, 0, 0, 0),           # load the call's number
    (0x15, 0, 1, unshare),     # another than unshare: skip one
    (0x06, 0, 0, 0x00050001),  # SECCOMP_RET_ERRNO, EPERM
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
))
libc, held = ctypes.CDLL(None), ctypes.create_string_buffer(program)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
filter = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(held)))
if libc.prctl(22, 2, filter, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit("no filter")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_an_outer_seccomp_filter_is_named() -> None:
    _, rows = report(f'exec {shlex.quote(sys.executable)} -c {shlex.quote(FILTERED)} "$@"')
    assert rows["sec.seccomp"]["state"] == "limited"
    assert rows["machine.rootless"]["state"] == "no"
    assert "a seccomp filter is on this shell" in rows["machine.rootless"]["fact"]


@needs_root
def test_without_what_compiles_a_filter_stage_5_cannot_run() -> None:
    # A file that is no library takes its place.
    ctypes.CDLL(system.LIBSECCOMP)
    rows_of_maps = Path("/proc/self/maps").read_text().splitlines()
    places = {row.split()[-1] for row in rows_of_maps if "libseccomp" in row}
    cover = "; ".join(f"mount --bind /dev/null {place}" for place in places)
    found, rows = report(f'exec unshare --mount sh -ec \'{cover}; exec "$@"\' sh "$@"')
    assert rows["sec.seccomp"]["state"] == "no"
    assert "libseccomp" in rows["sec.seccomp"]["fact"]
    assert "apt-get install libseccomp2" in rows["sec.seccomp"]["remedy"]
    assert "sec.seccomp" in found["stages"]["stage5"]["lacks"]


@needs_root
def test_a_full_disk_is_a_lack_of_every_stage() -> None:
    found, rows = report(
        "exec unshare --mount sh -c 'mount -t tmpfs -o size=1m none /mnt; "
        'exec env LABRUN_CACHE=/mnt/cache "$@"\' sh "$@"'
    )
    assert rows["machine.disk"]["state"] == "no"
    assert all("machine.disk" in stage["lacks"] for stage in found["stages"].values())


def test_a_peer_is_found_along_the_path(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name, script in (("crun", "echo crun version 9.8.7"), ("podman", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = run("--json", "-", PATH=f"{tmp_path}:{os.environ['PATH']}")
    rows = {entry["id"]: entry for entry in json.loads(done.stdout)["rows"]}
    assert rows["peer.crun"]["state"] == "yes"
    assert rows["peer.crun"]["fact"] == "9.8.7"
    assert rows["peer.crun"]["where"] == f"{tmp_path}/crun"
    assert rows["peer.podman"]["state"] == "limited"


def test_json_goes_to_a_file_beside_the_screen(tmp_path: Path) -> None:
    done = run("--json", str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == 1
    assert "What can run here" in done.stdout


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    done = run("--json", str(tmp_path / "nowhere/report.json"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No such file or directory" in done.stderr


def test_the_screen_fits_80_columns_without_colour() -> None:
    done = run()
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    # Only what is to be typed may be longer: folded, it could not be copied.
    assert [line for line in lines if cell_len(line) > 80 and "→" not in line] == []
    assert [line for line in lines if line.startswith("✓ pid")] != [] or not ROOT


def test_the_screen_speaks_chinese() -> None:
    done = run("--lang", "zh")
    assert "这台机器能运行什么" in done.stdout
    assert [
        line for line in done.stdout.splitlines() if cell_len(line) > 80 and "→" not in line
    ] == []


def test_where_signs_cannot_be_written_words_stand() -> None:
    done = run(PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert "yes       kernel" in done.stdout
    assert "?" not in done.stdout


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_titles_fit_their_column(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checks.words._language", language)
    titles = [entry.title for entry in table.ROWS]
    titles += [words(f"stage{stage}") for stage in row.STAGES]
    assert [title for title in titles if cell_len(title) > screen.TITLE] == []


def test_ids_are_unique_and_each_row_concerns_a_stage() -> None:
    ids = [entry.id for entry in table.ROWS]
    assert len(set(ids)) == len(ids)
    assert all(entry.required_by or entry.optional_for for entry in table.ROWS)
    assert not any(set(entry.required_by) & set(entry.optional_for) for entry in table.ROWS)


def test_a_trial_that_hangs_is_killed_with_what_it_started() -> None:
    def hang() -> str:
        subprocess.run(["sleep", "61.25"])
        return ""

    started = time.monotonic()
    assert not attempt(hang, seconds=0.3).ok
    assert time.monotonic() - started < 5
    time.sleep(0.1)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"61.25" not in command.read_bytes()
        except OSError:
            continue


def test_a_trial_that_fails_says_why() -> None:
    def fail() -> str:
        raise ValueError("no such thing")

    assert attempt(fail) == Outcome(False, "ValueError: no such thing")
    assert attempt(lambda: os._exit(7)).ok is False
    assert attempt(lambda: "fine") == Outcome(True, "fine")


@needs_root
def test_a_trial_changes_its_child_only() -> None:
    before = os.stat("/proc/self/ns/uts").st_ino
    assert attempt(lambda: unshare("uts")).ok
    assert os.stat("/proc/self/ns/uts").st_ino == before


def fake_v2(folder: Path, **files: str) -> Facts:
    """Return the facts of a machine whose only cgroup tree is a v2 at `folder`.

    Our own path in /proc/self/cgroup doesn't lie in it, so that the tree's top is our group.
    """
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    number = folder.stat().st_dev
    line = f"31 23 {os.major(number)}:{os.minor(number)} /other {folder} rw - cgroup2 cgroup2 rw"
    facts = Facts()
    facts.__dict__["mounts"] = machine.mounts(line)
    return facts


def test_v2_in_the_first_group(tmp_path: Path) -> None:
    facts = fake_v2(tmp_path, cgroup_controllers="cpu memory", cgroup_subtree_control="")
    assert machine.cgroup_version(facts.cgroups) == "v2"
    assert cgroups.version(facts).state is State.YES
    assert cgroups.controller("memory", facts).state is State.YES
    assert cgroups.controller("pids", facts).state is State.NO
    assert cgroups.controller("freezer", facts).state is State.YES


@needs_root
def test_v2_in_a_container_that_has_not_made_room(tmp_path: Path) -> None:
    facts = fake_v2(
        tmp_path, cgroup_controllers="memory", cgroup_events="populated 1", cgroup_procs="1"
    )
    assert cgroups.controller("memory", facts).state is State.LIMITED
    assert cgroups.controller("devices", facts).remedy
    (tmp_path / "cgroup.subtree_control").write_text("memory")
    assert cgroups.controller("memory", facts).state is State.YES


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    hybrid = machine.mounts(
        "32 31 0:29 /a\\040b /sys/fs/cgroup/cpu ro,relatime shared:5 - cgroup cgroup rw,cpu\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "42 31 0:39 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    )
    assert hybrid[0].root == "/a b"
    assert "rw" not in hybrid[0].options
    assert "cpu" in hybrid[0].options
    assert machine.cgroup_version(hybrid) == "hybrid"
    assert machine.cgroup_version(hybrid[:1]) == "v1"
    assert machine.cgroup_version(hybrid[1:]) == "v2"
    assert machine.cgroup_version([]) == "none"


def test_a_limited_row_keeps_no_stage_from_running() -> None:
    entry = row.Row("machine.root", system.root, required_by=(1,))
    for state, lacking in (("yes", []), ("limited", []), ("no", [entry]), ("unknown", [entry])):
        assert row.lacks({entry: Finding(State(state), "", "")}, 1) == lacking
