"""Why a network could not be had, and the remedy."""

from __future__ import annotations

import errno

CAUSES = (
    # how the call begins, errno: what it means here, and the remedy
    ("nft -j -f -", errno.ENOENT, "the rules of the network are nft's: install the package nftables"
     " (`apt install nftables`), or say --network none, or host"),
    ("nft -j -f -", errno.EIO, "nft refuses the rules: a kernel without nf_tables and NAT, perhaps "
     "(CONFIG_NF_TABLES, _NFT_NAT, _NFT_MASQ, _NFT_FIB_IPV4): say --network none"),
    ("bind(", errno.EADDRINUSE, "somebody has that port of the host's (`ss -lntup` says who): "
     "publish another"),
    ("bind(", errno.EADDRNOTAVAIL, "the host has no such address: `ip address` lists those that it "
     "has"),
    ("bind(", errno.EACCES, "ports below net.ipv4.ip_unprivileged_port_start are root's: run it "
     "with sudo, or publish a higher one"),
    ('bridge("lab-', errno.EEXIST, "the host has a link of that name that isn't ours: rename it "
     "with `ip link set`, or make the network again"),
    ('open("/proc/sys/net', errno.EROFS, "/proc/sys is read-only here, as in a container: run it "
     "on the machine itself, or say --network none"),
)  # fmt: skip


def why(error: OSError) -> str:
    """Return the cause of a failed call of the network's and the remedy, "" for all others."""
    words = str(error.filename)
    for call, number, cause in CAUSES:
        if words.startswith(call) and error.errno == number:
            return cause
    return ""


def explained(error: OSError) -> OSError:
    """Return the error with its cause in its text, where we know one."""
    cause = why(error)
    return OSError(error.errno, f"{error.strerror}: {cause}", error.filename) if cause else error
