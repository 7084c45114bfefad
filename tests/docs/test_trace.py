"""A trace on a page: what is new with a stage, in an order, the same on every machine."""

from labs.docs.record.normal import Normal

PARENT = """\
[4711] open("/srv/x", O_RDONLY) = 3
[4711] rename("/s/containers/0123456789ab/.state.json.4711", "/s/y") = 0
[4711] write("/sys/fs/cgroup/devices/labrun-run-01234567/devices.allow", "c 1:3 rwm") = 9
[4711] write("/sys/fs/cgroup/devices/labrun-run-01234567/devices.allow", "c 1:5 rwm") = 9
[4711] clone3(CLONE_NEWPID, exit_signal SIGCHLD) = 4720
[4711] write(14, "10.88.0.2\\n") = 10
[4711] nft -j -f - = 0
[4711] write(11, "10.88.0.2\\n") = 10
[4711] rename("/s/containers/0123456789ab/.state.json.4711", "/s/y") = 0
"""
CHILD = """\
[1] setsid() = 0
[1] prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 987 instructions) = 0
[1] prctl(PR_CAPBSET_DROP, 2) = 0
[1] prctl(PR_CAPBSET_DROP, 9) = 0
[1] execve("/bin/true", ["/bin/true"], 3 variables)
"""
SHOWN = [
    'rename("/s/containers/X/.state.json.3"',
    'write("/sys/fs/cgroup/devices/labrun-run-5b1e09c4/devices.allow", "c 1:3 rwm")',
    "clone3(CLONE_NEWPID, exit_signal SIGCHLD) = 4",
    "nft -j -f -",
    "setsid()",
    "prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 1252 instructions)",
    "prctl(PR_CAPBSET_DROP, 2)",
    "execve(",
    'rename("/s/containers/X/.state.json.3"',
]
"""How each line of it begins, behind the process."""


def mixed(first: str, second: str) -> str:
    """Return two traces as they come where both run side by side, the first line the first's."""
    lines, others = first.splitlines(), second.splitlines()
    late = [line for pair in zip(lines[1:], others, strict=False) for line in reversed(pair)]
    return "\n".join([lines[0], *late, *lines[1 + len(others) :], *others[len(lines) - 1 :], ""])


def shown(text: str) -> list[str]:
    """Return what a page shows of a trace of stage 5, without processes and a container's name."""
    lines = Normal("stage5").trace(text).splitlines()
    name = lines[0].partition("containers/")[2][:12]
    return [line.partition("] ")[2].replace(name, "X") for line in lines]


def test_of_calls_that_come_many_times_the_first_is_shown() -> None:
    lines = shown(PARENT + CHILD)
    assert len(lines) == len(SHOWN)
    assert [line[: len(begin)] for line, begin in zip(lines, SHOWN, strict=True)] == SHOWN


def test_the_order_in_which_the_two_were_traced_does_not_matter() -> None:
    assert mixed(PARENT, CHILD) != PARENT + CHILD
    assert shown(mixed(PARENT, CHILD)) == shown(PARENT + CHILD)


def test_an_earlier_stage_shows_each_of_them() -> None:
    waits = PARENT + "[4711] sigwaitinfo() = SIGCHLD\n"
    lines = Normal("stage1").trace(waits + CHILD).splitlines()
    assert sum("devices.allow" in line for line in lines) == 2
    assert sum("PR_CAPBSET_DROP" in line for line in lines) == 2
