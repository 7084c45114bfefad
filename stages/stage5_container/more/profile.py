"""Docker's default profile: which system calls a container may make.

A list of what is allowed, as the list of what is not would have to grow with the kernel. What is
not on it fails with EPERM. The facts are those of moby/profiles, seccomp/default_linux.go (2026,
v0.3); names that only other machines have, or that one's kernel or libseccomp doesn't know, do
nothing. What Docker says about it: docs.docker.com, engine/security/seccomp.
"""

from __future__ import annotations

import errno

from stages.stage5_container.more.seccomp import ALLOW, REFUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    Argument = tuple[int, str, int, int]
    """A condition on an argument: which, counted from 0; how it is compared, as libseccomp calls
    that; with what. With MASKED_EQ that is a mask, and the last is what is to be left by it."""


class Rule:
    """What is done with some system calls, where all conditions hold.

    It is for a container with all the capabilities in `having`, and none of those in `lacking`; for
    `machines`, as uname(2) calls them, or all, but not for `others`.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        action: str = ALLOW,
        errno: int = errno.EPERM,
        arguments: tuple[Argument, ...] = (),
        *,
        having: tuple[str, ...] = (),
        lacking: tuple[str, ...] = (),
        machines: tuple[str, ...] = (),
        others: tuple[str, ...] = (),
    ) -> None:
        """Take them."""
        self.names, self.action, self.errno, self.arguments = names, action, errno, arguments
        self.having, self.lacking = having, lacking
        self.machines, self.others = machines, others


FILES = """
    access faccessat faccessat2 chdir fchdir chmod fchmod fchmodat fchmodat2 chown chown32 fchown
    fchown32 fchownat lchown lchown32 creat open openat openat2 close close_range dup dup2 dup3
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek
    truncate truncate64 ftruncate ftruncate64 fallocate fadvise64 fadvise64_64 readahead
    fsync fdatasync sync syncfs sync_file_range copy_file_range sendfile sendfile64 splice tee
    vmsplice stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64
    fstatfs fstatfs64 statmount listmount getdents getdents64 getcwd link linkat symlink symlinkat
    readlink readlinkat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir mknod mknodat
    umask utime utimes futimesat utimensat utimensat_time64 name_to_handle_at fcntl fcntl64 flock
    ioctl getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr
    llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark cachestat
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
"""
WAITING = """
    poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2
    signalfd signalfd4 timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime
    timerfd_gettime64 futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue
    get_robust_list set_robust_list pause nanosleep clock_nanosleep clock_nanosleep_time64
    restart_syscall
"""
MEMORY = """
    brk mmap mmap2 munmap mremap mprotect pkey_alloc pkey_free pkey_mprotect madvise mincore msync
    mlock mlock2 mlockall munlock munlockall mseal remap_file_pages memfd_create memfd_secret
    membarrier map_shadow_stack
"""
PROCESSES = """
    fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill
    pidfd_open pidfd_send_signal process_mrelease process_vm_readv process_vm_writev ptrace
    getpid getppid gettid getpgid getpgrp getsid setpgid setsid getpriority setpriority
    getrlimit ugetrlimit setrlimit prlimit64 getrusage times prctl seccomp uname sysinfo getcpu
    landlock_create_ruleset landlock_add_rule landlock_restrict_self rseq uretprobe
    set_tid_address get_thread_area set_thread_area capget capset ioprio_get ioprio_set
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
    sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 riscv_hwprobe
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32
    getresgid getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32
    setregid setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid
    setfsgid32 setgroups setgroups32 getrandom
"""
SIGNALS = """
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack sigprocmask sigreturn
"""
TIME = """
    time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 adjtimex
    clock_adjtime clock_adjtime64 alarm getitimer setitimer timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
"""
TALKING = """
    socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername
    getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg
    recvmmsg_time64 pipe pipe2 ipc shmget shmat shmdt shmctl semget semop semtimedop
    semtimedop_time64 semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_notify mq_getsetattr
    mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64
"""
ADMINISTRATION = """
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
    lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open
    quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
"""

AF_ALG, AF_VSOCK = 38, 40
NAMESPACES = 0x7E020000
"""All of CLONE_NEW… but for time, whose bit means another thing to clone(2)."""
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, or a 32-bit one of it, either as of UNAME26; and the question which. personality(2)."""


def words(*texts: str) -> tuple[str, ...]:
    """Return the names in a text."""
    return tuple(" ".join(texts).split())


def having(capability: str, names: str) -> Rule:
    """Return the rule for what takes a capability anyway: without it nobody need get that far."""
    return Rule(words(names), having=(capability,))


RULES = (
    Rule(words(FILES, WAITING, MEMORY, PROCESSES, SIGNALS, TIME, TALKING)),
    # The kernel's cryptography (CVE-2026-31431), and the way to the hypervisor.
    Rule(("socket",), arguments=((0, "LT", AF_ALG, 0),)),
    Rule(("socket",), arguments=((0, "EQ", AF_ALG + 1, 0),)),
    Rule(("socket",), arguments=((0, "GT", AF_VSOCK, 0),)),
    *(Rule(("personality",), arguments=((0, "EQ", kind, 0),)) for kind in PERSONALITIES),
    Rule(words("arch_prctl modify_ldt"), machines=("x86_64",)),
    Rule(
        words(
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
        ),
        machines=("aarch64",),
    ),
    Rule(words("sync_file_range2 swapcontext"), machines=("ppc64le",)),
    Rule(words("s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"), machines=("s390x",)),
    Rule(("riscv_flush_icache",), machines=("riscv64",)),
    # A thread or a process, but no namespace: in one's own user namespace one is root again.
    Rule(
        ("clone",),
        arguments=((0, "MASKED_EQ", NAMESPACES, 0),),
        lacking=("SYS_ADMIN",),
        others=("s390x",),
    ),
    Rule(
        ("clone",),
        arguments=((1, "MASKED_EQ", NAMESPACES, 0),),
        lacking=("SYS_ADMIN",),
        machines=("s390x",),
    ),
    # Its flags are in memory, where a filter can't look. Told that it doesn't exist, libc takes
    # clone.
    Rule(("clone3",), action=REFUSE, errno=errno.ENOSYS, lacking=("SYS_ADMIN",)),
    having("SYS_ADMIN", ADMINISTRATION),
    having("DAC_READ_SEARCH", "open_by_handle_at"),
    having("SYS_BOOT", "reboot"),
    having("SYS_CHROOT", "chroot"),
    having("SYS_MODULE", "delete_module init_module finit_module"),
    having("SYS_PACCT", "acct"),
    having("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    having("SYS_RAWIO", "iopl ioperm"),
    having("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    having("SYS_TTY_CONFIG", "vhangup"),
    having("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    having("SYSLOG", "syslog"),
    having("BPF", "bpf"),
    having("PERFMON", "perf_event_open"),
)
