"""The guarded connect: steer, connect, check, release. Blocking and non-blocking.

Mechanism. connect(2) to an address of this host whose port P has no listener can succeed: the
kernel draws a local port from the ephemeral range, and where it draws P itself, the SYN meets
its own socket and simultaneous open (RFC 9293 section 3.5) completes the handshake. The client
then talks to itself, and holds P against the real server.

Precondition. The kernel chooses the local port. A caller who binds a source port may want a
simultaneous open, so nothing is steered or checked for him (Go: ``laddr.Port == 0``).

Remedy. Steer: IP_LOCAL_PORT_RANGE keeps the kernel off P, on one side of the range and, when
that side is used up, on the other. Check: compare local and peer address after every connect,
steered or not. Release: let a self-connect go with SO_LINGER (1, 0), so that no TIME_WAIT keeps
the server from binding, and report ECONNREFUSED, which is the truth: nobody listens there.

Go's dialTCP (src/net/tcpsock_posix.go) checks only, closes with TIME_WAIT left behind, and after
two redials returns what it has. Here a self-connected socket is never returned.

Every function works on one socket and one address. No retrying beyond the other side of the
range, no policy: those are the layers above.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from safedial._address import SockAddr, describe
from safedial._tcp import procnet, steering
from safedial._tcp.selfconnect import INET, reached_itself, release
from safedial.errors import PortsExhaustedError, SelfConnectError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Sides: TypeAlias = tuple[int, ...]
# Asks the kernel for a connection, and tells whether it is there already.
Ask: TypeAlias = Callable[[socket.socket, SockAddr], bool]
# Nobody is connected to these.
_UNKNOWN: dict[int, SockAddr] = {socket.AF_INET: ("255.255.255.255", 0), socket.AF_INET6: ("ff00::", 0)}
# Where the caller chose the source port, nothing is steered or checked.
UNGUARDED: Sides = ()


def connect(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    """Connect *sock*, blocking or with its timeout, and never to itself.

    *sides* are the parts of the ephemeral range to draw from, one after the other as they are used
    up: `ports.side_options` of the port, or `ports.UNSTEERED`, or `UNGUARDED`.

    Raises:
        SelfConnectError: nobody listens; the socket is closed.
        PortsExhaustedError: no local port is free to reach *sockaddr*.
        OSError: what the kernel said, EADDRNOTAVAIL for an address this host lacks included.
    """
    guarded(_ask, sock, sockaddr, sides)


def begin(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Begin to connect the non-blocking *sock*; tell whether it is connected already.

    Where it is not, `arrived` tells it once the socket is writable. Raises what `connect` does.
    """
    return guarded(_begin, sock, sockaddr, sides)


