"""Self-connects: recognise one, and release it so that its port is free at once. No dialing.

The port dialed need not be the port reached. A socket-level load balancer, as in some Kubernetes networks, rewrites the
destination within connect(2), by a BPF program of the type cgroup/connect4 or connect6. So the local and the *peer*
address are compared. But getpeername() costs 4 to 5 % of a dial on loopback (`python -m bench.check`). So once a
destination was reached by the very port that was dialed, the local port is compared with that one for the rest of the
second (`destinations`). That is believed only if the local address is the one dialed: such a dial
is the fastest there is. Towards any other address, which may be a balancer's, each dial asks. That takes 3 us, which is
19 % of a dial to 127.0.0.2, and little beside the round trip of a network. Where a handshake goes on after connect(2),
each dial asks, too: an event loop costs far more.

What stays hidden. A balancer may rewrite the answer of getpeername(), too. `hidden` sees through it, except where the
balancer has the very address of this host that it leads to, and rewrites nothing but the port: TCP_INFO would cost
each dial to this host 8 %. Nor is one seen whose backends change within the second, if its address is that one.

A program may put another class in `socket.socket`'s place: PySocks' methods have meanings of their own, and eventlet's
class lacks most of them. `_socket.socket`, the stdlib's base, stays what it is.
"""

import _socket
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

from safedial._address import INET, SockAddr, same_endpoint, shown
from safedial._tcp.destinations import note_reached
from safedial._tcp.hidden import is_hidden
from safedial._tcp.steering import ON_LINUX, learn

if TYPE_CHECKING:
    from _typeshed import HasFileno

AnySocket: TypeAlias = "socket.socket | _socket.socket"  # not evaluated: a function may stand in the place of the first
# SO_LINGER (1, 0): close() resets. A Windows linger is two shorts, elsewhere it is two ints.
RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
# asm-generic/socket.h; Python has no name for it.
_SO_PEERNAME = 28
WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # nothing listens on them


def is_self_connected(sock: "HasFileno | int") -> bool:
    """Return whether a TCP socket is connected to itself.

    Args:
        sock: a socket, an object with ``fileno()``, or a file descriptor. It stays open.

    Returns:
        True if local and peer address are the same endpoint; IPv4 equals IPv4-mapped IPv6. False for a socket that is
        not connected, and for other families and types. A load balancer that rewrites getpeername() hides it if its
        own address is the local one.

    Raises:
        TypeError: *sock* is none of these. For an asyncio writer or transport, pass ``get_extra_info("socket")``.
        OSError: the descriptor is closed or is not a socket.
    """
    if isinstance(sock, _socket.socket):
        return _to_itself(sock)
    if isinstance(sock, bool) or not (isinstance(sock, int) or hasattr(sock, "fileno")):
        hint = "; pass its get_extra_info('socket')" if hasattr(sock, "get_extra_info") else ""
        raise TypeError(f"sock must be a socket, a file descriptor or have fileno(), not {shown(sock)}{hint}")
    with duplicate(sock if isinstance(sock, int) else sock.fileno()) as copy:
        return _to_itself(copy)


@contextlib.contextmanager
def duplicate(number: int) -> Generator[_socket.socket]:
    """Yield a socket on a duplicate of the descriptor *number*, which stays open.

    If descriptors are used up, the socket has that of the caller for a while.
    """
    borrowed = False
    try:
        copy = socket.dup(number)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        copy, borrowed = number, True
    try:
        # SOCK_NONBLOCK keeps socket() from applying the default timeout. That would make the caller's descriptor
        # non-blocking too, because both share one open file description.
        sock = _socket.socket(type=socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0), fileno=copy)
    except BaseException:
        if not borrowed:
            socket.close(copy)  # it is not a socket
        raise
    try:
        yield sock
    finally:
        if borrowed:
            sock.detach()
        else:
            sock.close()


