"""What a container may not do: use devices, the kernel's files, capabilities, system calls.

Namespaces decide what a process sees. What root may do to what it sees, and to the one kernel that
all containers share, is decided here; with Docker's choices, each where its table is.
"""

from __future__ import annotations

import errno
import os

from stages import linux
from stages.light import import_module, read_text
from stages.stage2_namespaces import mounts
from stages.stage5_container.more.capabilities import chosen, names_of
from stages.stage5_container.more.devices import device_rules
from stages.stage5_container.more.identity import identify
from stages.stage5_container.more.masks import make_read_only, mask
from stages.stage5_container.more.program import OURS, beware
from stages.stage5_container.more.seccomp import DOCKER, LIBRARY, filter_for
from stages.stage5_container.more.security import Security
from stages.stage5_container.more.ulimits import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage5_container.more.seccomp import Profile
    from stages.stage5_container.options import Contained

__all__ = ["Rights", "confine", "device_rules", "furnish", "identify"]

SYSCTLS = {
    # What only concerns the container's own network, Docker leaves to everybody in it: ports below
    # 1024, and ping(8) without a capability (moby, daemon/oci_linux.go, WithSysctls).
    "proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
    "proc/sys/net/ipv4/ping_group_range": "0 2147483647",
}


class Rights:
    """What the options leave to a container: looked at before there is a child."""

    def __init__(self, container: Contained) -> None:
        """Take the options; raise ValueError where one is off, OSError for a missing file."""
        _, own, _ = linux.capget()
        self.all = whole_set()
        if container.rootless and "user" in container.namespaces:
            own = self.all  # root of a namespace has all of them there
        self.capabilities = chosen(container.cap_add, container.cap_drop, own)
        self.limits = limits(container.ulimits)
        self.security = Security(container.security)
        self.profile: Profile = DOCKER
        if self.security.profile:
            # Few bring one of their own: the rest need not load what reads it.
            reading = import_module("stages.stage5_container.more.profiles")
            self.profile = reading.load(self.security.profile)
        self.filter: bytes | None = None

    def prepare(self, store: str) -> None:
        """In the parent: compile the filter for system calls; raise OSError where that fails."""
        if self.security.filtered:
            self.filter = filter_for(self.profile, names_of(self.capabilities), store)


def whole_set() -> int:
    """Return all capabilities that this kernel has. See capabilities(7)."""
    return (2 << int(read_text("/proc/sys/kernel/cap_last_cap"))) - 1


def furnish(container: Contained) -> None:
    """Mount /proc, /sys and /dev, as stage 2 does, and close what is the whole machine's."""
    mounts.furnish(container)
    if "net" in container.namespaces:
        for path, text in SYSCTLS.items():
            # Groups that a user namespace doesn't have can't be named either.
            if os.path.exists(path) and not ("user" in container.namespaces and "group" in path):
                linux.write_file(path, text)
    if container.rights.security.masked:
        top = linux.open_file(".", linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC)
        mask(top)
        make_read_only(top)
        os.close(top)


def confine(container: Contained) -> None:
    """Give up all rights but the container's: the last before the command, as nothing comes back.

    What comes after it has to do with what the filter allows.
    """
    rights = container.rights
    beware(container.command, container.environment)
    # Keys that the caller's session has, a file system's or a ticket's, would go along.
    try:
        linux.join_session_keyring()
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without keys has none to hide
            raise
    for limit in rights.limits:
        linux.setrlimit(*limit)
    # The kernel takes a filter from whoever has CAP_SYS_ADMIN, or has sworn off new privileges:
    # else a setuid program could be made to fail where it doesn't expect to.
    if not rights.security.no_new_privileges:
        refuse_calls(rights)
    # The bounding set first, which takes CAP_SETPCAP; then the user, which takes CAP_SETUID.
    for number in range(rights.all.bit_length()):
        if not rights.capabilities >> number & 1:
            linux.capbset_drop(number)
    linux.clear_ambient()
    become(container)
    # An ordinary user has none of them; a setuid program may still get those of the bounding set.
    left = rights.capabilities if container.identity[0] == 0 else 0
    linux.capset(left, left, 0)
    if rights.security.no_new_privileges:
        linux.set_no_new_privs()
        refuse_calls(rights)


def refuse_calls(rights: Rights) -> None:
    """Have the kernel refuse the system calls that aren't in the profile."""
    if not rights.security.filtered:
        return
    if rights.filter is None:
        raise OSError(errno.EINVAL, "no filter was compiled", "prctl(PR_SET_SECCOMP)")
    linux.set_seccomp_filter(rights.filter)


def become(container: Contained) -> None:
    """Be the container's user, and in its groups alone. See setresuid(2)."""
    uid, gid, groups = container.identity
    if not container.rootless:
        linux.setgroups(groups)
    linux.setresgid(gid, gid, gid)
    linux.setresuid(uid, uid, uid)


CAUSES = {
    # how the call begins, errno: what it means here, and the remedy
    (LIBRARY, errno.ENOENT): "the filter for system calls is compiled by libseccomp: install "
    "libseccomp2 (or libseccomp), or say --security-opt seccomp=unconfined",
    ("seccomp_rule_add", errno.EINVAL): "libseccomp can't do what the profile says of this call",
    ("prctl(PR_SET_SECCOMP", errno.EINVAL): "this kernel has no filters for system calls "
    "(CONFIG_SECCOMP_FILTER): say --security-opt seccomp=unconfined",
    ("setrlimit", errno.EPERM): "beyond the runtime's own limit, see `ulimit -H`: that takes "
    "CAP_SYS_RESOURCE",
    ("setresuid", errno.EINVAL): "an ordinary user's namespace has user 0 alone: say --user 0, or "
    "run it with sudo",
    ("setresgid", errno.EINVAL): "an ordinary user's namespace has group 0 alone: say --user 0, or "
    "run it with sudo",
    ("cgroup(devices)", errno.ENOENT): "no control group can keep a container from the host's "
    "devices here: mount the tree of devices (v1), or cgroup2",
    ("bpf", errno.EPERM): "rules for devices are a program of eBPF, which takes CAP_BPF and "
    "CAP_SYS_ADMIN: run it on the machine itself",
    ("bpf", errno.EINVAL): "this kernel takes no programs for devices (CONFIG_CGROUP_BPF)",
    (OURS, errno.ELOOP): "it leads by /proc to a process's own program, which until now is the "
    "host's (CVE-2019-5736): say its path",
    ("mask", errno.ENODEV): "the root's /dev/null is another file, which would be seen in the "
    "place of what is hidden (CVE-2025-31133)",
}


def why(error: OSError) -> str:
    """Return the cause of a failed call of this room's, and the remedy; "" for all others."""
    words = str(error.filename)
    for (call, number), cause in CAUSES.items():
        if words.startswith(call) and number == error.errno:
            return cause
    return ""
