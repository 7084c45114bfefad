"""The doctor's rows, in the order in which they are asked."""

from functools import partial

from labs.doctor import cgroups, namespaces, network, peers, storage, system
from labs.doctor.row import STAGES, Row

FROM_TWO = (2, 3, 4, 5)

ROWS = (
    Row("machine.kernel", system.kernel, required_by=STAGES),
    Row("machine.arch", system.arch, optional_for=STAGES),
    Row("machine.python", system.python, required_by=STAGES),
    Row("machine.proc", system.proc, required_by=STAGES),
    Row("machine.root", system.root, required_by=STAGES),
    Row("machine.rootless", namespaces.rootless, optional_for=FROM_TWO),
    Row("machine.outermost", system.outermost, optional_for=STAGES),
    Row("machine.lsm", system.lsm, optional_for=STAGES),
    Row("machine.busybox", system.busybox, required_by=STAGES),
    Row("machine.disk", system.disk, required_by=STAGES),
    Row("cap.sys_chroot", partial(system.capability, "sys_chroot"), required_by=STAGES),
    Row("cap.sys_admin", partial(system.capability, "sys_admin"), required_by=FROM_TWO),
    Row("cap.net_admin", partial(system.capability, "net_admin"), required_by=FROM_TWO),
    # The checks read /proc/PID/ns and /proc/PID/root of containers that have other ids.
    Row("cap.sys_ptrace", partial(system.capability, "sys_ptrace"), optional_for=STAGES),
    Row("cap.mknod", partial(system.capability, "mknod"), optional_for=(4, 5)),
    Row("cap.setuid", partial(system.capability, "setuid"), required_by=(5,), optional_for=(2,)),
    Row("cap.setpcap", partial(system.capability, "setpcap"), required_by=(5,)),
    *(
        Row(f"ns.{kind}", partial(namespaces.namespace, kind), required_by=FROM_TWO)
        for kind in ("pid", "net", "mnt", "ipc", "uts")
    ),
    *(
        Row(f"ns.{kind}", partial(namespaces.namespace, kind), optional_for=FROM_TWO)
        for kind in ("user", "cgroup", "time")
    ),
    Row("ns.mqueue", storage.mqueue, optional_for=FROM_TWO),
    Row("cgroup.version", cgroups.version, required_by=(3, 5), optional_for=(4,)),
    *(
        Row(f"cgroup.{kind}", partial(cgroups.controller, kind), required_by=(3, 5))
        for kind in ("cpu", "memory", "pids")
    ),
    *(
        Row(
            f"cgroup.{kind}", partial(cgroups.controller, kind), required_by=(3,), optional_for=(5,)
        )
        for kind in ("cpuset", "io")
    ),
    *(
        Row(f"cgroup.{kind}", partial(cgroups.controller, kind), optional_for=(5,))
        for kind in ("devices", "freezer")
    ),
    Row("cgroup.swap", cgroups.swap, optional_for=(3, 5)),
    Row("fs.overlay", storage.overlay, required_by=(4, 5)),
    Row("fs.overlay_rootless", storage.overlay_rootless, optional_for=(4, 5)),
    Row("fs.aufs", storage.aufs, optional_for=(4,)),
    Row("fs.devicemapper", storage.devicemapper, optional_for=(4,)),
    Row("fs.fuse", storage.fuse, optional_for=(4,)),
    Row("fs.loop", partial(storage.device, "/dev/loop-control", "loop"), optional_for=(3, 4)),
    Row("net.veth", partial(network.link, "veth"), required_by=FROM_TWO),
    Row("net.bridge", partial(network.link, "bridge"), required_by=FROM_TWO),
    Row("net.tbf", partial(network.link, "tbf"), required_by=(3,), optional_for=(5,)),
    Row("net.nftables", network.nftables, required_by=(5,)),
    Row("sec.seccomp", system.seccomp, required_by=(5,), optional_for=(2, 3, 4)),
    Row("peer.chroot", partial(peers.peer, "chroot"), optional_for=(1,)),
    Row("peer.unshare", partial(peers.peer, "unshare"), optional_for=(2,)),
    Row("peer.bwrap", partial(peers.peer, "bwrap"), optional_for=(2,)),
    Row("peer.runc", partial(peers.peer, "runc"), optional_for=(2, 3)),
    Row("peer.crun", partial(peers.peer, "crun"), optional_for=(2, 3)),
    Row("peer.docker", peers.docker, optional_for=(3, 4, 5)),
    Row("peer.podman", partial(peers.peer, "podman"), optional_for=(3, 4, 5)),
)
