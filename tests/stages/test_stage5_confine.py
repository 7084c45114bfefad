"""Stage 5's walls, as the kernel keeps them: capabilities, filters, masks, devices, users."""

import contextlib
import ctypes
import errno
import functools
import json
import os
import re
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages import linux
from stages.stage3_cgroups.more.find import Trees
from stages.stage4_overlayfs.more.paths import Tree
from stages.stage5_container import confine
from stages.stage5_container.more import (
    capabilities,
    devices,
    identity,
    masks,
    profile,
    profiles,
    seccomp,
)
from stages.stage5_container.more.security import Security
from stages.stage5_container.more.ulimits import limits
from tests.running import (
    NOBODY,
    abandoned_groups,
    cannot,
    ordinary_user,
    run,
)
from tests.stages.faults import check_each_fails_closed
from tests.stages.storing import apart

pytestmark = [
    pytest.mark.usefixtures("as_root", "nothing_is_left", "shop"),
    pytest.mark.xdist_group("stage5 walls"),
]

USUAL = 0xA80425FB
"""Docker's fourteen, as a sum."""
ALL = (1 << 41) - 1
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def shop(stock: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABRUN_STORE", str(stock))
    return stock


Inside = Callable[..., str]


@pytest.fixture
def inside(stage5: str, rootfs: Path) -> Inside:
    """Return what runs a shell script in a container, and returns what it prints."""

    def script(text: str, *options: str, before: Callable[[], None] | None = None) -> str:
        line = [stage5, "run", "--rm", "--net", "none", *options, str(rootfs), "/bin/sh", "-c"]
        ended = run([*line, text], preexec_fn=before)
        assert (ended.returncode, ended.stderr) == (0, b""), ended
        return ended.stdout.decode().strip()

    return script


@pytest.fixture
def refused(stage5: str, rootfs: Path) -> Inside:
    """Return what is said of options with which nothing runs."""

    def why(*options: str) -> str:
        line = [stage5, "run", "--rm", "--net", "none", *options, str(rootfs), "/bin/echo", "ran"]
        ended = run(line)
        assert (ended.returncode, ended.stdout) == (125, b""), ended
        assert ended.stderr.count(b"\n") == 1, ended
        return ended.stderr.decode()

    return why


def facts(text: str) -> dict[str, str]:
    """Return the rows of /proc/self/status."""
    return {
        name: value.strip() for name, _, value in (row.partition(":") for row in text.splitlines())
    }


def in_child(what: Callable[[], object]) -> str:
    """Return what `what` returns in a child, which may give up what it likes; or how it failed."""
    reader, writer = os.pipe()
    child = linux.clone3(0)
    if child == 0:
        try:
            os.write(writer, str(what()).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


# ---- capabilities


def test_root_has_dockers_fourteen_and_hands_none_on(inside: Inside) -> None:
    found = facts(inside("cat /proc/self/status"))
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Bnd", "Prm", "Eff")} == {USUAL}
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Inh", "Amb")} == {0}


def give_net_admin() -> None:
    """Have what is executed inherit a capability, whoever runs it."""
    effective, permitted, _ = linux.capget()
    linux.capset(effective, permitted, capabilities.BITS["NET_ADMIN"])
    assert libc.prctl(47, 2, 12, 0, 0) == 0  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE


def test_what_the_caller_lets_others_inherit_ends_here(inside: Inside) -> None:
    # The caller's own child does inherit it.
    mine = run(["cat", "/proc/self/status"], preexec_fn=give_net_admin).stdout.decode()
    assert int(facts(mine)["CapAmb"], 16)
    found = facts(inside("cat /proc/self/status", before=give_net_admin))
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Inh", "Amb")} == {0}
    assert int(found["CapEff"], 16) == USUAL


def test_an_ordinary_user_has_none_but_a_setuid_program_may_get_the_fourteen(
    inside: Inside,
) -> None:
    found = facts(inside("cat /proc/self/status", "--user", "7"))
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert int(found["CapBnd"], 16) == USUAL


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], capabilities.USUAL),
        ([], ["ALL"], ()),
        (["net_admin"], ["ALL"], ("NET_ADMIN",)),
        (["CAP_SYS_TIME"], ["cap_mknod"], {*capabilities.USUAL, "SYS_TIME"} - {"MKNOD"}),
        (["ALL"], ["SYS_ADMIN"], {*capabilities.NAMES} - {"SYS_ADMIN"}),
        (["all"], ["all"], capabilities.NAMES),
        (["KILL"], ["KILL"], capabilities.USUAL),
    ],
)
def test_what_is_added_and_dropped_counts_as_for_docker(
    add: list[str], drop: list[str], expected: Any
) -> None:
    found = capabilities.chosen(add, drop, ALL)
    assert {*capabilities.names_of(found)} == {*expected}


