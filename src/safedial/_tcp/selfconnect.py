"""Self-connects: proving one, and letting go of it so that the port is free at once.

Predicates and a release; no dialing and no policy.
"""

import contextlib
import os
import socket
import struct
from typing import Protocol

from safedial._address import SockAddr, same_endpoint, shown

INET = (socket.AF_INET, socket.AF_INET6)

# SO_LINGER (1, 0): close() resets. A Windows linger is two shorts, elsewhere it is two ints.
RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class HasFileno(Protocol):
    """Anything with a file descriptor, such as a socket of any kind."""

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


def is_self_connected(sock: HasFileno | int) -> bool:
    """Tell whether a TCP socket is connected to itself.

    Args:
        sock: a socket, an object with ``fileno()``, or a file descriptor. It is left open.

    Returns:
        True where local and peer address are the same endpoint, IPv4 and IPv4-mapped IPv6 being
        equal. False for sockets that are not connected, and for other families and types.

    Raises:
        TypeError: *sock* is none of these. An asyncio ``StreamWriter`` has its socket under
            ``writer.get_extra_info("socket")``.
        OSError: the descriptor is closed, or is no socket.
    """
    if isinstance(sock, socket.socket):
        return _proven(sock)
    if isinstance(sock, bool) or not (isinstance(sock, int) or hasattr(sock, "fileno")):
        hint = "; ask its get_extra_info('socket')" if hasattr(sock, "get_extra_info") else ""
        raise TypeError(f"sock must be a socket, a file descriptor or have fileno(), not {shown(sock)}{hint}")
    with duplicate(sock if isinstance(sock, int) else sock.fileno()) as copy:
        return _proven(copy)


def duplicate(number: int) -> socket.socket:
    """Return a socket on a duplicate of *number*, which can be closed without closing the original."""
    copy = socket.dup(number)
    try:
        # SOCK_NONBLOCK keeps socket() from applying the default timeout, which would make the caller's
        # descriptor non-blocking too: both share one open file description.
        return socket.socket(type=socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0), fileno=copy)
    except BaseException:
        socket.close(copy)  # it is no socket
        raise


def reached_itself(sock: socket.socket, port: int) -> bool:
    """Tell whether *sock*, just connected to *port*, must be taken for a self-connect.

    One system call unless the ports are equal. An address that can't be read counts as a fault,
    as in Go's ``selfConnect`` (src/net/tcpsock_posix.go).
    """
    try:
        local = sock.getsockname()
        return local[1] == port and same_endpoint(local, peer_of(sock))
    except OSError:
        return True


def peer_of(sock: socket.socket) -> SockAddr:
    """Return whom *sock* is connected to. PySocks' own getpeername() tells who is behind the proxy."""
    peer: SockAddr = socket.socket.getpeername(sock)
    return peer


def release(sock: socket.socket) -> None:
    """Close a self-connected *sock* so that a server can bind its port at once.

    SO_LINGER (1, 0) makes close() drop the connection without TIME_WAIT. Never on a healthy
    connection: it loses data that was not sent yet. Never after shutdown(), which would
    leave TIME_WAIT all the same, for 60 s and against the server's SO_REUSEADDR.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def abandon(sock: socket.socket, error: BaseException | None, *, guarded: bool) -> None:
    """Close a *sock* whose dial ended with *error*, or for no fault of its own.

    Where it is *guarded* it may have connected to itself just before, and must then not keep the
    port. What was refused has not, so a loop on a dead port is spared the look.
    """
    if guarded and not isinstance(error, ConnectionRefusedError):
        with contextlib.suppress(OSError):  # closed already
            if _proven(sock):
                release(sock)
    sock.close()


def _proven(sock: socket.socket) -> bool:
    if sock.family not in INET or sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
        return False
    local = sock.getsockname()
    try:
        return bool(local[1]) and same_endpoint(local, peer_of(sock))
    except OSError:
        return False  # not connected
