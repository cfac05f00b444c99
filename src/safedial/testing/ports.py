"""Ports where nobody listens and that are at risk: in the ephemeral range, of the parity that connect() draws first."""

import contextlib
import errno
import os
import socket
from collections.abc import Generator

from safedial._address import family_of
from safedial._forks import lock_held_across_forks
from safedial._tcp import steering
from safedial._tcp.port_settings import PortSettings, read_reserved, reserved_in
from safedial.testing.manager import managed

# As in `resilience`.
__tracebackhide__ = True
# Linux's default, for systems whose range can't be read (Documentation/networking/ip-sysctl.rst).
_DEFAULT_RANGE = steering.PortRange(32768, 60999)
# Each process searches from its own part of the range; a part of the default range has 220 such ports.
_PARTS = 64
# Holding more ports would take more descriptors than most processes may have.
_MOST_TAKEN = 1000
# How many ports of its part this process has passed.
_passed = 0
_lock = lock_held_across_forks()


def dead_port(host: str = "127.0.0.1") -> int:
    """Return a free port where nobody listens, and that the kernel may draw for a connect.

    It lies inside the ephemeral range and has the parity of the range's low end, which connect() draws first on
    Linux (__inet_hash_connect). So a loop that dials it may connect to itself. It is not held: another process may
    take it. Each call returns another port.

    Args:
        host: a numeric address of this host. Default: 127.0.0.1.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: no such port is free, or *host* is not an address of this host.
    """
    with refused_port(host) as port:
        return port


@managed
def refused_port(host: str = "127.0.0.1") -> Generator[int]:
    """Hold a port like `dead_port`, bound and not listening: every connect to it is refused.

    The kernel never draws a port that is held by a bind, so no dial connects to itself.

    Args:
        host: a numeric address of this host. Default: 127.0.0.1.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: no port is free, or *host* is not an address of this host.
    """
    with bound(host) as holder:
        yield holder.getsockname()[1]


@contextlib.contextmanager
def all_taken() -> Generator[None]:
    """Hold all free ports of a range of at most 1,000, so that the kernel has none to draw."""
    found = steering.read_range()
    with contextlib.ExitStack() as stack:
        if found is not None and found.high - found.low < _MOST_TAKEN:
            for port in range(found.low, found.high + 1):
                holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                with contextlib.suppress(OSError):  # taken already
                    holder.bind(("127.0.0.1", port))
        yield


def check_numeric(host: object) -> None:
    """Raise TypeError or ValueError if *host* is not a numeric address."""
    if not isinstance(host, str) or not family_of(host):
        kind = ValueError if isinstance(host, str) else TypeError
        raise kind(f"host must be a numeric address, not {host!r}")


def check_whole(name: str, value: object, most: int | None = None) -> None:
    """Raise TypeError or ValueError naming *name* if *value* is not a whole number from 1 to *most*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1 or (most is not None and value > most):
        raise ValueError(f"{name} must be {'at least 1' if most is None else f'from 1 to {most}'}, not {value}")


def check_port(port: object) -> None:
    """Raise TypeError or ValueError if *port* is not a port that a client can dial."""
    check_whole("port", port, 65535)


def bound(host: str) -> socket.socket:
    """Return a socket that is bound to *host* and a port at risk, which no other socket has."""
    check_numeric(host)
    with _lock:  # two threads would find the same port, one after the other, if the first does not hold it
        return _bound(host)


def _bound(host: str) -> socket.socket:
    global _passed
    low, high = known = steering.read_range() or _DEFAULT_RANGE
    ports = range(low, high + 1, 2)
    reserved = reserved_in(PortSettings(reserved=read_reserved()), known)  # never drawn: a `server_port`, perhaps
    # Processes that test at the same time start in different parts, and each call starts behind the last one's port.
    part = max(1, len(ports) // _PARTS)
    first = os.getpid() % _PARTS * part + _passed % part
    for place in range(len(ports)):
        port = ports[(first + place) % len(ports)]
        if port in reserved or not is_free(port):
            continue
        holder = socket.socket(family_of(host), socket.SOCK_STREAM)
        try:
            bind(holder, host, port)
            _passed += place + 1
            return holder
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE:
                raise
    unreserved = " and not in net.ipv4.ip_local_reserved_ports" if reserved else ""
    raise OSError(errno.EADDRINUSE, f"no port of {low} to {high} is free on {host}{unreserved}")


def bind(sock: socket.socket, host: str, port: int) -> None:
    """Bind *sock* to *port* of *host*; the error says so if that is not an address of this host."""
    try:
        sock.bind((host, port))
    except OSError as error:
        # The others: a link-local address without its interface, and an interface that there is not.
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EINVAL) and not isinstance(error, socket.gaierror):
            raise
        raise OSError(errno.EADDRNOTAVAIL, f"host must be an address of this host, not {host}") from None


def is_free(port: int) -> bool:
    """Return whether no socket of either family has *port*. Even one in TIME_WAIT keeps connect() from drawing it."""
    for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104  # nothing listens
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((wildcard, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True