def test_of_the_usual_ones_those_are_left_out_that_cannot_be_had_and_an_added_one_is_an_error() -> (
    None
):
    own = capabilities.BITS["CHOWN"]
    assert capabilities.chosen([], [], own) == own
    with pytest.raises(ValueError, match="--cap-add SYS_TIME"):
        capabilities.chosen(["SYS_TIME"], [], own)


def test_the_command_line_decides(inside: Inside) -> None:
    found = facts(inside("cat /proc/self/status", "--cap-drop", "ALL", "--cap-add", "KILL"))
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == capabilities.BITS["KILL"]
    # A capability that isn't there isn't missed until it is needed.
    assert inside("chown 1 /bin/sh && echo done") == "done"
    assert inside("chown 1 /bin/sh 2>/dev/null || echo no", "--cap-drop", "CHOWN") == "no"


def test_the_numbers_are_the_kernels(tmp_path: Path) -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        cannot("the kernel's headers (linux-libc-dev) are not installed")
    rows = re.findall(r"^#define CAP_(\w+)\s+(\d+)$", header.read_text("utf-8"), re.MULTILINE)
    known = {name: int(number) for name, number in rows}
    assert {name: known[name] for name in capabilities.NAMES} == {
        name: number for number, name in enumerate(capabilities.NAMES)
    }


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--cap-add", "FLY"), "--cap-add FLY: no capability has this name"),
        (("--cap-drop", ""), "--cap-drop : no capability has this name"),
        (("--security-opt", "apparmor=mine"), "--security-opt apparmor=mine"),
        (("--security-opt", "seccomp=/nowhere"), "/nowhere"),
        (("--security-opt", "no-new-privileges=perhaps"), "no-new-privileges=perhaps"),
        (("--ulimit", "nofile"), "--ulimit nofile: say nofile=SOFT"),
        (("--ulimit", "files=3"), "--ulimit files=3"),
        (("--ulimit", "nofile=9:3"), "soft limit is beyond the hard one"),
        (("--user", "nemo"), "--user nemo: /etc/passwd inside has no nemo"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line_that_names_it(
    refused: Inside, options: tuple[str, ...], named: str
) -> None:
    assert named in refused(*options)


# ---- no new privileges


def test_no_new_privileges_is_off_unless_asked_for_as_in_docker(inside: Inside) -> None:
    usual = facts(inside("cat /proc/self/status"))
    asked = facts(inside("cat /proc/self/status", "--security-opt", "no-new-privileges"))
    assert (usual["NoNewPrivs"], asked["NoNewPrivs"]) == ("0", "1")
    # The filter is there either way: with it the kernel asks for no capability.
    assert usual["Seccomp"] == asked["Seccomp"] == "2"
    assert int(asked["CapEff"], 16) == USUAL


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), (False, True, True)),
        (("no-new-privileges",), (True, True, True)),
        (("no-new-privileges:true", "no-new-privileges=false"), (False, True, True)),
        (("seccomp=unconfined",), (False, False, True)),
        (("seccomp:unconfined", "seccomp=builtin"), (False, True, True)),
        (("systempaths=unconfined", "label=disable"), (False, True, False)),
    ],
)
def test_security_options_are_spelled_as_dockers(
    texts: tuple[str, ...], expected: tuple[bool, ...]
) -> None:
    found = Security(texts)
    assert (found.no_new_privileges, found.filtered, found.masked) == expected


