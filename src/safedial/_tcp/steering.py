"""Steering: keep the kernel off one port by narrowing a socket's ephemeral range. Linux only.

IP_LOCAL_PORT_RANGE needs Linux 6.3 or a backport. The kernel ignores a bound outside of the ephemeral range without an
error. Debian's 6.1, which has a backport, goes through a side's ports in pairs: one port of a side with an odd number
may be left out, and a dial may fail though that port is free.

The range is in a file, which nobody reads in an event loop: there, the range is the one that was read before, and a
thread reads it again. A range that changed meanwhile is no danger, because every connection is checked too. If no port
of the remembered range is free, bounds on one end alone reach all ports of the present one: see `side_options_now`.

The port dialed is all that is known before connect(2). Behind a socket-level load balancer another one is reached, of
which the kernel is not kept off: see `selfconnect`.

A port outside of the range needs no steering. But past half of the range in use towards a destination, each such
connect() first walks through the ports of the range's parity, none of which is free (__inet_hash_connect,
net/ipv4/inet_hashtables.c, goes by steps of two). With 8,000 ports, such a dial takes 12 to 40 times as long
(`python -m bench.ports`). For a socket with the option the kernel takes any port, by steps of one. So sockets get the
whole range after a connect drew a port of the other parity.

What connects showed, of the range and of `destinations`, is forgotten after a second, all at once.
"""

import _thread
import contextlib
import errno
import socket
import sys
from functools import lru_cache
from io import FileIO  # as the import finds it: a program's test may put a mock in the place of the builtin open()
from typing import NamedTuple, TypeAlias

from safedial import _clock
from safedial._steps import in_event_loop
from safedial._tcp import destinations

# linux/in.h. Python has no name for the first, and for the second (Linux 4.2) only if its C library had one.
IP_LOCAL_PORT_RANGE = 51
IP_BIND_ADDRESS_NO_PORT = 24
# These numbers mean other options on other systems.
ON_LINUX = sys.platform == "linux"
# Values of IP_LOCAL_PORT_RANGE to try in turn.
Sides: TypeAlias = tuple[int, ...]
# The value 0 leaves the range as it is.
UNSTEERED = (0,)

# Seconds for which a range is believed. Reading it costs half a dial.
_RANGE_AGE = 1.0
_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"


class PortRange(NamedTuple):
    """An inclusive range of ports."""

    low: int
    high: int


def read_range() -> PortRange | None:
    """Read the ephemeral range of this network namespace; None if it can't be read."""
    try:
        with FileIO(_RANGE_FILE) as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError, TypeError):  # TypeError: the interpreter shuts down, and FileIO is None
        return None
    return PortRange(low, high) if 1 <= low <= high <= 65535 else None


@lru_cache(maxsize=256)
def _side_options(port: int, ports: PortRange | None) -> tuple[int, ...]:
    """Return the parts of the range *ports* below and above *port*, the larger one first, as values of the option."""
    if ports is None or not ports.low <= port <= ports.high:
        return UNSTEERED
    sides = [PortRange(ports.low, port - 1), PortRange(port + 1, ports.high)]
    sides.sort(key=lambda side: side.low - side.high)
    return tuple(option_value(side) for side in sides if side.low <= side.high) or UNSTEERED


def option_value(ports: PortRange) -> int:
    """Return *ports* as a value of IP_LOCAL_PORT_RANGE: the high bound in the upper 16 bits."""
    value = ports.high << 16 | ports.low
    return value - 2**32 if value >= 2**31 else value  # setsockopt() takes a C int


_steerable = ON_LINUX
# (believed until, range). Replaced as a whole, so threads need no lock. It is first read here, with the import.
_believed: tuple[float, PortRange | None] = (0.0, read_range() if ON_LINUX else None)
# Whether a connect since then showed that half of the range is in use towards some destination.
_half_in_use = False
# Whether a dial found no free port in the present range either, whatever that is.
_none_beyond = False


def side_options(port: int) -> tuple[int, ...]:
    """Return the values of IP_LOCAL_PORT_RANGE that keep the kernel off *port*; `UNSTEERED` if none does.

    The whole range does not keep it off any port, but connects faster if half of it is in use.
    """
    if not ON_LINUX:
        return UNSTEERED
    until, ports = _believed
    if _clock.real() >= until:
        ports = _renewed(ports)
    if not _steerable:
        return UNSTEERED
    options = _side_options(port, ports)
    if _half_in_use and options is UNSTEERED and ports is not None:
        return (option_value(ports),)
    return options


