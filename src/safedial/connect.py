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
import socket
from typing import TYPE_CHECKING, TypeAlias

from safedial import ports
from safedial.addresses import SockAddr, describe
from safedial.errors import PortsExhaustedError, SelfConnectError
from safedial.selfconnect import INET, reached_itself, release

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Sides: TypeAlias = tuple[int, ...]


def connect(sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    """Connect *sock*, blocking or with its timeout, and never to itself.

    *sides* are the parts of the ephemeral range to draw from, one after the other as they are used
    up: `ports.side_options` of the port, or `ports.UNSTEERED`.

    Raises:
        SelfConnectError: nobody listens; the socket is closed.
        PortsExhaustedError: no local port is free to reach *sockaddr*.
        OSError: what the kernel said, EADDRNOTAVAIL for an address this host lacks included.
    """
    shortage = None
    for side in sides:
        if side:
            ports.steer(sock, side)
        try:
            sock.connect(sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            shortage = error.with_traceback(None)  # which would hold this frame in a cycle
        else:
            if reached_itself(sock, sockaddr[1]):
                raise _let_go(sock, sockaddr)
            return
    moved = ports.side_options_now(sockaddr[1], sides)
    if not moved:
        raise _explain(sock, sockaddr, sides, shortage)
    connect(sock, sockaddr, moved)


async def connect_async(loop: "AbstractEventLoop", sock: socket.socket, sockaddr: SockAddr, sides: Sides) -> None:
    """Connect the non-blocking *sock* as `connect` does, waiting in *loop* where there is a wait."""
    shortage = None
    for side in sides:
        if side:
            ports.steer(sock, side)
        try:
            if not _connected_at_once(sock, sockaddr):
                await loop.sock_connect(sock, sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            shortage = error.with_traceback(None)  # as above
        else:
            if reached_itself(sock, sockaddr[1]):
                raise _let_go(sock, sockaddr)
            return
    moved = ports.side_options_now(sockaddr[1], sides)
    if not moved:
        # In a thread, as counting the ports takes a tenth of a second where thousands are in use.
        raise await loop.run_in_executor(None, _explain, sock, sockaddr, sides, shortage)
    await connect_async(loop, sock, sockaddr, moved)


def _connected_at_once(sock: socket.socket, sockaddr: SockAddr) -> bool:
    """Begin to connect the non-blocking *sock*; tell whether it is connected already.

    On Linux a loopback handshake is over when connect(2) returns, though it answers EINPROGRESS;
    a second connect(2) then answers 0, or the failure, and EALREADY where the handshake goes on.
    That saves the event loop a turn, and finds a self-connect before a cancellation can come
    between. Other systems answer a second connect(2) otherwise: nothing is begun there.
    """
    if not ports.ON_LINUX:
        return False
    try:
        sock.connect(sockaddr)
    except BlockingIOError:
        pass
    else:
        return True  # deferred until there is data, as by TCP_FASTOPEN_CONNECT
    try:
        sock.connect(sockaddr)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(error.errno, f"Connect call failed {sockaddr}") from None  # asyncio's words
    return True


def _let_go(sock: socket.socket, sockaddr: SockAddr) -> SelfConnectError:
    release(sock)
    return SelfConnectError.at(sockaddr[0], sockaddr[1])


def _explain(sock: socket.socket, sockaddr: SockAddr, sides: Sides, shortage: OSError | None) -> OSError:
    """Return what EADDRNOTAVAIL from connect(2), the *shortage*, means, of two things.

    An address that this host lacks (IPv6 switched off) is permanent. Used-up ports are not, and
    on systems that pick a port already in use (Go's "spurious") the next dial may succeed.
    """
    assert shortage is not None, "there is one side at least"
    if _lacks_local_address(sock.family, sockaddr):
        return shortage
    own = ports.own_range(sock) if sides == ports.UNSTEERED else None
    error = PortsExhaustedError.at(sockaddr[0], sockaddr[1], ports.usage(sockaddr, own or ports.read_range()))
    error.__cause__ = shortage
    return error


def _lacks_local_address(family: int, sockaddr: SockAddr) -> bool:
    # A datagram socket's connect() chooses a local address just so, sends nothing, and draws its
    # port from a pool of its own, so it fails only where the address is what is missing.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(sockaddr)
    except OSError as error:
        return error.errno == errno.EADDRNOTAVAIL
    return False


def kernel_chooses_port(family: int, source: SockAddr | None) -> bool:
    """Tell whether the guard applies: a TCP address, and no source port of the caller's own."""
    return family in INET and (not source or not source[1])


def bind_source(sock: socket.socket, source: SockAddr) -> None:
    """Bind *sock* to the *source* address, leaving the choice of port 0 to connect(2).

    Without IP_BIND_ADDRESS_NO_PORT, bind(2) draws a port from a pool that all destinations
    share, and fails with EADDRINUSE long before connect(2) would run out.
    """
    if not source[1] and ports.ON_LINUX and sock.family in INET:
        # Older than Linux 4.2: the port is drawn now, and checked all the same.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, ports.IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind(source)
    except OSError as error:
        # The kernel's words fit the destination as well, which is all that callers think of.
        error.add_note(f"safedial: bind() to the source address {describe(*source[:2])} failed")
        raise
