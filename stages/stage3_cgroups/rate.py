"""--net-rate: how fast the cable is, each way.

No control group does this. v1 has net_cls, which tags packets for tc(8) to sort, and net_prio,
which sets a priority; v2 has no controller for the network at all. What slows packets down is a
queueing discipline, and it works on what *leaves* a link. So there is one at each end of the
cable: at the host's end for what the container receives, at eth0 for what it sends.
See tc-tbf(8).
"""

from __future__ import annotations

from struct import pack

from stages import netlink
from stages.netlink import Netlink, attribute, nested

TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_LINKLAYER_ETHERNET = 1
MOST = (1 << 32) - 1
FRAME = 1514
"""Bytes of a full Ethernet frame. A burst has to hold one, or none would ever pass."""


def shape(link: str, bits: int) -> None:
    """Let no more than `bits` a second leave `link`, by a token bucket.

    Tokens come in at the rate, a byte each; a packet goes when the bucket holds its length. How
    much the bucket holds is what may go in one burst: 10 ms' worth, and two frames at the least.
    Raises OSError: ENOENT where the kernel has no tbf.
    """
    rate = bits // 8
    burst = max(rate // 100, 2 * FRAME)
    # What waits in the queue: 50 ms' worth. A longer one would delay, a shorter one drop too much.
    queue = max(rate // 20, 20 * FRAME)
    # struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
    spec = pack("=BBHhHI", 0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate, MOST))
    # struct tc_tbf_qopt: rate, peak rate, limit, buffer, mtu. The buffer is given below, in bytes.
    options = spec + bytes(12) + pack("=III", min(queue, MOST), 0, 0)
    bucket = netlink.number(min(burst, MOST))
    data = attribute(TCA_TBF_PARMS, options) + attribute(TCA_TBF_BURST, bucket)
    if rate > MOST:
        data += attribute(TCA_TBF_RATE64, pack("=Q", rate))
    with Netlink() as route:
        route.set_queue(link, "tbf", nested(netlink.TCA_OPTIONS, data), f"{bits} bit/s")
