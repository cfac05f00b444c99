"""/proc/net/tcp and tcp6: who has which local port. Linux only; the one reader of these tables."""

import re
import socket
import struct

from safedial._address import V4_MAPPED, SockAddr
from safedial._tcp.steering import PortRange
from safedial.errors import PortUsage


def usage(sockaddr: SockAddr, ports: PortRange | None) -> PortUsage:
    """Count this host's TCP connections to *sockaddr* from *ports*, the range that ran out."""
    counts = [_count(table, sockaddr, ports or PortRange(0, 65535)) for table in ("tcp", "tcp6")]
    known = [count for count in counts if count is not None]
    in_use = sum(count[0] for count in known) if known else None
    time_wait = sum(count[1] for count in known) if known else None
    low, high = ports or (None, None)
    return PortUsage(low, high, in_use, time_wait)


def _count(table: str, sockaddr: SockAddr, ports: PortRange) -> tuple[int, int] | None:
    try:
        # The calling thread's namespace; /proc/net is that of the process's first thread.
        with open(f"/proc/thread-self/net/{table}", "rb") as file:
            rows = file.read()
    except OSError:
        return None
    peer = _peer_column(table, sockaddr)
    if not peer:
        return 0, 0
    # proc_net_tcp(5): local port, peer, state; in hex. State 06 is TIME_WAIT.
    found = re.findall(b":([0-9A-F]{4}) %s ([0-9A-F]{2}) " % peer, rows)
    states = [state for port, state in found if ports.low <= int(port, 16) <= ports.high]
    return len(states), states.count(b"06")


def _peer_column(table: str, sockaddr: SockAddr) -> bytes:
    """Spell *sockaddr* as /proc/net/tcp and tcp6 do: host-order words in hex."""
    host, port = sockaddr[0].partition("%")[0], sockaddr[1]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    if packed.startswith(V4_MAPPED):
        packed = packed[12:]  # such a connection stands in either table
    if not any(packed):  # a wildcard destination is the loopback address
        packed = b"\x7f\0\0\1" if len(packed) == 4 else bytes(15) + b"\1"
    if table == "tcp6" and len(packed) == 4:
        packed = V4_MAPPED + packed
    if table == "tcp" and len(packed) == 16:
        return b""
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return b"%s:%04X" % (b"".join(b"%08X" % word for word in words), port)
