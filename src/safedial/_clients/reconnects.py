"""Connections of database drivers that dial again by a method of their own, such as ``reconnect()``: made safe too."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from safedial._address import Address
from safedial._clients.drivers import FINDERS
from safedial._clients.factories import Finder

# Takes a function that dials, and the finder for its arguments. Returns the function, made safe.
Wrapped: TypeAlias = Callable[[Callable[..., Any], Finder], Callable[..., Any]]

# Private: by the module of the connection's class, the method that all its later dials come to (mysql-connector 9.0 to
# 9.1, aiomysql 0.2 to 0.3). The one of mysql.connector.aio is public. mysqlclient's ping(True) dials in C.
_METHODS = {
    "mysql.connector.connection": "_open_connection",
    "mysql.connector.connection_cext": "_open_connection",
    "mysql.connector.aio.connection": "connect",
    "aiomysql.connection": "_connect",
    "MySQLdb.connections": "ping",
}


def guard_reconnects(connection: Any, addresses: Iterable[Address], wrapped: Wrapped) -> None:
    """Let *connection* dial again by what *wrapped* makes of its method, if it is of a driver that does so.

    *addresses* are those of its first dial, for a driver that does not tell where it dials.
    """
    if type(connection).__module__ == "mysql.connector.pooling":
        connection = connection._cnx  # Private: what stands behind a pooled connection
    kind = connection.__class__
    method = next((_METHODS[each.__module__] for each in kind.__mro__ if each.__module__ in _METHODS), None)
    if method is None or method in vars(connection):
        return
    plain: Any = getattr(kind, method)
    # Weak, or the connection would refer to itself, and its socket would wait for the garbage collector.
    own = weakref.ref(connection)

    def dial(*args: Any, **kwds: Any) -> Any:
        return plain(own(), *args, **kwds)

    def find(*_: Any, **__: Any) -> Iterable[Address]:
        # Private: mysql-connector and aiomysql have these names for what they were given.
        there: Any = own()
        if not hasattr(there, "_host"):
            return addresses
        return FINDERS["mysql"](host=there._host, port=there._port, unix_socket=there._unix_socket)

    dial.__module__, dial.__qualname__ = kind.__module__, f"{kind.__qualname__}.{method}"  # for the log
    safe = wrapped(dial, find)
    setattr(connection, method, _pinging(dial, safe) if method == "ping" else safe)


def _pinging(plain: Callable[..., Any], safe: Callable[..., Any]) -> Callable[..., Any]:
    def ping(*reconnect: Any) -> Any:
        return safe(*reconnect) if any(reconnect) else plain()  # without a dial, nothing is tried again

    return ping