def forget_what_is_old() -> None:
    """Do what `side_options` does first, for a dial that is not to be steered: read the range again, once a second."""
    until, ports = _believed
    if ON_LINUX and _clock.real() >= until:
        _renewed(ports)


def learn(sock: socket.socket, drawn: int) -> None:
    """Note what the local port *drawn*, which the kernel chose for *sock*, shows: that half of the range is in use."""
    global _half_in_use
    ports = _believed[1]
    if ports is None or not ports.low <= drawn <= ports.high:
        return
    own = own_option(sock)
    # A socket that was bound may be taken for one that shows it. Then the next dials set an option in vain. A socket
    # has the whole range because half of it was in use: another dial may have forgotten that since.
    if own == option_value(ports) or (not own and (drawn ^ ports.low) & 1):
        _half_in_use = True


def _renewed(ports: PortRange | None) -> PortRange | None:
    """Read the range and return it. In an event loop let a thread read it, and go on with *ports*."""
    if _steerable and not in_event_loop():
        return read_anew()
    _believe(ports)  # no other dial starts a thread
    if not _steerable:
        return ports  # which nobody needs
    # A thread of its own has the network namespace of this one, which a thread of a pool may lack.
    with contextlib.suppress(RuntimeError):  # no thread can be started: the next second, perhaps
        _thread.start_new_thread(read_anew, ())
    return ports


def read_anew() -> PortRange | None:
    """Read the ephemeral range, and believe it from now on."""
    ports = read_range()
    _believe(ports)
    return ports


def _believe(ports: PortRange | None) -> None:
    global _believed, _half_in_use, _none_beyond
    _half_in_use = _none_beyond = False
    destinations.reached_as_dialed.clear()
    _believed = (_clock.real() + _RANGE_AGE, ports)


def known_range() -> PortRange | None:
    """Return the ephemeral range as it was read last."""
    return _believed[1]


def side_options_now(port: int, exhausted: tuple[int, ...]) -> tuple[int, ...]:
    """Return `side_options` for the range as it is now, or () if these are *exhausted* too.

    The range may have changed. It belongs to a network namespace, and a process may have several. In an event loop it
    is not read: there, the sides have a bound at the *port* alone, and the kernel knows the other one. It ignores that
    bound if the port has become the range's first or last, and may then draw it: the check finds that. Such a connect
    looks at all ports once more. If it was in vain, no other dial tries it before the range is read again.
    """
    global _none_beyond
    if exhausted == UNSTEERED:
        return ()
    if not in_event_loop():
        return moved_sides(read_range(), port, exhausted)
    options = (option_value(PortRange(0, port - 1)), option_value(PortRange(port + 1, 0)))
    if options == exhausted:
        _none_beyond = True
    return () if _none_beyond else options


def moved_sides(ports: PortRange | None, port: int, exhausted: tuple[int, ...]) -> tuple[int, ...]:
    """Return `side_options` for the range *ports*, just read, or () if these are *exhausted* too."""
    if ports is None or exhausted == UNSTEERED:
        return ()
    options = _side_options(port, ports)
    if options == UNSTEERED:
        # The range no longer contains the port, and the socket is still narrowed: widen it again.
        options = (option_value(ports),)
    if ports != _believed[1]:
        _believe(ports)
    return () if options == exhausted else options


def refused(error: OSError) -> None:
    """Note that the kernel refused to set IP_LOCAL_PORT_RANGE, with *error*."""
    global _steerable
    # Ask the kernel, not its version: backports have the option, sandboxes may not.
    if error.errno == errno.ENOPROTOOPT:
        _steerable = False


def own_option(sock: socket.socket) -> int:
    """Return the value of IP_LOCAL_PORT_RANGE that was set on *sock*, 0 if none was."""
    if not _steerable:
        return 0
    try:
        return sock.getsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE)
    except OSError:
        return 0


def own_range(sock: socket.socket) -> PortRange | None:
    """Return `own_option` of *sock* as a range, None if none was set. A bound of 0 leaves that of the namespace."""
    value = own_option(sock)
    return PortRange(value & 0xFFFF, value >> 16 & 0xFFFF) if value else None
