"""What the probes of the kernel's walls rest on: a filter read out is the one that was loaded."""

import ctypes
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checks import kernel
from checks.bench import Bench
from checks.probes import sec
from stages import linux
from stages.stage5_container.more import capabilities, profile, seccomp

pytestmark = pytest.mark.usefixtures("as_root")

MACHINE = os.uname().machine
RETURN_ALLOW = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
RETURN_EPERM = struct.pack("<HBBI", 6, 0, 0, 0x00050001)


@contextmanager
def child(before: Callable[[], None]) -> Iterator[int]:
    """Give a child that has done something, and waits."""
    reader, writer = os.pipe()
    pid = linux.clone3(0)
    if pid == 0:
        try:
            before()
            os.write(writer, b"r")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"r"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def dockers() -> bytes:
    choice = seccomp.choose(seccomp.DOCKER, capabilities.USUAL, MACHINE)
    return seccomp.Library().compile(choice, MACHINE)


def test_a_filter_is_read_out_of_a_process_which_goes_on() -> None:
    program = dockers()
    with child(lambda: linux.set_seccomp_filter(program)) as pid:
        try:
            assert kernel.seccomp_filter(pid) == program
        except OSError as error:
            pytest.skip(f"cannot: this kernel doesn't show filters: {error}")
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    assert "\nTracerPid:\t0\n" in status


def test_there_is_none_to_read_in_a_process_without() -> None:
    with child(lambda: None) as pid, pytest.raises(OSError, match="ptrace"):
        kernel.seccomp_filter(pid)


@pytest.mark.skipif(MACHINE not in sec.CALLS, reason="cannot: the numbers here aren't known")
def test_what_is_read_from_it_is_what_the_kernel_does() -> None:
    program = dockers()
    numbers = list(range(470))
    libc = ctypes.CDLL(None, use_errno=True)
    # Those of which the filter looks at an argument, and those that would do something.
    looked_at = {"socket", "clone", "personality"}
    names = {name for rule in profile.RULES for name in rule.names} - looked_at
    resolve = seccomp.Library().library.seccomp_syscall_resolve_name
    allowed = {resolve(name.encode()) for name in names if not refused_without(name)}
    told = {number for number in numbers if sec.answer(program, number) in sec.ALLOWED}
    unsure = {resolve(name.encode()) for name in looked_at}
    assert told - unsure == {number for number in allowed if 0 <= number < 470} - unsure
    # And of some that do no harm the kernel's own word, both ways.
    harmless = {"getpid": 0, "getuid": 0, "bpf": 1, "kexec_load": 1}
    reader, writer = os.pipe()
    pid = linux.clone3(0)
    if pid == 0:
        found = {}
        linux.set_seccomp_filter(program)
        for name in harmless:
            result = libc.syscall(ctypes.c_long(resolve(name.encode())), 0, 0, 0)
            found[name] = ctypes.get_errno() if result == -1 else 0
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert json.loads(pipe.read()) == harmless
    os.waitpid(pid, 0)
    for name, number in harmless.items():
        assert (sec.answer(program, resolve(name.encode())) in sec.ALLOWED) == (number == 0)


def refused_without(name: str) -> bool:
    """Say whether a call is allowed only with a capability that is not usual, or not at all."""
    rules = [rule for rule in profile.RULES if name in rule.names]
    usual = {*capabilities.USUAL}
    return not any(
        rule.action == seccomp.ALLOW
        and usual >= {*rule.having}
        and usual.isdisjoint(rule.lacking)
        and MACHINE in (rule.machines or (MACHINE,))
        for rule in rules
    )


@pytest.mark.skipif(MACHINE not in sec.CALLS, reason="cannot: the numbers here aren't known")
@pytest.mark.parametrize(
    ("program", "allowed"), [(RETURN_ALLOW, True), (RETURN_EPERM, False)], ids=["all", "none"]
)
def test_a_filter_of_one_instruction_is_understood(program: bytes, allowed: bool) -> None:
    assert (sec.answer(program, sec.GETPID[MACHINE]) in sec.ALLOWED) is allowed


def apart() -> None:
    kernel.join_session_keyring()


def test_a_bench_has_a_keyring_whose_holders_are_counted(rootfs: Path) -> None:
    with Bench(rootfs) as bench:
        if not bench.keyring:
            pytest.skip("cannot: this kernel keeps no keys")
        before = sec.settled(bench.keyring)
        assert before
        with child(lambda: None), child(lambda: None), child(lambda: None):
            during = sec.settled(bench.keyring)
        with child(apart), child(apart), child(apart):
            other = sec.settled(bench.keyring)
        assert sec.holders(1) is None
    assert during - before >= 3
    assert other - before < 3


def test_the_terminal_of_a_process_is_found_by_its_numbers() -> None:
    master, slave = os.openpty()
    device = os.fstat(slave).st_rdev

    def lead() -> None:
        os.setsid()
        linux.ioctl(slave, linux.TIOCSCTTY, 0)

    try:
        with child(lead) as pid:
            assert sec._controlling(pid) == device
        with child(os.setsid) as pid:
            assert sec._controlling(pid) == 0
    finally:
        os.close(master)
        os.close(slave)
