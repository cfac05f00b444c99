"""The one reader of what the kernel tells about TCP ports in /proc, for this thread's network namespace. Linux only."""

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from safedial._address import V4_MAPPED, SockAddr
from safedial._tcp.steering import PortRange, read_range
from safedial.errors import PortUsage

# Bytes. While one block is searched, no other thread of Python runs.
_BLOCK = 1 << 16
# Seconds. include/net/tcp.h: TCP_TIMEWAIT_LEN, and the delay of kernels that have no tcp_tw_reuse_delay.
_TIME_WAIT = 60.0
_REUSE_DELAY = 1.0


class Row(NamedTuple):
    """A socket: its columns as they stand in the table, address and port in hex."""

    local: bytes
    peer: bytes
    state: bytes
    inode: bytes


class Settings(NamedTuple):
    """The settings of a namespace that say which local ports connect(2) draws. None: it can't be read."""

    ports: PortRange | None
    reserved: tuple[PortRange, ...] | None
    # Seconds after which a port in TIME_WAIT is drawn again: towards this host's loopback addresses, and others.
    wait_on_loopback: float | None
    wait: float | None
    # The number of sockets in TIME_WAIT, to all destinations.
    time_wait: int | None


def settings() -> Settings:
    """Read the settings."""
    reserved, reuse, delay = map(_sysctl, ("ip_local_reserved_ports", "tcp_tw_reuse", "tcp_tw_reuse_delay"))
    if _sysctl("tcp_timestamps") == "0":
        reuse = "0"  # tcp_twsk_unique() (net/ipv4/tcp_ipv4.c) asks for a timestamp
    soon = int(delay) / 1000 if delay else _REUSE_DELAY
    ranges = None
    if reserved is not None:
        bounds = [part.partition("-") for part in reserved.split(",") if part]
        ranges = tuple(PortRange(int(low), int(high or low)) for low, _, high in bounds)
    return Settings(
        read_range(),
        ranges,
        {"0": _TIME_WAIT, "1": soon, "2": soon}.get(reuse or ""),
        {"0": _TIME_WAIT, "1": soon, "2": _TIME_WAIT}.get(reuse or ""),
        _time_wait(),
    )


def _sysctl(name: str) -> str | None:
    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv4/{name}") as file:
        return file.read().strip()
    return None


def _time_wait() -> int | None:
    with contextlib.suppress(OSError), open("/proc/thread-self/net/sockstat") as file:
        if found := re.search(r"^TCP: .*\btw (\d+)", file.read(), re.MULTILINE):
            return int(found[1])
    return None


def without_counting(known: Settings, own: PortRange | None) -> PortUsage:
    """Return what *known* tells of the range, or of *own*, to which a socket narrowed it."""
    ports = own or known.ports
    low, high = ports or (None, None)
    reserved = None if ports is None or known.reserved is None else len(_reserved(known, ports))
    return PortUsage(low, high, reserved=reserved, host_time_wait=known.time_wait, own_range=own is not None)


def usage(sockaddr: SockAddr, own: PortRange | None = None) -> PortUsage:
    """Count this host's TCP connections to *sockaddr* from the ephemeral range, or from *own*."""
    known = settings()
    usage = without_counting(known, own)
    low, high = own or known.ports or PortRange(0, 65535)
    states: list[bytes] | None = None
    taken: set[int] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            found = _find(table, rb": \w+:(\w{4}) %s (..) " % _endpoint(table, sockaddr))
            inside = [(number, state) for port, state in found if low <= (number := int(port, 16)) <= high]
            states = (states or []) + [state for _, state in inside]
            taken.update(number for number, _ in inside)
    if states is None:
        return usage
    bound = None
    if usage.reserved is not None:
        if own is None:
            taken.add(sockaddr[1])  # steering keeps the kernel off it
        bound = len(set(range(low, high + 1)) - taken - _reserved(known, PortRange(low, high)))
    packed = _packed(sockaddr[0])
    on_loopback = packed[0] == 127 or packed == bytes(15) + b"\1"
    return PortUsage(
        usage.low,
        usage.high,
        len(states),
        states.count(b"06"),  # TIME_WAIT (include/net/tcp_states.h)
        usage.reserved,
        bound,
        known.wait_on_loopback if on_loopback else known.wait,
        usage.host_time_wait,
        usage.own_range,
    )


def _reserved(known: Settings, ports: PortRange) -> set[int]:
    found: set[int] = set()
    for low, high in known.reserved or ():
        found.update(range(max(low, ports.low), min(high, ports.high) + 1))
    return found


def sockets_on(port: int) -> Iterator[Row]:
    """Yield this host's TCP sockets whose local port is *port*."""
    # From the state to the inode: 40 characters of queues and timers, the user, a timeout.
    pattern = rb": (\w+:%04X) (\w+:\w{4}) (..) .{40} *\d+ +\d+ (\d+)" % port
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            yield from (Row(*columns) for columns in _find(table, pattern))


def _find(table: str, pattern: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield the columns that *pattern* finds in *table*, row by row: proc_net_tcp(5) describes them."""
    # The calling thread's namespace; /proc/net is that of the process's first thread. One search through many rows
    # takes less than half of a loop over the lines.
    with open(f"/proc/thread-self/net/{table}", "rb") as file:
        while rows := file.read(_BLOCK):
            yield from re.findall(pattern, rows + file.readline())


def _endpoint(table: str, sockaddr: SockAddr) -> bytes:
    """Spell *sockaddr* as *table* does: the address as 32-bit words in the host's byte order."""
    packed = _packed(sockaddr[0])
    if table == "tcp6" and len(packed) == 4:
        packed = V4_MAPPED + packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return b"%s:%04X" % (b"".join(b"%08X" % word for word in words), sockaddr[1])


def _packed(host: str) -> bytes:
    """Return the bytes of the numeric *host*, as the kernel connects to it."""
    host = host.partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    if packed.startswith(V4_MAPPED):
        packed = packed[12:]  # such a connection may be in either table
    if not any(packed):  # a wildcard destination is the loopback address
        return b"\x7f\0\0\1" if len(packed) == 4 else bytes(15) + b"\1"
    return packed
