"""Looking for self-connects: in whatever a client returned, and among all the sockets of this process."""

import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from safedial import selfconnect

# Where clients keep their socket: redis-py, PyMySQL · http.client, urllib3, pymemcache · trio, ldap3 ·
# redis.asyncio, aiomysql · mysql-connector · pg8000 · asyncpg · websockets · SQLAlchemy.
_PLACES = ("_sock", "sock", "socket", "_writer", "_socket", "_usock", "_transport", "transport", "connection")
# A socket may be that many objects deep: SQLAlchemy's connection, the driver's, its stream, its socket.
_DEPTH = 4

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
    sock = _socket_of(connection, _DEPTH)
    if sock is None:
        raise TypeError(f"connection: no socket found in {connection!r}")
    return selfconnect.is_self_connected(sock)


def _socket_of(thing: Any, depth: int) -> Any:
    if isinstance(thing, socket.socket | int):
        return thing
    if thing is None or isinstance(thing, type | ModuleType) or not depth:
        return None
    if issubclass(type(thing), tuple):
        inner = list(thing)
    elif callable(get := getattr(thing, "get_extra_info", None)) and (found := get("socket")) is not None:
        return found
    elif callable(getattr(thing, "fileno", None)):
        return thing
    else:
        inner = [getattr(thing, name, None) for name in _PLACES]
    return next((found for each in inner if (found := _socket_of(each, depth - 1)) is not None), None)


def assert_no_self_connects() -> None:
    """Fail where a socket of this process, of whatever library, is connected to itself.

    Raises:
        AssertionError: one is; the message names its port.
    """
    found: list[str] = []
    for number in _descriptors():
        with contextlib.suppress(OSError):  # no socket, or closed meanwhile
            if selfconnect.is_self_connected(number):
                with selfconnect.duplicate(number) as sock:
                    host, port = sock.getsockname()[:2]
                found.append(f"descriptor {number}, on {host} port {port}")
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
