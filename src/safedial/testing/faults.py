"""The faults of a connect, made on the real kernel: a self-connect, and no local port to connect from.

No root is needed. Linux from 6.3 on makes both with IP_LOCAL_PORT_RANGE; elsewhere binding the source port makes the
self-connect.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Generator

from safedial._address import SockAddr, describe, same_endpoint
from safedial._tcp import steering
from safedial.testing.fault import CountingFault, Fault, Unused, must_hit
from safedial.testing.intercept import Connect, intercepting
from safedial.testing.manager import managed
from safedial.testing.ports import all_taken, check_port, refused_port

# As in `resilience`.
__tracebackhide__ = True


@managed
def self_connect(port: int, times: int | None = None, *, unused: Unused = "error") -> Generator[Fault]:
    """Make connects of this process to *port* connect to themselves, whichever library makes them. Yield the `Fault`.

    Args:
        port: a port of this host. If a server listens on it, the kernel connects to the server. After a self-connected
            socket was closed without a reset, its TIME_WAIT keeps the port: further connects are refused, for a second
            if the means is IP_LOCAL_PORT_RANGE, else for a minute.
        times: how many connects, from the next one on. Default: None, all.
        unused: what happens at the end if it hit no connect: ``error`` raises AssertionError, which says what was
            dialed instead; ``warn`` warns; ``ignore``. Default: ``error``.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    check_port(port)
    fault = CountingFault(f"self_connect({port})", port, times, unused)

    def intercept(sock: socket.socket, address: SockAddr, connect: Connect) -> bool:
        ends = _hit(fault, sock, address)
        if ends is None:
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
        if (failed := _bind(sock, ends[1])) is None:
            fault.means = "bind"
            connect()
            return True
        fault.means = means_before
        fault.revert(f"{describe(*address[:2])}: {failed}")
        return False

    with must_hit(fault), intercepting(intercept):
        yield fault


@managed
def address_not_available(
    port: int | None = None, times: int | None = 1, *, unused: Unused = "error"
) -> Generator[Fault]:
    """Make connects of this process fail with EADDRNOTAVAIL, as if no local port were free. Yield the `Fault`.

    Args:
        port: the port that they go to. Default: None, any.
        times: how many connects, from the next one on; None: all. A dial that tries the other side of the range, as
            safedial's does, makes a connect for each side. Default: 1.
        unused: as for `self_connect`.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    call = f"address_not_available({'' if port is None else port})"
    with _without_a_port(CountingFault(call, port, times, unused)) as fault:
        yield fault


@managed
def ports_exhausted(port: int, *, unused: Unused = "error") -> Generator[Fault]:
    """Leave no local port towards *port* of any address: every connect to it fails with EADDRNOTAVAIL.

    Other destinations and other processes notice nothing. In a range of at most 1,000 ports, such as `in_namespace`
    can set, the ports are really used up: C libraries find none either. Yield the `Fault`, which counts the connects of
    Python code.

    Args:
        port: the port that they go to.
        unused: as for `self_connect`. It counts Python's connects alone, so give ``ignore`` for a C library.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    check_port(port)
    with _without_a_port(CountingFault(f"ports_exhausted({port})", port, None, unused)) as fault, all_taken():
        yield fault


@contextlib.contextmanager
def _without_a_port(fault: CountingFault) -> Generator[Fault]:
    with refused_port() as held:

        def intercept(sock: socket.socket, address: SockAddr, connect: Connect) -> bool:
            if _hit(fault, sock, address) is None:
                return False
            if not _connects_from(held, sock, connect, fault):
                fault.means = "simulated"
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            return True

        with must_hit(fault), intercepting(intercept):
            yield fault


def _hit(fault: CountingFault, sock: socket.socket, address: SockAddr) -> tuple[SockAddr, SockAddr] | None:
    """Return the ends of a connect to *address* if *fault* hits it; else None, and note why not."""
    ends = _endpoints(sock, address) if fault.is_for(address) else None
    if isinstance(ends, str):
        fault.note(f"{describe(*address[:2])}: {ends}")
        return None
    return ends if fault.trigger(address) else None


def _endpoints(sock: socket.socket, address: SockAddr) -> tuple[SockAddr, SockAddr] | str:
    """Return the local and the peer address of a connect to *address*, both with the peer's port.

    The peer of a wildcard address is the loopback address. If faults leave the connect alone, return why: the kernel
    does not choose its port, or it fails anyway, because the name is unknown or there is no route.
    """
    if sock.getsockname()[1]:  # bound by the caller, or drawn by an earlier connect: gevent makes a second one
        return "its socket had a source port already"
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.bind(sock.getsockname())
            probe.connect(address)
        except (OSError, TypeError, ValueError, OverflowError) as error:
            return _reason(error)
        local: SockAddr = probe.getsockname()
        peer: SockAddr = probe.getpeername()
        return (local[0], *peer[1:]), peer


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "a server listens there, or a socket has the port, perhaps in TIME_WAIT"
    return str(getattr(error, "strerror", None) or error)  # an OSError may have no errno


def _connects_from(port: int, sock: socket.socket, connect: Connect, fault: CountingFault) -> bool:
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


def _bind(sock: socket.socket, address: SockAddr) -> str | None:
    """Bind *sock* to *address*. If that is not possible, return why."""
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    why = None
    try:
        for reuse in (before, 1):  # the second if connections of an earlier server are in the way
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            try:
                sock.bind(address)
            except OSError as error:
                why = _reason(error)
            else:
                return None
        return why
    finally:
        # Left on, it would let a server that sets it too bind beside the self-connect, or its TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, before)