# ---- system calls


def answers(program: bytes, calls: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the errno, 0 for none, of calls under a filter."""
    numbers = {name: seccomp.Library().library.seccomp_syscall_resolve_name(name.encode())
               for name in calls}  # fmt: skip

    def try_them() -> str:
        linux.set_seccomp_filter(program)
        found = {}
        for name, arguments in calls.items():
            number = int(name) if name.isdecimal() else numbers[name]
            words = [ctypes.c_ulong(argument) for argument in arguments]
            result = libc.syscall(ctypes.c_long(number), *words)
            found[name] = ctypes.get_errno() if result == -1 else 0
        return json.dumps(found)

    said: dict[str, int] = json.loads(in_child(try_them))
    return said


def usual(*more: str) -> bytes:
    library = seccomp.Library()
    choice = seccomp.choose(seccomp.DOCKER, [*capabilities.USUAL, *more], os.uname().machine)
    return library.compile(choice, os.uname().machine)


def test_the_filter_refuses_what_docker_refuses_and_nothing_usual() -> None:
    found = answers(
        usual(),
        {
            "getpid": (),
            "ptrace": (99, 0, 0, 0),
            "personality": (0xFFFFFFFF,),
            "unshare": (linux.CLONE_NEWUSER,),
            "mount": (0, 0, 0, 0, 0),
            "keyctl": (0, 0),
            "io_uring_setup": (1, 0),
            "kexec_load": (0, 0, 0, 0),
            "bpf": (0, 0, 0),
            "open_by_handle_at": (0, 0, 0),
            "clone3": (0, 0),
        },
    )
    permitted = {name for name, number in found.items() if number not in (1, errno.ENOSYS)}
    assert permitted == {"getpid", "ptrace", "personality"}
    assert found.pop("clone3") == errno.ENOSYS
    assert {found[name] for name in found.keys() - permitted} == {errno.EPERM}


def test_a_flag_or_a_family_can_make_the_difference() -> None:
    families = {"unix": (1, 1, 0), "alg": (38, 5, 0), "vsock": (40, 1, 0)}
    errors = {name: answers(usual(), {"socket": words})["socket"]
              for name, words in families.items()}  # fmt: skip
    assert errors == {"unix": 0, "alg": errno.EPERM, "vsock": errno.EPERM}
    # With no flag at all it would fork; so one that can't be is not refused by the filter.
    sighand = 0x800  # CLONE_SIGHAND without CLONE_VM: EINVAL, from the kernel itself
    assert answers(usual(), {"clone": (sighand,)}) == {"clone": errno.EINVAL}
    namespace = sighand | linux.CLONE_NEWUSER
    assert answers(usual(), {"clone": (namespace,)}) == {"clone": errno.EPERM}


def test_a_capability_opens_the_calls_that_are_for_it() -> None:
    calls = {"unshare": (0,), "clone3": (0, 0), "chroot": (0,), "syslog": (99, 0, 0)}
    closed = answers(usual(), calls)
    assert closed == {"unshare": 1, "clone3": errno.ENOSYS, "chroot": errno.EFAULT, "syslog": 1}
    opened = answers(usual("SYS_ADMIN"), calls)
    assert opened["unshare"] == 0
    assert {opened["clone3"], opened["syslog"]} == {errno.EINVAL}
    library = seccomp.Library()
    without = seccomp.choose(seccomp.DOCKER, [], os.uname().machine)
    program = library.compile(without, os.uname().machine)
    assert answers(program, {"chroot": (0,)}) == {"chroot": errno.EPERM}


def test_a_call_that_is_newer_than_the_library_is_not_there() -> None:
    assert answers(usual(), {"99999": (), "keyctl": (0,)}) == {
        "99999": errno.ENOSYS,
        "keyctl": errno.EPERM,
    }


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="cannot: x32 is x86-64's second set")
def test_the_second_set_of_calls_is_no_way_around() -> None:
    x32 = str(seccomp.X32 | 41)  # socket
    assert answers(usual(), {x32: (38, 5, 0)}) == {x32: errno.EPERM}


def test_the_table_has_as_many_names_as_dockers() -> None:
    names = profile.RULES[0].names
    # 361, and the three for which Docker asks whether the kernel is at least 4.8.
    assert len(names) == len({*names}) == 364
    known = seccomp.Library().library.seccomp_syscall_resolve_name
    unknown = {name for name in names if known(name.encode()) == seccomp.UNKNOWN}
    new = """cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listmount
        listxattrat map_shadow_stack mseal removexattrat riscv_hwprobe setxattrat statmount
        uretprobe"""
    assert unknown <= {*new.split()}


def test_a_program_is_compiled_once_and_again_where_it_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    original = seccomp.Library.compile

    def counted(self: seccomp.Library, *arguments: Any) -> bytes:
        compiled.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(seccomp.Library, "compile", counted)
    first = seccomp.filter_for(seccomp.DOCKER, capabilities.USUAL, str(tmp_path))
    assert seccomp.filter_for(seccomp.DOCKER, capabilities.USUAL, str(tmp_path)) == first
    assert len(compiled) == 1
    (kept,) = (tmp_path / "seccomp").iterdir()
    for damaged in (kept.read_bytes()[:-8], b"", kept.read_bytes()[:-8] + bytes(8)):
        kept.write_bytes(damaged)
        compiled.clear()
        assert seccomp.filter_for(seccomp.DOCKER, capabilities.USUAL, str(tmp_path)) == first
        assert len(compiled) == 1
    # Other capabilities, another program.
    seccomp.filter_for(seccomp.DOCKER, ["CHOWN"], str(tmp_path))
    assert len([*(tmp_path / "seccomp").iterdir()]) == 2


def test_without_libseccomp_nothing_runs_and_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libnowhere.so.2")
    with pytest.raises(FileNotFoundError) as raised:
        seccomp.filter_for(seccomp.DOCKER, capabilities.USUAL, str(tmp_path))
    monkeypatch.undo()
    raised.value.filename = seccomp.LIBRARY
    assert "seccomp=unconfined" in confine.why(raised.value)


def test_a_filter_that_was_forgotten_is_an_error_not_a_hole() -> None:
    rights = SimpleNamespace(security=Security(()), filter=None)
    assert "no filter was compiled" in in_child(lambda: confine.refuse_calls(rights))  # type: ignore[arg-type]


def test_unconfined_has_no_filter_and_a_file_has_another(inside: Inside, tmp_path: Path) -> None:
    unconfined = facts(inside("cat /proc/self/status", "--security-opt", "seccomp=unconfined"))
    assert unconfined["Seccomp"] == "0"
    file = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    said = inside("mkdir /a 2>&1; ls -d /a 2>&1; true", "--security-opt", f"seccomp={file}")
    assert os.strerror(errno.EXDEV) in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "no profile"),
        ("[]", "no profile"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "SCMP_ACT_NOTIFY: say one of"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}', "lacks a part"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(
    refused: Inside, tmp_path: Path, content: str, why: str
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content)
    assert why in refused("--security-opt", f"seccomp={file}")


def test_a_profile_of_dockers_own_format_means_what_it_says(tmp_path: Path) -> None:
    machine_of_go = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
    rows = [
        {"names": ["read", "write", "exit_group", "close"], "action": "SCMP_ACT_ALLOW"},
        {"name": "getpid", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_KILL"]}},
        {"name": "getppid", "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_KILL"]}},
        {"name": "getuid", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"name": "geteuid", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"name": "getgid", "action": "SCMP_ACT_ALLOW", "includes": {"arches": [machine_of_go]}},
        {"name": "getegid", "action": "SCMP_ACT_ALLOW", "excludes": {"arches": [machine_of_go]}},
        {
            "names": ["umask"],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {"index": 0, "value": 0o70, "valueTwo": 0o20, "op": "SCMP_CMP_MASKED_EQ"},
            ],
        },
    ]
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rows}))
    choice = seccomp.choose(profiles.load(str(file)), ["KILL"], os.uname().machine)
    program = seccomp.Library().compile(choice, os.uname().machine)
    names = ("getpid", "getppid", "getuid", "geteuid", "getgid", "getegid")
    asked: dict[str, tuple[int, ...]] = dict.fromkeys(names, ())
    found = answers(program, asked)
    assert {name for name, number in found.items() if number == 0} == {"getpid", "getuid", "getgid"}
    assert answers(program, {"umask": (0o22,)}) == {"umask": 0}
    assert answers(program, {"umask": (0o72,)}) == {"umask": errno.EPERM}


# ---- masked and read-only


def test_what_tells_of_the_machine_is_hidden_and_only_then(inside: Inside) -> None:
    script = """
        for file in kcore keys timer_list interrupts sched_debug latency_stats; do
            [ -e /proc/$file ] && [ -n "$(head -c 1 /proc/$file 2>/dev/null)" ] && echo $file
        done
        ls -A /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | grep .
        true
    """
    assert inside(script) == ""
    assert "timer_list" in inside(script, "--security-opt", "systempaths=unconfined").split()


def test_a_hidden_file_is_the_null_device_itself(inside: Inside) -> None:
    there = [name for name in ("timer_list", "keys") if os.path.exists(f"/proc/{name}")]
    assert there
    for name in there:
        assert inside(f"stat -c '%t:%T %F' /proc/{name}") == "1:3 character special file"


@pytest.mark.parametrize("path", ["/proc/sys/kernel/hostname", "/proc/irq", "/proc/bus"])
def test_what_changes_the_kernel_is_read_only_and_only_then(inside: Inside, path: str) -> None:
    # Nothing is written: that the file system says no is in its flags.
    flags = f"grep ' {'/'.join(path.split('/')[:3])} ' /proc/self/mountinfo | cut -d' ' -f6"
    assert inside(flags).startswith("ro,")
    assert inside(flags, "--security-opt", "systempaths=unconfined") == ""


def test_ports_below_1024_and_ping_are_for_everybody_inside(inside: Inside) -> None:
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"
    assert inside(script).split() == ["0", "0", "2147483647"]
    host = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii")
    assert inside(script, "--net", "host").split()[0] == host.strip()


@pytest.mark.parametrize("kind", ["link", "file", "zero"])
@apart
def test_a_null_device_that_is_another_file_masks_nothing(tmp_path: Path, kind: str) -> None:
    root, canary = tmp_path / "root", tmp_path / "canary"
    canary.write_text("canary")
    (root / "dev").mkdir(parents=True)
    (root / "proc").mkdir()
    (root / "proc" / "kcore").write_text("secret")
    make: dict[str, Callable[[], None]] = {
        "link": lambda: os.symlink(canary, root / "dev" / "null"),
        "file": lambda: os.rename(canary, root / "dev" / "null"),
        "zero": lambda: os.mknod(root / "dev" / "null", stat.S_IFCHR, os.makedev(1, 5)),
    }
    make[kind]()
    top = os.open(root, os.O_PATH)
    with pytest.raises(OSError, match=r"No such device|symbolic links"):
        masks.mask(top)
    assert (root / "proc" / "kcore").read_text() == "secret"


@apart
def test_with_the_real_one_it_masks(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "proc" / "acpi").mkdir(parents=True)
    (tmp_path / "proc" / "scsi").mkdir(parents=True)
    (tmp_path / "proc" / "acpi" / "secret").touch()
    (tmp_path / "proc" / "scsi" / "secret").touch()
    (tmp_path / "proc" / "kcore").write_text("secret")
    os.mknod(tmp_path / "dev" / "null", stat.S_IFCHR, os.makedev(1, 3))
    masks.mask(os.open(tmp_path, os.O_PATH))
    assert os.stat(tmp_path / "proc" / "kcore").st_rdev == os.makedev(1, 3)
    for name in ("acpi", "scsi"):
        assert os.listdir(tmp_path / "proc" / name) == []
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "proc" / name / "new").touch()


@apart
def test_a_link_on_the_way_to_what_is_hidden_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "dev").mkdir(parents=True)
    (outside / "scsi").mkdir(parents=True)
    (outside / "scsi" / "canary").touch()
    os.mknod(root / "dev" / "null", stat.S_IFCHR, os.makedev(1, 3))
    os.symlink(outside, root / "proc")
    with pytest.raises(OSError, match="symbolic links"):
        masks.mask(os.open(root, os.O_PATH))
    assert os.listdir(outside / "scsi") == ["canary"]


# ---- devices


def test_a_node_may_be_made_and_only_the_standard_ones_opened(inside: Inside) -> None:
    assert "Operation not permitted" in inside("mknod /node b 7 0; (: </node) 2>&1; true")
    script = "for name in null zero full random urandom; do : </dev/$name && echo $name; done"
    assert inside(script).split() == ["null", "zero", "full", "random", "urandom"]
    assert inside("mknod /zero c 1 5 && head -c 3 /zero | wc -c") == "3"


def test_the_list_is_the_groups_own_and_goes_with_it(inside: Inside) -> None:
    own = Trees().v1.get("devices")
    if not own:
        pytest.skip("cannot: devices are on v2 here")
    before = os.listdir(own)
    assert "/labrun-run-" in inside("grep devices /proc/self/cgroup")
    assert os.listdir(own) == before


def test_a_runtime_that_is_killed_leaves_no_list(stage5: str, rootfs: Path) -> None:
    line = [stage5, "run", "--rm", "--net", "none", str(rootfs), "/bin/sh", "-c", "echo up; read w"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(line, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while abandoned_groups() and time.monotonic() < until:
        time.sleep(0.05)
    assert not abandoned_groups()


@contextlib.contextmanager
def group_of_v2() -> Iterator[str]:
    """Make a group in the tree of v2, below our own."""
    trees = Trees()
    if not trees.v2:
        pytest.skip("cannot: no tree of v2 is mounted")
    path = f"{trees.v2}/labrun-run-{os.urandom(4).hex()}"
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


def test_on_v2_a_program_says_the_same(tmp_path: Path) -> None:
    with group_of_v2() as group:
        devices.attach(group)

        def look() -> str:
            Path(group, "cgroup.procs").write_text("0")
            found = {}
            for name, kind, major, minor in (
                ("loop", stat.S_IFBLK, 7, 0),
                ("null", stat.S_IFCHR, 1, 3),
                ("kmsg", stat.S_IFCHR, 1, 11),
                ("zero", stat.S_IFCHR, 1, 5),
                ("like null", stat.S_IFBLK, 1, 3),
            ):
                os.mknod(tmp_path / name, kind | 0o600, os.makedev(major, minor))
                try:
                    os.close(os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK))
                    found[name] = 0
                except OSError as error:
                    found[name] = error.errno or 0
            return json.dumps(found)

        found = json.loads(in_child(look))
    refused = {name for name, number in found.items() if number == errno.EPERM}
    assert refused == {"loop", "kmsg", "like null"}
    assert found["null"] == found["zero"] == 0


def test_where_no_group_can_keep_devices_away_nothing_runs() -> None:
    group = SimpleNamespace(name="labrun-run-0", parts=[], trees=SimpleNamespace(v1={}))
    devices.device_rules(group)  # type: ignore[arg-type]
    (part,) = group.parts
    with pytest.raises(FileNotFoundError) as raised:
        part.limit(None)
    assert "cgroup2" in confine.why(raised.value)


# ---- keyring, limits


def test_the_session_keyring_is_another(inside: Inside) -> None:
    number = 250 if os.uname().machine == "x86_64" else 219
    session = functools.partial(libc.syscall, ctypes.c_long(number), 0, -3, 0)

    def look() -> str:
        linux.join_session_keyring()
        first = session()
        linux.join_session_keyring()
        return f"{first != session()} {first > 0}"

    assert in_child(look) == "True True"


def test_limits_are_set_and_read_back(inside: Inside) -> None:
    found = inside("cat /proc/self/limits", "--ulimit", "nofile=64:128", "--ulimit", "core=0")
    rows = {row[:26].strip(): row[26:].split()[:2] for row in found.splitlines()}
    assert rows["Max open files"] == ["64", "128"]
    assert rows["Max core file size"] == ["0", "0"]
    assert limits(["nofile=5", "nofile=7:-1"]) == [(7, 7, -1)]


# ---- users

PASSWD = """root:x:0:0:root:/root:/bin/sh
games:x:5:60:games:/usr/games:/bin/sh
broken:x:one:1::/:
short:x
"""
GROUP = "root:x:0:\ngames:x:60:\nplay:x:70:other,games\nwork:x:80:games\n"


@pytest.fixture
def house(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "etc" / "group").write_text(GROUP)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, [0])),
        ("root", (0, 0, [0])),
        ("games", (5, 60, [60, 70, 80])),
        ("5", (5, 60, [60, 70, 80])),
        ("6", (6, 0, [0])),
        ("games:play", (5, 70, [70])),
        ("games:99", (5, 99, [99])),
        ("6:work", (6, 80, [80])),
        (":play", (0, 70, [70])),
    ],
)
def test_users_are_who_the_images_files_say(
    house: str, user: str, expected: tuple[int, int, list[int]]
) -> None:
    assert identity.identify(house, user) == expected


@pytest.mark.parametrize("user", ["nobody", "games:none", "broken", "short", "2147483648", "-1"])
def test_a_user_that_is_not_there_is_an_error(house: str, user: str) -> None:
    with pytest.raises(ValueError, match="--user"):
        identity.identify(house, user)


TRAPS: dict[str, Callable[[Path], None]] = {
    "link out": lambda path: os.symlink(f"{path.parents[1]}-outside", path),
    "pipe": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 5)),
    "directory": os.mkdir,
    "loop": lambda path: os.symlink("passwd", path),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_passwd_that_is_a_trap_is_no_passwd(tmp_path: Path, trap: str) -> None:
    (tmp_path / "etc").mkdir()
    tmp_path.with_name(f"{tmp_path.name}-outside").write_text("evil:x:0:0::/:\n")
    TRAPS[trap](tmp_path / "etc" / "passwd")
    with pytest.raises(ValueError, match="--user evil"):
        identity.identify(str(tmp_path), "evil")


def test_a_passwd_may_be_a_link_inside(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.symlink("/etc/users", tmp_path / "etc" / "passwd")
    (tmp_path / "etc" / "users").write_text("good:x:9:9::/home/good:\n")
    assert identity.identify(str(tmp_path), "good") == (9, 9, [9])


@pytest.mark.parametrize("read", ["stage 4", "stage 5"])
def test_a_device_in_the_place_of_passwd_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    # To open a watchdog is to start it: the machine would be reset.
    (tmp_path / "etc").mkdir()
    os.mknod(tmp_path / "etc" / "passwd", stat.S_IFCHR, os.makedev(1, 7))
    opened: list[int] = []
    original = os.open

    def watched(path: Any, flags: int, *more: Any, **named: Any) -> int:
        fd = original(path, flags, *more, **named)
        if stat.S_ISCHR(os.fstat(fd).st_mode):
            opened.append(flags)
        return fd

    monkeypatch.setattr(os, "open", watched)
    if read == "stage 4":
        assert Tree(str(tmp_path)).lines("etc/passwd") == []
    else:
        assert identity.lines(str(tmp_path), "etc/passwd") == []
    assert all(flags & os.O_PATH for flags in opened)


def test_the_command_is_that_user_in_those_groups(inside: Inside) -> None:
    found = facts(inside("cat /proc/self/status", "--user", "7:8"))
    assert found["Uid"].split() == ["7"] * 4
    assert found["Gid"].split() == ["8"] * 4
    assert found["Groups"].split() == ["8"]


# ---- what fails

CLOSED = (
    *("keyctl(", "setrlimit(", "prctl(PR_SET_SECCOMP", "prctl(PR_CAPBSET_DROP", "setgroups("),
    *("prctl(PR_CAP_AMBIENT", "setresgid(", "setresuid(", "capset(", "mount_setattr("),
    *("openat2(", 'mount("/proc/self/fd/', 'write("proc/sys/net'),
)


@pytest.mark.parametrize("call", CLOSED)
def test_a_wall_that_cannot_be_built_ends_the_run_before_the_command(
    rootfs: Path, call: str
) -> None:
    line = ["run", "--rm", "--net", "none", "--ulimit", "core=0", str(rootfs), "/bin/echo", "ran"]
    check_each_fails_closed("stage5", [call], line)


def test_rules_for_devices_that_cannot_be_written_end_it_too(rootfs: Path) -> None:
    if not (own := Trees().v1.get("devices")):
        pytest.skip("cannot: devices are on v2 here")
    line = ["run", "--rm", "--net", "none", str(rootfs), "/bin/echo", "ran"]
    for call in (f'mkdir("{own}', f'open("{own}', f'write("{own}'):
        check_each_fails_closed("stage5", [call], line)


def test_with_no_new_privileges_that_is_sworn_before_the_filter_and_neither_is_left_out(
    rootfs: Path,
) -> None:
    line = ["run", "--rm", "--net", "none", "--security-opt", "no-new-privileges", str(rootfs)]
    calls = ("prctl(PR_SET_NO_NEW_PRIVS", "prctl(PR_SET_SECCOMP")
    check_each_fails_closed("stage5", calls, [*line, "/bin/echo", "ran"])


# ---- an ordinary user


@pytest.fixture
def users_store() -> Iterator[str]:
    """Make a place for an ordinary user's store: pytest's own folders are closed to that user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/store")
        os.chown(f"{folder}/store", NOBODY, NOBODY)
        yield f"{folder}/store"


def test_an_ordinary_user_has_filter_capabilities_and_masks(
    stage5: str, rootfs: Path, users_store: str
) -> None:
    line = [stage5, "run", "--rm", "--net", "none", "--namespaces", "user,pid,mnt,net,ipc,uts"]
    script = "cat /proc/self/status; ls -A /sys/firmware; mknod /node b 7 0 2>&1; cat /proc/keys"
    ended = run(
        [*line, str(rootfs), "/bin/sh", "-c", script],
        user=ordinary_user(),
        environment={"LABRUN_STORE": users_store},
    )
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    *rows, last = ended.stdout.decode().splitlines()
    found = facts("\n".join(rows))
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == USUAL
    assert found["Seccomp"] == "2"
    # Not even root of a user namespace makes a node; nothing more is said by what is masked.
    assert "Operation not permitted" in last


def test_an_ordinary_users_container_has_user_0_alone_and_says_so(
    stage5: str, rootfs: Path, users_store: str
) -> None:
    line = [stage5, "run", "--rm", "--net", "none", "--namespaces", "user,pid,mnt,net,ipc,uts"]
    ended = run(
        [*line, "--user", "7", str(rootfs), "/bin/echo", "ran"],
        user=ordinary_user(),
        environment={"LABRUN_STORE": users_store},
    )
    assert (ended.returncode, ended.stdout) == (125, b""), ended
    assert b"say --user 0" in ended.stderr