def reached_itself(sock: socket.socket, sockaddr: SockAddr) -> bool:
    """Return whether *sock*, which is connected or connecting to *sockaddr*, reaches itself.

    What its ports show is noted: see `destinations` and `steering.learn`.

    Raises:
        OSError: an address can't be read, and without it the answer is not known.
    """
    try:
        local = sock.getsockname()
        try:
            peer = peer_of(sock)
        except OSError:
            # A connect to a wildcard address goes to this host, from the same address.
            assumed = local if sockaddr[0] in WILDCARDS else sockaddr
            peer = _peer_set(sock) or assumed
            if local[1] == sockaddr[1] and not is_same(local, peer):
                raise
        if peer[1] != local[1]:
            # Only on Linux is it forgotten again.
            if ON_LINUX and peer is not sockaddr and note_reached(sockaddr, peer[1]):
                learn(sock, local[1])
            return is_hidden(sock, local, peer)
    except OSError:
        if is_real(sock):
            raise
        return False
    except (AttributeError, LookupError, TypeError):
        return False  # a fake has no addresses
    return is_real(sock) if is_same(local, peer) else is_hidden(sock, local, peer)


def _peer_set(sock: AnySocket) -> SockAddr | None:
    """Return the peer address that Linux has set for *sock*, also if it is not connected yet, or was reset since."""
    if not ON_LINUX:
        return None
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET:
            port, packed = struct.unpack("!2xH4s8x", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERNAME, 16))
            return socket.inet_ntop(socket.AF_INET, packed), port
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERNAME, 28)
        port, packed = struct.unpack("!2xH4x16s4x", raw)
        return socket.inet_ntop(socket.AF_INET6, packed), port, 0, int.from_bytes(raw[24:], sys.byteorder)
    return None


def is_same(local: SockAddr, peer: SockAddr) -> bool:
    """Return whether *local* and *peer* are known to be one endpoint. A fake's peer may be a name."""
    with contextlib.suppress(AttributeError, OSError, LookupError, TypeError, ValueError):
        return same_endpoint(local, peer)
    return False


def is_real(sock: AnySocket) -> bool:
    """Return whether *sock* is a socket of the kernel. A fake's addresses are made up, and say nothing."""
    if isinstance(sock, _socket.socket):
        return True
    with contextlib.suppress(AttributeError, OSError, TypeError, ValueError), duplicate(sock.fileno()):
        return True
    return False


def peer_of(sock: AnySocket) -> SockAddr:
    """Return the peer address of *sock*. PySocks' own getpeername() returns the one behind the proxy."""
    plain = isinstance(sock, _socket.socket)  # gevent's and eventlet's are not
    address: SockAddr = _socket.socket.getpeername(sock) if plain else sock.getpeername()
    return address


def release(sock: socket.socket) -> None:
    """Close a self-connected *sock* without TIME_WAIT, so that a server can bind its port at once.

    Never use it on a healthy connection: unsent data would be lost. Never after shutdown(), which leaves TIME_WAIT for
    60 s all the same; unless *sock* has SO_REUSEADDR, a server then can't bind, not even one that sets the option.

    Raises:
        OSError: a sandbox denies SO_LINGER, for example. The socket is closed, but may be in TIME_WAIT.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except Exception:
        sock.close()
        raise  # an interrupt leaves it to the caller: to close it now would leave TIME_WAIT
    sock.close()


def close_unfinished(sock: socket.socket, error: BaseException | None, *, guarded: bool) -> None:
    """Close *sock*, whose dial ended with *error*, was interrupted, or lost a race. Release it if self-connected."""
    if guarded and not isinstance(error, ConnectionRefusedError):  # a refused socket did not connect to itself
        release_if_self_connected(sock)
    sock.close()


def release_if_self_connected(sock: socket.socket) -> None:
    """Do as `release` does if *sock* is connected to itself. Else leave it open."""
    with contextlib.suppress(OSError):  # already closed
        if _to_itself(sock):
            release(sock)


def _to_itself(sock: AnySocket) -> bool:
    if sock.family not in INET or sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
        return False
    local = sock.getsockname()
    try:
        peer = peer_of(sock)
    except OSError:
        return False  # not connected
    return bool(local[1]) and (same_endpoint(local, peer) or is_hidden(sock, local, peer))