def arrived(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Tell whether *sock*, which is writable, is connected, or must be waited for again.

    Raises what `connect` does. A selector may wake its caller too early (Go's issues 14548 and
    19289), so that only a peer address proves a connection.
    """
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    try:
        sock.getpeername()
    except OSError:
        return False
    _check(sock, sockaddr, sides)
    return True


async def connect_async(loop: "AbstractEventLoop", sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    """Connect the non-blocking *sock* as `connect` does, waiting in *loop* where there is a wait."""
    try:
        # Other systems than Linux answer a second connect(2) otherwise: nothing is begun there.
        if not (steering.ON_LINUX and sides and _on_each_side(_begin_for_asyncio, sock, sockaddr, sides)):
            await loop.sock_connect(sock, sockaddr)
            _check(sock, sockaddr, sides)
    except OSError as error:
        if not _short_of_ports(error, sides):
            raise
        # In a thread, as counting the ports takes a tenth of a second where thousands are in use.
        raise await loop.run_in_executor(None, _explain, sock, sockaddr, sides, error)  # noqa: B904  # as below


def guarded(ask: Ask, sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Do as `connect` does, by means of *ask*, and return what it did."""
    try:
        return _on_each_side(ask, sock, sockaddr, sides)
    except OSError as error:
        if not _short_of_ports(error, sides):
            raise
        raise _explain(sock, sockaddr, sides, error)  # noqa: B904  # it is *error*, or has it


def _on_each_side(ask: Ask, sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Ask for a connection from one side after the other, until one has a port to give.

    Return what *ask* did: whether *sock* is connected already. If so, it is checked.
    """
    if not sides:
        return ask(sock, sockaddr)
    shortage = None
    for side in sides:
        if side:
            steering.steer(sock, side)
        try:
            connected = ask(sock, sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            shortage = error.with_traceback(None)  # which would hold this frame in a cycle
        else:
            if connected:
                _check(sock, sockaddr, sides)
            return connected
    moved = steering.side_options_now(sockaddr[1], sides)
    if moved:
        return _on_each_side(ask, sock, sockaddr, moved)
    assert shortage is not None, "there is one side at least"
    try:
        raise shortage
    finally:
        del shortage  # as above


def _ask(sock: socket.socket, sockaddr: SockAddr) -> bool:
    sock.connect(sockaddr)
    return True


def _begin(sock: socket.socket, sockaddr: SockAddr) -> bool:
    return _deferred(sock, sockaddr) or (steering.ON_LINUX and _connected_by_now(sock, sockaddr))


def _begin_for_asyncio(sock: socket.socket, sockaddr: SockAddr) -> bool:
    if _deferred(sock, sockaddr):
        return True
    try:
        return _connected_by_now(sock, sockaddr)
    except OSError as error:
        raise OSError(error.errno, f"Connect call failed {sockaddr}") from None  # asyncio's words


def _deferred(sock: socket.socket, sockaddr: SockAddr) -> bool:
    """Begin to connect; tell whether that is put off until there is data (TCP_FASTOPEN_CONNECT)."""
    try:
        sock.connect(sockaddr)
    except BlockingIOError:
        return False
    return True


def _connected_by_now(sock: socket.socket, sockaddr: SockAddr) -> bool:
    """Tell whether the handshake that connect(2) began is over.

    On Linux one on loopback is over when connect(2) returns, though that answers EINPROGRESS; a
    second connect(2) then answers 0, or the failure, and EALREADY where the handshake goes on.
    That saves a turn of the event loop or the selector, and finds a self-connect before a
    cancellation can come between.
    """
    try:
        sock.connect(sockaddr)
    except BlockingIOError:
        return False
    return True


def _check(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    if sides and reached_itself(sock, sockaddr[1]):
        refuse(sock, sockaddr)


def refuse(sock: socket.socket, sockaddr: SockAddr) -> NoReturn:
    """Let go of *sock*, which reached itself instead of *sockaddr*, and say what is true of that."""
    release(sock)
    host: str | bytes = sockaddr[0]  # other people's may be bytes
    raise SelfConnectError.at(host.decode(errors="replace") if isinstance(host, bytes) else host, sockaddr[1])


def _short_of_ports(error: OSError, sides: Sides) -> bool:
    return bool(sides) and error.errno == errno.EADDRNOTAVAIL


def _explain(sock: socket.socket, sockaddr: SockAddr, sides: Sides, shortage: OSError) -> OSError:
    """Return what EADDRNOTAVAIL from connect(2), the *shortage*, means, of two things.

    An address that this host lacks (IPv6 switched off) is permanent. Used-up ports are not, and
    on systems that pick a port already in use (Go's "spurious") the next dial may succeed.
    """
    reached = _address_reached(sock.family, sockaddr)
    if reached is None:
        return shortage
    own = steering.own_range(sock) if sides == steering.UNSTEERED else None
    error = PortsExhaustedError.at(sockaddr[0], sockaddr[1], procnet.usage(reached, own or steering.read_range()))
    error.__cause__ = shortage
    return error


def _address_reached(family: int, sockaddr: SockAddr) -> SockAddr | None:
    """Return *sockaddr* in numbers; None where this host has no address to reach it from."""
    # A datagram socket's connect() chooses a local address just so, sends nothing, and draws its
    # port from a pool of its own, so it fails only where the address is what is missing.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(sockaddr)
            reached: SockAddr = probe.getpeername()
    except OSError as error:
        # Otherwise a name may be what can't be had any more: its figures are those of no address.
        return None if error.errno == errno.EADDRNOTAVAIL else _UNKNOWN.get(family, sockaddr)
    return reached


def kernel_chooses_port(family: int, source: SockAddr | None) -> bool:
    """Tell whether the guard applies: a TCP address, and no source port of the caller's own."""
    return family in INET and (not source or not source[1])


def bind_source(sock: socket.socket, source: SockAddr) -> None:
    """Bind *sock* to the *source* address, leaving the choice of port 0 to connect(2).

    Without IP_BIND_ADDRESS_NO_PORT, bind(2) draws a port from a pool that all destinations
    share, and fails with EADDRINUSE long before connect(2) would run out.
    """
    if not source[1] and steering.ON_LINUX and sock.family in INET:
        # Older than Linux 4.2: the port is drawn now, and checked all the same.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind(source)
    except OSError as error:
        # The kernel's words fit the destination as well, which is all that callers think of.
        error.add_note(f"safedial: bind() to the source address {describe(*source[:2])} failed")
        raise
