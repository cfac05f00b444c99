"""Local ports: the ephemeral range, the sides of it that avoid a port, and what is in use.

Facts and pure choices, Linux only where it says so. Imports `errors` for its record of figures.
"""

import errno
import socket
import struct
import sys
import time
from functools import lru_cache
from typing import NamedTuple

# linux/in.h; Python has no name for it. Linux 6.3 and backports (Debian's 6.1 has it).
IP_LOCAL_PORT_RANGE = 51

# linux/in.h, Linux 4.2. `socket` has the name where the C library that Python was built with had it.
IP_BIND_ADDRESS_NO_PORT = 24

# The options above mean other things elsewhere, so their numbers must not leave Linux.
ON_LINUX = sys.platform == "linux"

# What a connect without narrowing is tried with: 0 leaves the range as it is.
UNSTEERED = (0,)

# Seconds that a range once read is believed. A read costs as much as half a dial; a range that
# changes in between costs no safety, because every connect is checked as well.
_RANGE_AGE = 1.0

_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"


class PortRange(NamedTuple):
    """An inclusive range of ports."""

    low: int
    high: int


def read_range() -> PortRange | None:
    """Read the ephemeral range of this network namespace; None where there is none to read."""
    try:
        with open(_RANGE_FILE, "rb") as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError):
        return None
    return PortRange(low, high)


def sides(port: int, ports: PortRange | None) -> tuple[PortRange, ...]:
    """Return the parts of the range *ports* on either side of *port*, the larger one first.

    Empty where *port* lies outside, where it is the whole range, or where the range is unknown:
    then there is nothing to steer with. A bound outside of the range would be ignored by the
    kernel without an error, which is why an empty side must never be set.
    """
    if ports is None or not ports.low <= port <= ports.high:
        return ()
    below = PortRange(ports.low, port - 1)
    above = PortRange(port + 1, ports.high)
    found = [side for side in (below, above) if side.low <= side.high]
    return tuple(sorted(found, key=lambda side: side.low - side.high))


@lru_cache(maxsize=256)
def _side_options(port: int, ports: PortRange | None) -> tuple[int, ...]:
    return tuple(option_value(side) for side in sides(port, ports)) or UNSTEERED


def option_value(ports: PortRange) -> int:
    """Return *ports* as a value for IP_LOCAL_PORT_RANGE: the high bound in the upper 16 bits.

    It is the C int that setsockopt() takes, so it is negative for a high bound from 32768 on; as
    bytes it would cost half a microsecond more.
    """
    value = ports.high << 16 | ports.low
    return value - 2**32 if value >= 2**31 else value


_steerable = ON_LINUX

# One tuple, replaced whole, so that threads need no lock: (believed until, range).
_believed: tuple[float, PortRange | None] = (0.0, None)


def side_options(port: int) -> tuple[int, ...]:
    """Return values for IP_LOCAL_PORT_RANGE that keep the kernel off *port*, the best one first.

    `UNSTEERED` where the kernel can't be steered or need not be.
    """
    global _believed
    if not _steerable:
        return UNSTEERED
    until, ports = _believed
    now = time.monotonic()
    if now >= until:
        ports = read_range()
        _believed = (now + _RANGE_AGE, ports)
    return _side_options(port, ports)


def side_options_now(port: int, used_up: tuple[int, ...]) -> tuple[int, ...]:
    """Return what `side_options` would by the range as it is now, () where that is *used_up* too.

    The range may have been changed, and it belongs to a network namespace, of which a process may
    have several.
    """
    global _believed
    if used_up == UNSTEERED:
        return ()
    ports = read_range()
    if ports is None:
        return ()
    options = _side_options(port, ports)
    if options == UNSTEERED:
        # The port is not in the range any more: the whole of it, as the socket is narrowed still.
        options = (option_value(ports),)
    if options == used_up:
        return ()
    _believed = (time.monotonic() + _RANGE_AGE, ports)
    return options


def steer(sock: socket.socket, option: int) -> None:
    """Narrow the ports that *sock* may get to *option*. Where the kernel won't, nothing happens."""
    global _steerable
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, option)
    except OSError as error:
        # Ask the kernel, never its version: backports have the option, sandboxes may not.
        if error.errno == errno.ENOPROTOOPT:
            _steerable = False


def own_range(sock: socket.socket) -> PortRange | None:
    """Return the range that was set on *sock* with IP_LOCAL_PORT_RANGE, None where none was."""
    if not _steerable:
        return None
    try:
        (value,) = struct.unpack("=I", sock.getsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, 4))
    except OSError:
        return None
    low, high = value & 0xFFFF, value >> 16
    return PortRange(low, high) if low and high else None
