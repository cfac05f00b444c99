"""The faults of a connect, made on the real kernel: a self-connect, and no address to connect from.

No root is needed. Linux from 6.3 on makes both with IP_LOCAL_PORT_RANGE; elsewhere a bound source
port makes the self-connect. Each fault says by which means it was made.
"""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Generator
from typing import Literal, TypeAlias

from safedial._address import SockAddr, same_endpoint
from safedial._tcp import steering
from safedial.testing.connects import Real, between
from safedial.testing.ports import all_taken, refused_port

Means: TypeAlias = Literal["IP_LOCAL_PORT_RANGE", "bind", "simulated"]


def check_count(name: str, value: object) -> None:
    """Raise TypeError or ValueError naming *name* where *value* is no number of times."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def check_target(port: object) -> None:
    """Raise TypeError or ValueError where *port* is no port that a client can dial."""
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be a number, not {port!r}")
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be from 1 to 65535, not {port}")


class Fault:
    """A fault at work.

    Attributes:
        port: the port that it is for; None for every port.
        left: connects that it will yet befall; None for all.
        befell: connects that it has befallen.
        means: how the newest one was made; None before. ``bind``: a source port was bound for it,
            the socket has SO_REUSEADDR, and a server that sets it too can bind all the same.
            ``simulated``: the kernel had no means, and the error was raised in its place.
    """

    def __init__(self, port: int | None, times: int | None) -> None:
        if port is not None:
            check_target(port)
        if times is not None:
            check_count("times", times)
        self.port = port
        self.left = times
        self.befell = 0
        self.means: Means | None = None
        self._lock = threading.Lock()

    def takes(self, address: SockAddr) -> bool:
        """Tell whether a connect to *address* is to fail, and count it."""
        with self._lock:
            if self.port not in (None, address[1]) or self.left == 0:
                return False
            self.left = None if self.left is None else self.left - 1
            self.befell += 1
            return True

    def spare(self) -> None:
        """Take back what `takes` counted: the fault could not be."""
        with self._lock:
            self.left = None if self.left is None else self.left + 1
            self.befell -= 1


@contextlib.contextmanager
def self_connect(port: int, times: int | None = None) -> Generator[Fault]:
    """Make connects of this process to *port* really connect to themselves, whoever makes them.

    Args:
        port: a port of this host. Where a server listens on it, the kernel connects to that. Where a
            socket that was connected to itself has been closed plainly, and is in TIME_WAIT, no
            other can be for a second on Linux, elsewhere for a minute: connects are refused.
        times: how many connects, from the next one on. Default: None, all.

    Yields:
        The `Fault`, with what it did.
    """
    check_target(port)
    fault = Fault(port, times)

    def connect(sock: socket.socket, address: SockAddr, real: Real) -> bool:
        if address[1] != port or not _chooses_port(sock):
            return False
        ends = _ends(sock, address)
        if ends is None or not fault.takes(address):
            return False
        if same_endpoint(*ends) and _in_range(port):
            with _narrowed(sock, port) as narrowed:
                if narrowed:
                    before, fault.means = fault.means, "IP_LOCAL_PORT_RANGE"
                    if _connects(real):
                        return True
                    fault.means = before
        # Elsewhere, and where a server's connections of before are in TIME_WAIT.
        if not _bind(sock, address):
            fault.spare()  # a server listens
            return False
        fault.means = "bind"
        real()
        return True

    with between(connect):
        yield fault


@contextlib.contextmanager
def address_not_available(port: int | None = None, times: int | None = 1) -> Generator[Fault]:
    """Make connects of this process fail with EADDRNOTAVAIL, as where no local port is free.

    Args:
        port: the port that they go to. Default: None, any.
        times: how many connects, from the next one on; None: all. A dial that tries the other
            side of the range, as safedial's does, makes a connect for each. Default: 1.

    Yields:
        The `Fault`, with what it did.
    """
    fault = Fault(port, times)
    with refused_port() as held:

        def connect(sock: socket.socket, address: SockAddr, real: Real) -> bool:
            if not _chooses_port(sock) or _ends(sock, address) is None or not fault.takes(address):
                return False
            # Put back at once, for a client that asks this socket again.
            with _narrowed(sock, held) as narrowed:
                if not narrowed:
                    fault.means = "simulated"
                    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
                fault.means = "IP_LOCAL_PORT_RANGE"
                real()
            return True

        with between(connect):
            yield fault


@contextlib.contextmanager
def ports_exhausted(port: int) -> Generator[Fault]:
    """Let no local port be left towards *port*: every connect to it fails with EADDRNOTAVAIL.

    The range that each socket may draw from is narrowed to one port that is taken, so that other
    destinations, and other processes, notice nothing. A range of at most 1,000 ports, such as
    `in_namespace` can have, is used up for real: C libraries find no port either.

    Args:
        port: the destination's port, of any address.

    Yields:
        The `Fault`, with what it did to this process's Python code.
    """
    check_target(port)
    with address_not_available(port, times=None) as fault, all_taken():
        yield fault


def _chooses_port(sock: socket.socket) -> bool:
    """Tell whether the kernel is to draw the local port: the caller chose none, and this is not the
    second connect of a non-blocking socket, such as asyncio's dials make.
    """
    drawn: int = sock.getsockname()[1]
    return drawn == 0


def _ends(sock: socket.socket, address: SockAddr) -> tuple[SockAddr, SockAddr] | None:
    """Return local and peer address that a connect to *address* would have, if not for the local port,
    which is the peer's here. None where it fails anyway: no such name, no route. It may say so itself.
    """
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:  # which sends nothing
        try:
            probe.bind(sock.getsockname())
            probe.connect(address)
        except (OSError, TypeError, ValueError, OverflowError):
            return None
        local: SockAddr = probe.getsockname()
        peer: SockAddr = probe.getpeername()
        return (local[0], *peer[1:]), peer


def _in_range(port: int) -> bool:
    found = steering.read_range()
    return found is not None and found.low <= port <= found.high


def _connects(real: Real) -> bool:
    """Make a connect, and tell whether there was a port for it."""
    try:
        real()
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


@contextlib.contextmanager
def _narrowed(sock: socket.socket, port: int) -> Generator[bool]:
    """Let the kernel draw *port* alone for *sock*, and then what it could before; yield whether it can be told."""
    own = _own_range(sock)
    narrowed = _narrow(sock, port, port)
    try:
        yield narrowed
    finally:
        if narrowed:
            _narrow(sock, *own)


def _own_range(sock: socket.socket) -> steering.PortRange:
    """Return what was set on *sock*; a bound that was not is 0."""
    value = 0
    if steering.ON_LINUX:  # elsewhere the option's number has another meaning
        with contextlib.suppress(OSError):
            value = sock.getsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE)
    return steering.PortRange(value & 0xFFFF, value >> 16 & 0xFFFF)


def _narrow(sock: socket.socket, low: int, high: int) -> bool:
    if not steering.ON_LINUX:
        return False
    try:
        sock.setsockopt(
            socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, steering.option_value(steering.PortRange(low, high))
        )
    except OSError:
        return False
    return True


# A connect to a wildcard goes to the loopback address, from there.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing listens on it


def _bind(sock: socket.socket, address: SockAddr) -> bool:
    """Bind *sock* to *address*, with SO_REUSEADDR; where that can't be, it stays as it was."""
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((_LOOPBACK.get(address[0], address[0]), *address[1:]))
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, before)
        return False
    return True
