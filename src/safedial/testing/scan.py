"""Finding self-connects: in the connection that a client returned, and among all sockets of this process."""

import _socket
import contextlib
import gc
import os
import socket
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from safedial._address import INET, SockAddr, describe, shown
from safedial._clients.sockets import socket_of
from safedial._tcp import selfconnect

# As in `resilience`.
__tracebackhide__ = __unittest = True


def is_self_connected(connection: Any) -> bool:
    """Return whether a client's connection is connected to itself.

    Args:
        connection: the connection that a factory returned: a socket, a file descriptor, a transport, a StreamWriter or
            its (reader, writer) pair, or an object that keeps its socket as redis-py, PyMySQL, http.client, asyncpg and
            others do. It is left open.

    Raises:
        TypeError: no socket was found in it.
        OSError: its socket is closed.
    """
    sock = socket_of(connection)
    if sock is None:
        raise TypeError(f"connection: no socket found in {shown(connection)}")
    try:
        return selfconnect.is_self_connected(sock)
    except OSError as error:
        raise error.with_traceback(None)  # noqa: B904  # it is the same exception


class Connection(NamedTuple):
    """A TCP connection of this process, whichever library made it."""

    descriptor: int
    local: SockAddr
    peer: SockAddr
    self_connected: bool

    def shut_down(self) -> None:
        """Wake the thread that waits for data on it."""
        with contextlib.suppress(OSError), selfconnect.duplicate(self.descriptor) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def connections() -> Iterator[Connection]:
    """Find the TCP connections of this process."""
    for number in descriptors():
        with contextlib.suppress(OSError):  # not a socket, not connected, or closed meanwhile
            with tcp_socket(number) as sock:
                if sock is None:
                    continue
                local, peer = sock.getsockname(), sock.getpeername()
                self_connected = selfconnect.is_self_connected(sock)
            yield Connection(number, local, peer, self_connected)


@contextlib.contextmanager
def tcp_socket(number: int) -> Generator[_socket.socket | None]:
    """Yield a socket on a duplicate of the descriptor *number*, None if it is of another family.

    Raises:
        OSError: it is not a socket, or closed.
    """
    with selfconnect.duplicate(number) as sock:
        yield sock if sock.family in INET else None


def assert_no_self_connects() -> None:
    """Raise AssertionError, naming the port, if a socket of this process is connected to itself, whoever made it."""
    found = [each for each in connections() if each.self_connected]
    if found:
        places = (f"descriptor {each.descriptor}, on {describe(*each.local[:2])}" for each in found)
        raise AssertionError(f"connected to itself: {'; '.join(places)}")


def descriptors() -> list[int]:
    """Return the descriptors of this process."""
    # A link to /proc on Linux, a file system of its own on macOS and the BSDs.
    with contextlib.suppress(FileNotFoundError):
        return [int(name) for name in os.listdir("/dev/fd")]
    # Windows has no such directory: only Python's own sockets can be found.
    return [found.fileno() for found in gc.get_objects() if isinstance(found, socket.socket)]
