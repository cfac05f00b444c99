"""Self-connects: recognise one, and release it so that its port is free at once. No dialing.

A program may put another class in `socket.socket`'s place: PySocks' methods have meanings of their own, and eventlet's
class lacks most of them. `_socket.socket`, the stdlib's base, stays what it is.
"""

import _socket
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

from safedial._address import INET, SockAddr, same_endpoint, shown

if TYPE_CHECKING:
    from _typeshed import HasFileno

AnySocket: TypeAlias = socket.socket | _socket.socket
# SO_LINGER (1, 0): close() resets. A Windows linger is two shorts, elsewhere it is two ints.
RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


def is_self_connected(sock: "HasFileno | int") -> bool:
    """Return whether a TCP socket is connected to itself.

    Args:
        sock: a socket, an object with ``fileno()``, or a file descriptor. It stays open.

    Returns:
        True if local and peer address are the same endpoint; IPv4 equals IPv4-mapped IPv6. False for a socket that is
        not connected, and for other families and types.

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


def reached_itself(sock: socket.socket, port: int) -> bool:
    """Return whether *sock*, just connected to *port*, is or may be self-connected."""
    try:
        local = sock.getsockname()
        if local[1] != port:
            return False
        peer = peer_of(sock)
    except OSError:
        return is_real(sock)  # as in Go's selfConnect() (src/net/tcpsock_posix.go)
    except (LookupError, TypeError):
        return False  # a fake has no addresses
    return is_same(local, peer) and is_real(sock)


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
    60 s all the same; then only a server with SO_REUSEADDR can bind, and only if *sock* had it too.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def close_unfinished(sock: socket.socket, error: BaseException | None, *, guarded: bool) -> None:
    """Close *sock*, whose dial ended with *error*, was interrupted, or lost a race. Release it if self-connected."""
    if guarded and not isinstance(error, ConnectionRefusedError):  # a refused socket did not connect to itself
        with contextlib.suppress(OSError):  # already closed
            if _to_itself(sock):
                release(sock)
    sock.close()


def _to_itself(sock: AnySocket) -> bool:
    if sock.family not in INET or sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
        return False
    local = sock.getsockname()
    try:
        return bool(local[1]) and same_endpoint(local, peer_of(sock))
    except OSError:
        return False  # not connected
