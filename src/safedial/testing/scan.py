"""Looking for self-connects: in whatever a client returned, and among all the sockets of this process."""

import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safedial._address import INET, SockAddr, shown
from safedial._clients.sockets import socket_of
from safedial._tcp import selfconnect

# Linux has it under /proc, macOS and the BSDs have it themselves.
_DESCRIPTORS = Path("/dev/fd")


def is_self_connected(connection: Any) -> bool:
    """Tell whether a client's connection is connected to itself.

    Args:
        connection: what a client's factory returned: a socket, a file descriptor, a transport, a
            StreamWriter or the pair it came in, or an object that keeps its socket where redis-py,
            PyMySQL, http.client, asyncpg and others do. It is left open.

    Raises:
        TypeError: no socket was found in it.
        OSError: its socket is closed.
    """
    sock = socket_of(connection)
    if sock is None:
        raise TypeError(f"connection: no socket found in {shown(connection)}")
    return selfconnect.is_self_connected(sock)


class Connection(NamedTuple):
    """A TCP connection of this process, of whatever library."""

    descriptor: int
    local: SockAddr
    peer: SockAddr
    to_itself: bool

    def shut_down(self) -> None:
        """Wake who waits for it."""
        with contextlib.suppress(OSError), selfconnect.duplicate(self.descriptor) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def connections() -> Iterator[Connection]:
    """Find the TCP connections of this process."""
    for number in _descriptors():
        with contextlib.suppress(OSError):  # no socket, not connected, or closed meanwhile
            with selfconnect.duplicate(number) as sock:
                if sock.family not in INET:
                    continue
                local, peer = sock.getsockname(), sock.getpeername()
                to_itself = selfconnect.is_self_connected(sock)
            yield Connection(number, local, peer, to_itself)


def assert_no_self_connects() -> None:
    """Fail where a socket of this process, of whatever library, is connected to itself.

    Raises:
        AssertionError: one is; the message names its port.
    """
    found = [
        f"descriptor {each.descriptor}, on {each.local[0]} port {each.local[1]}"
        for each in connections()
        if each.to_itself
    ]
    if found:
        raise AssertionError(f"connected to itself: {'; '.join(found)}")


def _descriptors() -> Iterator[int]:
    if _DESCRIPTORS.exists():
        yield from map(int, os.listdir(_DESCRIPTORS))
        return
    # Windows numbers no descriptors: Python's own sockets are what can be found.
    for found in gc.get_objects():
        if isinstance(found, socket.socket) and found.fileno() != -1:
            yield found.fileno()
