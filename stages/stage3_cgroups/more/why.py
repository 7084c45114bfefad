"""Why the kernel refused a group or a limit: the cause, and the remedy."""

from __future__ import annotations

import errno

CAUSES = {
    # call, errno: what it means where a control group is concerned
    ("mkdir", errno.EROFS): "the control groups are mounted read-only here, as in a container: run "
    "it on the machine itself, or `mount -o remount,rw` where it is mounted",
    ("mkdir", errno.EACCES): "this group is not this user's to divide: run it with sudo, or on "
    "cgroup v2 below a delegated slice (`systemd-run --user --scope -p Delegate=yes`)",
    ("mkdir", errno.EPERM): "this group is not this user's to divide: run it with sudo",
    ("mkdir", errno.EAGAIN): "no more groups are allowed here: cgroup.max.descendants decides",
    ("rmdir", errno.EBUSY): "a process in it does not end, even of SIGKILL: it waits in the kernel",
    ("cgroup", errno.ENOENT): "no tree that is mounted below /sys/fs/cgroup has it: mount that, or "
    "boot a kernel with it; /proc/cgroups says what this one has",
    (
        "cgroup",
        errno.EBUSY,
    ): "no group upwards hands those controllers down, and one with processes "
    "can't: move them into a group below it, then write +CONTROLLER to cgroup.subtree_control",
    ("StartTransientUnit", errno.EACCES): "systemd manages this tree, and gives no part of it",
    ("RTM_NEWQDISC", errno.ENOENT): "the kernel has no token bucket filter: `modprobe sch_tbf`, or "
    "leave --net-rate out",
    ("RTM_NEWQDISC", errno.EOPNOTSUPP): "the kernel has no token bucket filter: `modprobe sch_tbf`",
}
FILES = (
    # how a file's name ends, errno, what it means
    ("subtree_control", errno.ENOENT, "that controller was not delegated to this user: an "
     "administrator adds it to Delegate= of user@.service"),
    ("subtree_control", errno.EBUSY, "a group with processes hands no controller down"),
    ("tasks", errno.EACCES, "this user may not move itself there: run it with sudo"),
    ("tasks", errno.ENOSPC, "the group's cpuset is empty, above: give it CPUs and memory nodes"),
    ("cpuset.cpus", errno.EACCES, "a group above has fewer CPUs: see its cpuset.cpus"),
    ("cpuset.cpus", errno.EINVAL, "a group above has fewer CPUs: see its cpuset.cpus"),
    ("cpuset.cpus", errno.ENODEV, "those CPUs are not online: see /sys/devices/system/cpu/online"),
    ("cfs_quota_us", errno.EINVAL, "a group above has less: see its cpu.cfs_quota_us"),
    ("bps_device", errno.ENODEV, "a part of a disk has no limit of its own: name the whole disk"),
    ("io.max", errno.ENODEV, "a part of a disk has no limit of its own: name the whole disk"),
    ("memsw.limit_in_bytes", errno.ENOENT, "this kernel doesn't account for swap: boot it with "
     "swapaccount=1, or leave --memory-swap out"),
    ("memory.swap.max", errno.ENOENT, "this kernel doesn't account for swap: boot it with "
     "swapaccount=1, or leave --memory-swap out"),
)  # fmt: skip


def why(error: OSError, rootless: bool) -> str:
    """Return the cause of a failed call that concerns a control group; "" where it is another."""
    call, _, rest = str(error.filename).partition("(")
    in_groups = "cgroup" in rest or call not in ("mkdir", "rmdir")
    if in_groups and (cause := CAUSES.get((call, error.errno or 0))):
        return cause
    if call not in ("open", "write"):
        return ""
    path = rest.partition('"')[2].partition('"')[0]
    for ending, number, cause in FILES:
        if path.endswith(ending) and error.errno == number:
            return cause
    if not path.startswith("/sys/fs/cgroup"):
        return ""
    if error.errno == errno.EROFS:
        return CAUSES["mkdir", errno.EROFS]
    if error.errno == errno.ENOENT:
        return "this kernel's controller has no such limit: see `labrun doctor`"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this group is not ours to limit" + (": run it with sudo" if rootless else "")
    return "the kernel takes no such value: choose another"
