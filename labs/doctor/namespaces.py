"""Rows about namespaces: the kernel has each, and it can be made here."""

import errno
import os

from labs.doctor.attempt import Outcome, attempt, unshare
from labs.doctor.facts import Facts, as_root, read
from labs.doctor.row import Finding, State, words
from labs.doctor.system import needs_root


def namespace(name: str, facts: Facts) -> Finding:
    """Whether a namespace of one kind can be made."""
    where = f"/proc/self/ns/{name}"
    if not os.path.exists(where):
        return Finding(State.NO, words("ns_missing"), where, words("vm"))
    if not facts.root and name != "user":
        return needs_root(words("ns_root"), where)
    made = attempt(lambda: unshare(name))
    where += ", unshare(2)"
    if made.ok:
        return Finding(State.YES, words("ns"), where)
    return refused(made, name, where, facts)


def rootless(facts: Facts) -> Finding:
    """Whether an ordinary user can make a container in a user namespace."""
    where = "unshare(2), /proc/self/uid_map, mount(2)"
    if facts.rootless.ok:
        fact = words("rootless_as_nobody" if facts.first_root else "rootless")
        return Finding(State.YES, fact, where)
    return refused(facts.rootless, "user", where, facts)


def refused(outcome: Outcome, name: str, where: str, facts: Facts) -> Finding:
    """Say which setting decided that a namespace can't be made, as far as it can be read."""
    limit = f"/proc/sys/user/max_{name}_namespaces"
    debian = "/proc/sys/kernel/unprivileged_userns_clone"
    ubuntu = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    user = name == "user"
    for applies, cause, remedy in (
        # ENOSPC: the limit on namespaces of this kind is reached. See namespaces(7).
        (
            outcome.errno == errno.ENOSPC or read(limit) == "0",
            words("decides", file=limit, value=read(limit)),
            as_root(f"sysctl user.max_{name}_namespaces=15000"),
        ),
        (
            user and read(debian) == "0",
            words("decides", file=debian, value="0"),
            as_root("sysctl kernel.unprivileged_userns_clone=1"),
        ),
        (
            user and read(ubuntu) == "1",
            words("decides", file=ubuntu, value="1"),
            as_root("sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ),
        # EPERM in a chroot: the kernel would let a user namespace undo it. See unshare(2).
        (
            user and facts.in_chroot,
            words("decides_chroot"),
            words("leave_chroot"),
        ),
        (
            facts.filtered,
            words("decides_seccomp"),
            words("outside"),
        ),
        (
            facts.root and not facts.capable("sys_admin"),
            words("decides_cap"),
            words("outside"),
        ),
    ):
        if applies:
            fact = words("ns_refused", said=outcome.said, cause=cause)
            return Finding(State.NO, fact, where, remedy)
    fact = words("ns_refused", said=outcome.said, cause=words("decides_nothing"))
    return Finding(State.NO, fact, where, words("vm"))
