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
from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

from safedial import ports
from safedial.addresses import SockAddr, check_port, same_endpoint
from safedial.testing.connects import Real, between
from safedial.testing.dead import refused_port

Means: TypeAlias = Literal["IP_LOCAL_PORT_RANGE", "bind", "none: raised by hand"]


def check_count(name: str, value: object) -> None:
    """Raise TypeError or ValueError naming *name* where *value* is no number of times."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


class Fault:
    """A fault at work.

    Attributes:
        port: the port that it is for; None for every port.
        left: connects that it will yet befall; None for all.
        befell: connects that it has befallen.
        means: how the newest one was made; None before. Where a source port was bound for it,
            the socket has SO_REUSEADDR, and a server that sets it too can bind all the same.
    """

    def __init__(self, port: int | None, times: int | None) -> None:
        if port is not None:
            if not isinstance(port, int):
                raise TypeError(f"port must be a number, not {port!r}")
            check_port(port)
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
    fault = Fault(port, times)

    def connect(sock: socket.socket, address: SockAddr, real: Real) -> bool:
        if not _chooses_port(sock) or not fault.takes(address):
            return False
        if _source_is(sock, address) and _in_range(port) and _narrow(sock, port):
            fault.means = "IP_LOCAL_PORT_RANGE"
            try:
                real()
                return True
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
            _narrow(sock, 0)
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
            if not _chooses_port(sock) or not fault.takes(address):
                return False
            own = ports.own_range(sock) or ports.PortRange(0, 0)
            if not _narrow(sock, held):
                fault.means = "none: raised by hand"
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            fault.means = "IP_LOCAL_PORT_RANGE"
            try:
                real()
            finally:
                _narrow(sock, *own)  # for a client that asks this socket again
            return True

        with between(connect):
            yield fault


def ports_exhausted(port: int) -> AbstractContextManager[Fault]:
    """Let no local port be left towards *port*: every connect to it fails with EADDRNOTAVAIL.

    The range that each socket may draw from is narrowed to one port that is taken, so that other
    destinations, and other processes, notice nothing.

    Args:
        port: the destination's port, of any address.

    Yields:
        The `Fault`, with what it did.
    """
    return address_not_available(port, times=None)


def _chooses_port(sock: socket.socket) -> bool:
    """Tell whether the kernel is to draw the local port: the caller chose none, and this is not the
    second connect of a non-blocking socket, such as asyncio's dials make.
    """
    drawn: int = sock.getsockname()[1]
    return drawn == 0


def _source_is(sock: socket.socket, address: SockAddr) -> bool:
    """Tell whether the kernel would dial *address* from itself; a datagram socket sends nothing."""
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        probe.bind(sock.getsockname())
        probe.connect(address)
        local: SockAddr = probe.getsockname()
        peer: SockAddr = (probe.getpeername()[0], *local[1:])
        return same_endpoint(local, peer)


def _in_range(port: int) -> bool:
    found = ports.read_range()
    return found is not None and found.low <= port <= found.high


def _narrow(sock: socket.socket, low: int, high: int | None = None) -> bool:
    if not ports.ON_LINUX:
        return False  # there the option's number has another meaning
    value = ports.option_value(ports.PortRange(low, low if high is None else high))
    try:
        sock.setsockopt(socket.IPPROTO_IP, ports.IP_LOCAL_PORT_RANGE, value)
    except OSError:
        return False
    return True


# A connect to a wildcard goes to the loopback address, from there.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing listens on it


def _bind(sock: socket.socket, address: SockAddr) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((_LOOPBACK.get(address[0], address[0]), *address[1:]))
    except OSError:
        return False
    return True
