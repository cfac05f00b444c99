"""Where the socket is in what a client's connection factory returns."""

import inspect
import socket
from types import ModuleType
from typing import Any

# Where clients keep their socket: redis-py, PyMySQL · http.client, urllib3, pymemcache · trio, ldap3 ·
# redis.asyncio, aiomysql · mysql-connector · pg8000 · asyncpg · websockets · SQLAlchemy.
_PLACES = (
    "_sock",
    "sock",
    "socket",
    "_writer",
    "_socket",
    "_usock",
    "_transport",
    "transport",
    "connection",
    "dbapi_connection",
)
# A socket may be that many objects deep: SQLAlchemy's connection, the driver's, its stream, its socket.
_DEPTH = 4


def socket_of(connection: Any) -> Any:
    """Return the socket, or descriptor, in *connection*, or None where there is none to be found.

    Only attributes that *connection* really has are asked for: a MongoClient makes a database of
    any name.
    """
    if isinstance(connection, int) and not isinstance(connection, bool):
        return connection
    return _within(connection, _DEPTH)


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
        inner = [_own(thing, name) for name in _PLACES]
    return next((found for each in inner if (found := _within(each, depth - 1)) is not None), None)


def _own(thing: Any, name: str) -> Any:
    if inspect.getattr_static(thing, name, None) is None:
        return None
    try:
        return getattr(thing, name)
    except Exception:  # a property that has its conditions
        return None


def close(connection: Any) -> Any:
    """Close what a factory returned: the thing itself, or the writer of a (reader, writer) pair.

    Return what must be awaited for it, if anything.
    """
    things = list(connection) if issubclass(type(connection), tuple) else [connection]
    for thing in things:
        for name in ("aclose", "close"):
            if callable(closing := getattr(thing, name, None)):
                return closing()
    return None
