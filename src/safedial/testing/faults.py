"""The faults of a connect, made on the real kernel: a self-connect, and no local port to connect from.

No root is needed. Linux from 6.3 on makes both with IP_LOCAL_PORT_RANGE; elsewhere binding the source port makes the
self-connect.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Generator

from safedial._address import SockAddr, same_endpoint
from safedial._tcp import steering
from safedial.testing.fault import Fault, Unused, lasting
from safedial.testing.intercept import Connect, intercepting
from safedial.testing.ports import all_taken, check_port, refused_port


@contextlib.contextmanager
def self_connect(port: int, times: int | None = None, *, unused: Unused = "error") -> Generator[Fault]:
    """Make connects of this process to *port* connect to themselves, whichever library makes them. Yield the `Fault`.

    Args:
        port: a port of this host. If a server listens on it, the kernel connects to the server. After a self-connected
            socket was closed without a reset, its TIME_WAIT keeps the port: further connects are refused, for a second
            if the means is IP_LOCAL_PORT_RANGE, else for a minute.
        times: how many connects, from the next one on. Default: None, all.
        unused: what happens at the end if it hit no connect: ``error`` raises AssertionError, which says what was
            dialed instead; ``warn`` warns; ``ignore``. Default: ``error``.
    """
    check_port(port)
    fault = Fault(f"self_connect({port})", port, times, unused)

    def intercept(sock: socket.socket, address: SockAddr, connect: Connect) -> bool:
        ends = _endpoints(sock, address) if address[1] == port else None
        if ends is None or not fault.trigger(address):
            return False
        means_before, drawn = fault.means, steering.read_range()
        if same_endpoint(*ends) and drawn is not None and drawn.low <= port <= drawn.high:
            try:
                if _connects_from(port, sock, connect, fault):
                    return True
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
        # On other systems, and if connections of an earlier server are in TIME_WAIT.
        if _bind(sock, ends[1]):
            fault.means = "bind"
            connect()
            return True
        fault.means = means_before
        fault.revert("a server listens on the port")
        return False

    with lasting(fault), intercepting(intercept):
        yield fault


@contextlib.contextmanager
def address_not_available(
    port: int | None = None, times: int | None = 1, *, unused: Unused = "error"
) -> Generator[Fault]:
    """Make connects of this process fail with EADDRNOTAVAIL, as if no local port were free. Yield the `Fault`.

    Args:
        port: the port that they go to. Default: None, any.
        times: how many connects, from the next one on; None: all. A dial that tries the other side of the range, as
            safedial's does, makes a connect for each side. Default: 1.
        unused: as for `self_connect`.
    """
    fault = Fault(f"address_not_available({'' if port is None else port})", port, times, unused)
    with refused_port() as held:

        def intercept(sock: socket.socket, address: SockAddr, connect: Connect) -> bool:
            if _endpoints(sock, address) is None or not fault.trigger(address):
                return False
            if not _connects_from(held, sock, connect, fault):
                fault.means = "simulated"
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            return True

        with lasting(fault), intercepting(intercept):
            yield fault


@contextlib.contextmanager
def ports_exhausted(port: int) -> Generator[Fault]:
    """Leave no local port towards *port* of any address: every connect to it fails with EADDRNOTAVAIL.

    Other destinations and other processes notice nothing. In a range of at most 1,000 ports, such as `in_namespace`
    can set, the ports are really used up: C libraries find none either. Yield the `Fault`, which counts the connects of
    Python code.
    """
    check_port(port)
    with address_not_available(port, times=None) as fault, all_taken():
        yield fault


def _endpoints(sock: socket.socket, address: SockAddr) -> tuple[SockAddr, SockAddr] | None:
    """Return the local and the peer address of a connect to *address*, both with the peer's port.

    The peer of a wildcard address is the loopback address. None if faults leave the connect alone: the kernel does not
    choose its port, or it fails anyway, because the name is unknown or there is no route.
    """
    if sock.getsockname()[1]:  # bound by the caller, or drawn by an earlier connect: asyncio makes a second one
        return None
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.bind(sock.getsockname())
            probe.connect(address)
        except (OSError, TypeError, ValueError, OverflowError):
            return None
        local: SockAddr = probe.getsockname()
        peer: SockAddr = probe.getpeername()
        return (local[0], *peer[1:]), peer


def _connects_from(port: int, sock: socket.socket, connect: Connect, fault: Fault) -> bool:
    """Connect *sock*, with *port* as the only local port to draw; return False if the kernel has no such option."""
    before = _narrow(sock, steering.option_value(steering.PortRange(port, port)))
    if before is None:
        return False
    fault.means = "IP_LOCAL_PORT_RANGE"
    try:
        connect()
    finally:
        _narrow(sock, before)  # for a client that connects this socket again
    return True


def _narrow(sock: socket.socket, option: int) -> int | None:
    """Set IP_LOCAL_PORT_RANGE to *option*. Return its value before, None if the kernel has no such option."""
    if not steering.ON_LINUX:  # elsewhere the option's number has another meaning
        return None
    try:
        before = sock.getsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE)
        sock.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, option)
    except OSError:
        return None
    return before


def _bind(sock: socket.socket, address: SockAddr) -> bool:
    """Bind *sock* to *address*, and return whether that was possible."""
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    try:
        for reuse in (before, 1):  # the second if connections of an earlier server are in the way
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            with contextlib.suppress(OSError):
                sock.bind(address)
                return True
        return False
    finally:
        # Left on, it would let a server that sets it too bind beside the self-connect, or its TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, before)
