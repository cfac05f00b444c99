"""The socket in the object that a client's connection factory returned."""

import contextlib
import inspect
import socket
from collections.abc import Coroutine
from types import ModuleType
from typing import Any

from safedial._steps import within
from safedial._tcp.selfconnect import RESET, duplicate, is_self_connected
from safedial.errors import SelfConnectError

# Attributes that hold a client's socket (redis-py, PyMySQL · http.client, urllib3, pymemcache · trio, ldap3 · pg8000),
# and attributes that hold an object with a socket (redis.asyncio, aiomysql · asyncpg · websockets · SQLAlchemy).
_SOCKETS = ("_sock", "sock", "socket", "_socket", "_usock")
_HOLDERS = ("_writer", "_transport", "transport", "connection", "dbapi_connection")


# Seconds. A farewell to a server that is gone is not awaited for ever.
_CLOSING = 2.0


def socket_of(connection: Any) -> Any:
    """Return the socket, or file descriptor, in *connection*; None if there is none."""
    if isinstance(connection, int) and not isinstance(connection, bool):
        return connection
    return _within(connection, depth=4)  # SQLAlchemy's connection, the driver's, its stream, its socket


def _within(thing: Any, depth: int) -> Any:
    if isinstance(thing, socket.socket):
        return thing
    if thing is None or isinstance(thing, type | ModuleType | int) or not depth:
        return None
    if issubclass(type(thing), tuple):
        inner = list(thing)
    elif callable(get := _own(thing, "get_extra_info")) and (found := get("socket")) is not None:
        return found
    elif callable(_own(thing, "fileno")):
        return thing
    else:
        inner = [_own(thing, name) for name in _SOCKETS + _HOLDERS]
    return next((found for each in inner if (found := _within(each, depth - 1)) is not None), None)


def _own(thing: Any, name: str) -> Any:
    if inspect.getattr_static(thing, name, None) is None:  # a MongoClient makes a database of any name
        return None
    try:
        return getattr(thing, name)
    except Exception:  # a property may raise
        return None


def self_connect_of(connection: Any) -> SelfConnectError | None:
    """Return the error if *connection* is connected to itself; closing it will then reset it."""
    try:
        sock = socket_of(connection)
        if sock is None or not is_self_connected(sock):
            return None
        with duplicate(sock if isinstance(sock, int) else sock.fileno()) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return SelfConnectError.at(*copy.getpeername()[:2])
    except (OSError, TypeError, ValueError):
        return None  # it is closed already, or no socket


def enter(connection: Any) -> Any:
    """Enter *connection*, if it is a context manager; return what ``with`` would."""
    return connection.__enter__() if _has(connection, "__enter__") else connection


async def enter_async(connection: Any) -> Any:
    """Enter *connection* in asyncio or trio, if it is an async context manager; return what ``async with`` would."""
    return await connection.__aenter__() if _has(connection, "__aenter__") else connection


def leave(connection: Any, error: BaseException | None) -> None:
    """Close *connection*. Without *error* leave its own ``with`` block first, which commits in some drivers.

    What that raises comes out. With *error* nothing is committed.
    """
    left = error is None and _has(connection, "__exit__")
    try:
        if left:
            connection.__exit__(None, None, None)
    finally:
        close_quietly(connection, left=left)


async def leave_async(connection: Any, error: BaseException | None) -> None:
    """Do as `leave` does, in asyncio or trio; at once if there is an *error*."""
    left = error is None and _has(connection, "__aexit__")
    try:
        if left:
            await connection.__aexit__(None, None, None)
    finally:
        await close_async(connection, at_once=error is not None, left=left)


def close_quietly(connection: Any, *, left: bool = False) -> None:
    """Close *connection* in blocking code."""
    with contextlib.suppress(Exception):  # it may be closed or broken already
        closing = close(connection, left=left)
        if isinstance(closing, Coroutine):
            closing.close()  # blocking code can't await it


def _has(connection: Any, method: str) -> bool:
    kind: Any = connection.__class__
    return hasattr(kind, method)


async def close_async(connection: Any, *, at_once: bool, left: bool = False) -> None:
    """Close *connection* in asyncio or trio, *at_once* if it is broken, else after what was written."""
    writer = connection[1] if issubclass(type(connection), tuple) and len(connection) > 1 else connection
    abort = getattr(getattr(writer, "transport", None), "abort", None)
    with contextlib.suppress(Exception):  # it may be broken already
        if at_once and callable(abort):
            abort()
        closing = close(connection, left=left)
        if closing is None and hasattr(writer, "wait_closed"):
            closing = writer.wait_closed()
        if inspect.isawaitable(closing):
            try:
                await within(_CLOSING, closing)
            except BaseException:  # a time-out, or a cancellation
                if callable(abort):
                    abort()
                raise


def close(connection: Any, *, left: bool = False) -> Any:
    """Close *connection*, or the writer of a (reader, writer) pair. Return the awaitable that does it, or None.

    An object without such a method is left as a context manager, unless it was *left* already.
    """
    things = list(connection) if issubclass(type(connection), tuple) else [connection]
    methods = (getattr(thing, name, None) for thing in things for name in ("aclose", "close"))
    method = next(filter(callable, methods), None)
    if method is not None:
        return method()
    for name in () if left else ("__aexit__", "__exit__"):  # ldap3's has no other way
        if _has(connection, name):
            return getattr(connection, name)(None, None, None)
    return None
