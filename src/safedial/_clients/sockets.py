"""The socket in the object that a client's connection factory returned."""

import contextlib
import errno
import inspect
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from safedial._address import INET
from safedial._steps import finish, within
from safedial._tcp import connect
from safedial._tcp.selfconnect import RESET, AnySocket, duplicate, is_self_connected, peer_of
from safedial.errors import SelfConnectError

T = TypeVar("T")

# Attributes that hold a client's socket (redis-py, PyMySQL · http.client, urllib3, pymemcache · trio, ldap3 · pg8000),
# and attributes that hold an object with a socket (redis.asyncio, aiomysql · asyncpg · websockets · SQLAlchemy ·
# the pools of asyncpg and others).
_SOCKETS = ("_sock", "sock", "socket", "_socket", "_usock")
_HOLDERS = ("_writer", "_transport", "transport", "connection", "_con")

# What the kernel says of a descriptor that is closed, or not a socket, or not connected (EINVAL on macOS). An error
# without an errno is Python's, about a made-up address.
_NO_SOCKET = frozenset({None, errno.EBADF, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK})

# Seconds. A farewell to a server that is gone is not awaited for ever.
_CLOSING = 2.0


def socket_of(connection: Any) -> Any:
    """Return the socket, or file descriptor, in *connection*; None if there is none."""
    if type(connection) is int:
        return connection if 0 <= connection < 2**31 else None
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
    elif (dbapi := _own(thing, "dbapi_connection")) is not None:  # SQLAlchemy warns if its "connection" is read
        inner = [dbapi]
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
    """Return the error if *connection* is connected to itself; closing it will then reset it.

    Raises:
        OSError: it could not be looked at.
    """
    return _look(socket_of(connection), _reset_if_self_connected)


def _reset_if_self_connected(sock: AnySocket) -> SelfConnectError | None:
    if not is_self_connected(sock):
        return None
    with contextlib.suppress(OSError):  # a sandbox may deny it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return SelfConnectError.at(*peer_of(sock)[:2])


def let_servers_bind(connection: Any) -> None:
    """Let a server bind the local port of *connection*, which was dialed in C. It is TCP, or left alone.

    The option counts at the server's bind(2) and when the socket goes to TIME_WAIT, so it may come after connect(2).
    """
    with contextlib.suppress(Exception):  # the dial succeeded, whatever the socket says
        _look(socket_of(connection), _let_servers_bind)


def _let_servers_bind(sock: AnySocket) -> None:
    if _is_tcp(sock):
        connect.let_servers_bind(sock)


def is_tcp(found: Any) -> bool:
    """Return whether *found*, the result of `socket_of`, is an open TCP socket."""
    return bool(_look(found, _is_tcp))


def is_connected(found: Any) -> bool:
    """Return whether *found*, the result of `socket_of`, is a TCP socket that is connected."""
    return bool(_look(found, lambda sock: _is_tcp(sock) and peer_of(sock)))


def _is_tcp(sock: AnySocket) -> bool:
    return sock.family in INET and sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM


def _look(found: Any, question: Callable[[AnySocket], T]) -> T | None:
    """Return the answer to a *question* about the socket that was *found*. None if it is closed, or is no socket."""
    if found is None:
        return None
    try:
        if isinstance(found, socket.socket):
            return question(found)
        with duplicate(found if isinstance(found, int) else _number_of(found)) as sock:
            return question(sock)
    except OSError as error:
        if error.errno in _NO_SOCKET:
            return None
        raise


def _number_of(thing: Any) -> int:
    try:
        return int(thing.fileno())
    except Exception:  # a client's own error: it is closed
        return -1


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
        if inspect.iscoroutine(closing):
            finish(closing)  # blocking code can't await it, but some have nothing to wait for


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
