"""The guarded connect of one socket to one address: steer, connect, check, release. Blocking and non-blocking.

Mechanism. connect(2) to a port P of this host can succeed although nobody listens on it. The kernel draws a local port
from the ephemeral range. If it draws P, the SYN reaches its own socket, and simultaneous open (RFC 9293 section 3.5)
completes the handshake. The client then talks to itself, and keeps P from the real server.

Precondition. The kernel chooses the local port. A caller who binds a source port may want a simultaneous open, so the
connect is neither steered nor checked (Go: ``laddr.Port == 0``).

Remedy. Steer: IP_LOCAL_PORT_RANGE keeps the kernel off P, on one side of the range and, if that side is exhausted, on
the other. Check: compare local and peer address after every connect, steered or not. Release: close a self-connected
socket with SO_LINGER (1, 0), so that no TIME_WAIT keeps the server from binding, and report ECONNREFUSED: nobody
listens. Go's dialTCP (src/net/tcpsock_posix.go) only checks, leaves a TIME_WAIT behind, and after two redials returns
the socket that it has. Here a self-connected socket is never returned.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

from safedial._address import INET, SockAddr, describe
from safedial._tcp import procnet, steering
from safedial._tcp.selfconnect import reached_itself, release
from safedial.errors import PortsExhaustedError, SelfConnectError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# Values of IP_LOCAL_PORT_RANGE to try in turn: `steering.side_options`, `steering.UNSTEERED` or `UNGUARDED`.
Sides: TypeAlias = tuple[int, ...]
# The caller chose the source port: neither steer nor check.
UNGUARDED: Sides = ()
# Asks the kernel for a connection. Returns False if the handshake goes on.
Ask: TypeAlias = Callable[[socket.socket, SockAddr], bool | None]
# Addresses that nobody is connected to.
_UNKNOWN: dict[int, SockAddr] = {socket.AF_INET: ("255.255.255.255", 0), socket.AF_INET6: ("ff00::", 0)}


def connect(sock: socket.socket, sockaddr: SockAddr, sides: Sides, ask: Ask | None = None) -> bool:
    """Connect *sock*, never to itself, trying one side after the other until one has a free port.

    *ask* is ``sock.connect`` by default. Returns False only if *ask* does. Raises SelfConnectError, after which the
    socket is closed, or the kernel's error. EADDRNOTAVAIL may mean two things: see `explained`.
    """
    shortage = None
    for side in sides or steering.UNSTEERED:
        if side:
            steering.steer(sock, side)
        try:
            if ask is None:
                sock.connect(sockaddr)
            elif ask(sock, sockaddr) is False:
                return False
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or not sides:
                raise
            shortage = error.with_traceback(None)  # a traceback would hold this frame in a cycle
        else:
            if sides and reached_itself(sock, sockaddr[1]):
                raise_self_connect(sock, sockaddr)
            return True
    moved = steering.side_options_now(sockaddr[1], sides)
    if moved:
        return connect(sock, sockaddr, moved, ask)
    assert shortage is not None, "there is at least one side"
    try:
        raise shortage
    finally:
        del shortage  # as above


def arrived(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Return whether the writable *sock* is connected. If not, wait for it again. Raises the errors of `connect`."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    try:
        sock.getpeername()
    except OSError:
        return False  # the selector woke its caller too early (Go's issues 14548 and 19289)
    _check(sock, sockaddr, sides)
    return True


def begin_async(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Do as `begin` does, with asyncio's messages. Outside Linux, do nothing."""
    return steering.ON_LINUX and bool(sides) and connect(sock, sockaddr, sides, _begin_for_asyncio)


async def connect_async(loop: "AbstractEventLoop", sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    """Go on after `begin_async` returned False, waiting in *loop*."""
    await loop.sock_connect(sock, sockaddr)
    _check(sock, sockaddr, sides)


def begin(sock: socket.socket, sockaddr: SockAddr) -> bool:
    """Ask for a connection of the non-blocking *sock*. After False, call `arrived` once the socket is writable."""
    return _connects_at_once(sock, sockaddr) or (steering.ON_LINUX and _connects_at_once(sock, sockaddr))


def _begin_for_asyncio(sock: socket.socket, sockaddr: SockAddr) -> bool:
    if _connects_at_once(sock, sockaddr):
        return True
    try:
        return _connects_at_once(sock, sockaddr)
    except OSError as error:
        raise OSError(error.errno, f"Connect call failed {sockaddr}") from None  # asyncio's message


def _connects_at_once(sock: socket.socket, sockaddr: SockAddr) -> bool:
    """Call connect(2), and return whether the non-blocking *sock* is connected.

    The first call answers EINPROGRESS, or 0 with TCP_FASTOPEN_CONNECT. A handshake on loopback is over by then. On
    Linux, a second call answers 0 if it is over, EALREADY if it goes on, and otherwise the failure. That saves a turn
    of the event loop, and finds a self-connect before a cancellation can intervene.
    """
    try:
        sock.connect(sockaddr)
    except BlockingIOError:
        return False
    return True


def _check(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    if sides and reached_itself(sock, sockaddr[1]):
        raise_self_connect(sock, sockaddr)


def raise_self_connect(sock: socket.socket, sockaddr: SockAddr) -> NoReturn:
    """Release *sock*, which reached itself instead of *sockaddr*, and raise SelfConnectError."""
    release(sock)
    host: str | bytes = sockaddr[0]  # under the guard, a client's own address may be bytes
    raise SelfConnectError.at(host.decode(errors="replace") if isinstance(host, bytes) else host, sockaddr[1])


def is_shortage(error: BaseException, sides: Sides) -> bool:
    """Return whether *error* is EADDRNOTAVAIL of a connect whose port the kernel chose."""
    return isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and bool(sides)


def explained(sock: socket.socket, sockaddr: SockAddr, sides: Sides, shortage: OSError) -> OSError:
    """Return the error to raise for *shortage*, an `is_shortage`. Counting many ports takes a tenth of a second.

    *shortage* is permanent, and returned as it is, if this host lacks an address to reach *sockaddr* from (IPv6 is
    switched off). Exhausted ports, or a port in use that the kernel picked, are transient: PortsExhaustedError.
    """
    reached = _address_reached(sock.family, sockaddr)
    if reached is None:
        return shortage
    own = steering.own_range(sock) if sides == steering.UNSTEERED else None
    error = PortsExhaustedError.at(sockaddr[0], sockaddr[1], procnet.usage(reached, own or steering.read_range()))
    error.__cause__ = shortage
    return error


def _address_reached(family: int, sockaddr: SockAddr) -> SockAddr | None:
    """Return *sockaddr* in numbers; None if this host has no address to reach it from."""
    # connect() of a datagram socket chooses a local address in the same way, sends nothing, and draws its port from
    # another pool. So it fails only if the address is missing.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(sockaddr)
            return cast("SockAddr", probe.getpeername())
    except OSError as error:
        # Other errors concern the address itself, such as a name that no longer resolves.
        return None if error.errno == errno.EADDRNOTAVAIL else _UNKNOWN.get(family, sockaddr)


def bind_source(sock: socket.socket, source: SockAddr) -> None:
    """Bind *sock* to the *source* address, leaving the choice of port 0 to connect(2)."""
    if not source[1] and steering.ON_LINUX and sock.family in INET:
        # Without this option (Linux before 4.2), bind(2) draws the port, from a pool that all destinations share. It
        # fails with EADDRINUSE long before connect(2) would run out of ports.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind(source)
    except OSError as error:
        # The kernel's message would fit the destination as well.
        error.add_note(f"safedial: bind() to the source address {describe(*source[:2])} failed")
        raise
