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

In a server's way. An ordinary connection, too, may have drawn the port of a server of this host that is down. The
server then fails with EADDRINUSE until that connection has ended, and 60 s longer (TIME_WAIT). On Linux a bind
succeeds beside another socket if both have SO_REUSEADDR and the other one does not listen (inet_bind_conflict,
net/ipv4/inet_connection_sock.c). TIME_WAIT keeps the option (inet_twsk_alloc, net/ipv4/inet_timewait_sock.c). So the
dialing socket gets it. Then a server that sets it too, as most do, can bind and listen at once, also beside a
self-connect that is not released yet, and the connection goes on working. Nothing else changes: connect(2) draws a port
without a look at the option, never that of a server, and never the same one twice for one destination
(__inet_hash_connect, net/ipv4/inet_hashtables.c).
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from safedial._address import INET, SockAddr, as_text, describe
from safedial._tcp import steering
from safedial._tcp.selfconnect import AnySocket, reached_itself, release
from safedial._tcp.steering import UNSTEERED, Sides, reached_as_dialed
from safedial.errors import SelfConnectError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# The caller chose the source port: neither steer nor check.
UNGUARDED: Sides = ()
# Asks the kernel for a connection. Returns False if the handshake goes on.
Ask: TypeAlias = Callable[[socket.socket, SockAddr], bool | None]
# What getpeername() says of a socket that is not connected yet, or any more. EINVAL: macOS.
GONE = (errno.ENOTCONN, errno.EINVAL)


def connect(sock: socket.socket, sockaddr: SockAddr, sides: Sides, ask: Ask | None = None) -> bool:
    """Connect *sock*, never to itself, trying one side after the other until one has a free port.

    *ask* is ``sock.connect`` by default. Returns False only if *ask* does. Raises SelfConnectError, after which the
    socket is closed, or the kernel's error. EADDRNOTAVAIL may mean two things: see `exhaustion`.
    """
    unavailable = None
    for side in sides or UNSTEERED:
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
            unavailable = error.with_traceback(None)  # a traceback would hold this frame in a cycle
        else:
            if sides:
                _check(sock, sockaddr)
            return True
    moved = steering.side_options_now(sockaddr[1], sides)
    if moved:
        return connect(sock, sockaddr, moved, ask)
    assert unavailable is not None, "there is at least one side"
    try:
        raise unavailable
    finally:
        del unavailable  # as above


def arrived(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Return whether the writable *sock* is connected. If not, wait for it again. Raises the errors of `connect`."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    try:
        sock.getpeername()
    except OSError:
        return False  # the selector woke its caller too early (Go's issues 14548 and 19289)
    if sides:
        _check(sock, sockaddr)
    return True


def begin_async(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> bool:
    """Do as `begin` does, with asyncio's messages. Outside Linux, or unguarded, return False and do nothing."""
    return steering.ON_LINUX and bool(sides) and connect(sock, sockaddr, sides, _begin_for_asyncio)


async def connect_async(loop: "AbstractEventLoop", sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    """Go on after `begin_async` returned False, waiting in *loop*."""
    await loop.sock_connect(sock, sockaddr)
    if sides:
        _check(sock, sockaddr)


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


def _check(sock: socket.socket, sockaddr: SockAddr) -> None:
    """Raise an error, and close *sock*, if it is or may be connected to itself."""
    # Keep this short, without suppress() and calls: see `selfconnect` for what it saves.
    try:
        local = sock.getsockname()
        if local[1] != sockaddr[1] and local[0] == sockaddr[0] and sockaddr in reached_as_dialed:
            return
    except (LookupError, OSError, TypeError):
        pass
    try:
        itself = reached_itself(sock, sockaddr)
    except OSError as error:
        raise_unknown(sock, sockaddr, error)
    if itself:
        raise_self_connect(sock, sockaddr)


def raise_unknown(sock: socket.socket, sockaddr: SockAddr, error: OSError) -> NoReturn:
    """Close *sock*, which connected, but whose addresses could not be read because of *error*, and raise what is known.

    Go's selfConnect() takes it for a self-connect. But a socket that is connected to itself is reset by nobody.
    """
    sock.close()  # without SO_LINGER: it may be healthy
    where = describe(*sockaddr[:2])
    if error.errno in GONE:
        text = f"Connection reset by peer: {where} accepted the connection and reset it at once"
        raise ConnectionResetError(errno.ECONNRESET, text) from None
    error.add_note(
        f"safedial: connected to {where}, but the socket's addresses can't be read; it may be connected to itself, so "
        "it was closed. If a sandbox forbids getsockname() or getpeername(), allow them; otherwise dial again"
    )
    try:
        raise error
    finally:
        del error  # its traceback would hold this frame in a cycle


def raise_self_connect(sock: socket.socket, sockaddr: SockAddr) -> NoReturn:
    """Release *sock*, which reached itself instead of *sockaddr*, and raise SelfConnectError."""
    refused = SelfConnectError.at(as_text(sockaddr[0]), sockaddr[1])
    try:
        release(sock)
    except OSError as error:
        refused.add_note(f"safedial: SO_LINGER was denied ({error}), so the port may be in TIME_WAIT for a minute")
    try:
        raise refused
    finally:
        del refused  # as above


def let_servers_bind(sock: AnySocket) -> None:
    """Let a server that sets SO_REUSEADDR bind the port that connect(2) will draw, or drew, for *sock*. Linux only.

    Not if the caller bound a port. Not before a bind to port 0: where that draws the port at once, it may draw the one
    of another socket that has the option (net.ipv4.ip_autobind_reuse).

    On Windows, any other socket could then take the port over. BSD and macOS ask only the server's socket for the
    option (in_pcblookup_local, sys/netinet/in_pcb.c).
    """
    if steering.ON_LINUX:
        try:  # noqa: SIM105  # suppress() costs more than the call
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except (AttributeError, OSError):
            pass  # a fake may lack the method, and a sandbox may forbid it


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
