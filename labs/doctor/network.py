"""Rows about the network: made in an empty network namespace that ends with the trial."""

import errno
import os
import socket
import struct
import subprocess

from labs.doctor.attempt import attempt, enter_user_namespace, unshare
from labs.doctor.facts import Facts, install, program
from labs.doctor.row import Finding, State, words
from labs.doctor.storage import module
from labs.doctor.system import needs_root

MODULES = {"veth": "veth", "bridge": "bridge", "tbf": "sch_tbf"}

NAT = """\
table ip try {
  chain post {
    type nat hook postrouting priority 100
    ip saddr 10.88.0.0/16 masquerade
  }
}
"""
"""Address translation as a bridge needs it, in a table that nobody else has."""


def link(kind: str, facts: Facts) -> Finding:
    """Whether a veth pair, a bridge or a tbf queue can be made."""
    where = "rtnetlink(7)"
    if not facts.root:
        return needs_root(words("net_root"), where)
    said = facts.links[kind]
    if not said:
        return Finding(State.YES, words("net"), where)
    confined = not (facts.capable("sys_admin") and facts.capable("net_admin"))
    remedy = words("outside") if confined else module(MODULES[kind])
    return Finding(State.NO, words("tried", said=said), where, remedy)


def nftables(facts: Facts) -> Finding:
    """Whether the kernel has nftables, and `nft` can add an address translation."""
    nft = program("nft")
    if not nft:
        asked = attempt(_generation)
        key = "nft_ask" if asked.errno == errno.EPERM else "nft_not_in_kernel"
        fact = words("nft_missing", kernel=words("nft_in_kernel" if asked.ok else key))
        return Finding(State.NO, fact, "PATH, NETLINK_NETFILTER", install("nftables"))
    if not facts.root:
        return needs_root(words("net_root"), nft)

    def trial() -> str:
        unshare("net")
        done = subprocess.run([nft, "-f", "-"], input=NAT, capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.returncode, done.stderr.strip().splitlines()[0], "nft")
        return ""

    tried = attempt(trial)
    if tried.ok:
        return Finding(State.YES, words("net"), nft)
    return Finding(State.NO, words("tried", said=tried.said), nft, module("nf_tables"))


def _generation() -> str:
    """Ask nftables for the number of its rule set; OSError where the kernel has none.

    See linux/netfilter/nfnetlink.h: subsystem 10, message NFT_MSG_GETGEN (16).
    """
    netfilter, request, acknowledge, failed = 12, 0x1, 0x4, 2
    # Who asks needs CAP_NET_ADMIN, which an ordinary user has in a network of their own.
    if os.geteuid() == 0:
        unshare("net")
    else:
        enter_user_namespace("net")
    body = struct.pack("=BBH", 0, 0, 0)
    head = struct.pack("=IHHII", 16 + len(body), 10 << 8 | 16, request | acknowledge, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netfilter) as kernel:
        kernel.send(head + body)
        answer = kernel.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind == failed and (code := struct.unpack_from("=i", answer, 16)[0]):
        raise OSError(-code, "no nftables", "NFT_MSG_GETGEN")
    return ""
