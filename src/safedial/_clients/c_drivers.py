"""Drivers that dial in C, and uvloop: the port that they dial is held while they do, and servers may bind the port that
they drew. For `install`.

What is replaced lies below the public names of each driver. So functions and classes stay what they are, and the port
is held also for names that were imported before.
"""

import contextlib
import socket
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from safedial import _clock
from safedial._address import Address, SockAddr
from safedial._clients import patch
from safedial._clients.attributes import Place
from safedial._clients.drivers import FINDERS
from safedial._clients.guard import hooks_here
from safedial._clients.hold import holding, resolved
from safedial._clients.option_files import mysql_options
from safedial._clients.sockets import let_servers_bind
from safedial._retry.transient import error_type
from safedial._steps import finish
from safedial.events import DialEvent, EventKind, tell

# --- what is held --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _held(driver: str | None, find: Callable[..., Iterable[Address]], *args: Any, **kwds: Any) -> Generator[None]:
    """Hold the ports of the addresses that *find* returns for *args* and *kwds*, and tell the hooks about *driver*."""
    addresses: list[Address] = []
    with contextlib.suppress(Exception):  # the driver reports wrong arguments
        addresses += find(*args, **kwds)
    sockaddrs = finish(resolved(addresses, blocking=True))
    with holding(sockaddrs), _told(driver, addresses, sockaddrs):
        yield


@contextlib.contextmanager
def _told(driver: str | None, addresses: Sequence[Address], sockaddrs: Sequence[SockAddr]) -> Generator[None]:
    on_events = hooks_here()
    if not on_events or not addresses or driver is None:
        yield
        return
    began = _clock.now()

    def tell_all(kind: EventKind, error: Exception | None = None) -> None:
        host, port = addresses[0]
        address = sockaddrs[0] if len(sockaddrs) == 1 else None
        seconds, named = _clock.now() - began, None if error is None else error_type(error)
        event = DialEvent(kind, host, port, address, 1, seconds, error, None, seconds, named, client=driver)
        for on_event in on_events:
            tell(on_event, event)

    try:
        yield
    except Exception as error:
        tell_all("failed", error)
        raise
    tell_all("connected")


# --- psycopg2's asynchronous connections, which dial on in poll(), a method of C -----------------------------

# extensions.STATUS_SETUP, and two that have no name in Python: CONN_STATUS_CONNECTING, CONN_STATUS_DATESTYLE.
_DIALING = frozenset({0, 20, 21})
_kept: "list[tuple[weakref.ref[Any], weakref.finalize[..., Any]]]" = []


def _keep(connection: Any, stack: contextlib.ExitStack) -> None:
    """Close *stack* once *connection* was collected; or at the next dial like this, if it has dialed by then."""
    _release(lambda each: getattr(each, "closed", True) or each.status not in _DIALING)
    try:
        end = weakref.finalize(connection, stack.close)
    except TypeError:  # made by a factory of the user's, of a class without weak references
        stack.close()
        return
    end.atexit = False
    with patch.lock:
        _kept.append((weakref.ref(connection), end))


def release_all() -> None:
    """Let go of the ports of connections that may still be dialing."""
    _release(lambda _: True)


def _release(done: Callable[[Any], bool]) -> None:
    with patch.lock:
        over = _taken_out(done)
    for _, end in over:
        end()


def _taken_out(done: Callable[[Any], bool]) -> "list[tuple[weakref.ref[Any], weakref.finalize[..., Any]]]":
    over = [each for each in _kept if done(each[0]())]
    _kept[:] = [each for each in _kept if each not in over]
    return over


# --- the drivers ---------------------------------------------------------------------------------------------


def _psycopg(plain: Any) -> Any:
    def connect(conninfo: str, *args: Any, **kwds: Any) -> Generator[Any, Any, Any]:
        # psycopg has resolved the host already, off the event loop, unless a service file has it.
        with _held("psycopg", FINDERS["psycopg"], conninfo):
            dialing: Generator[Any, Any, Any] = plain(conninfo, *args, **kwds)
            connected = yield from dialing
        let_servers_bind(connected.socket)
        return connected

    return connect


def _psycopg2(plain: Any) -> Any:
    def _connect(dsn: Any, *args: Any, **kwds: Any) -> Any:
        dials_later = kwds.get("async") or kwds.get("async_")
        with contextlib.ExitStack() as stack:
            stack.enter_context(_held(None if dials_later else "psycopg2", FINDERS["psycopg2"], dsn))
            connection = plain(dsn, *args, **kwds)
            let_servers_bind(connection)  # one that dials later has the socket of the first address
            if dials_later:
                _keep(connection, stack.pop_all())
            return connection

    return _connect


def _mysqldb(plain: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwds: Any) -> None:  # noqa: N807  # it takes the place of one
        with _held("MySQLdb", _mysqldb_addresses, *args, **kwds):
            plain(self, *args, **kwds)
        let_servers_bind(self)

    return __init__


def _mysqldb_addresses(*args: Any, **kwds: Any) -> Iterable[Address]:
    # The order of mysql_real_connect().
    names = ("host", "user", "password", "database", "port", "unix_socket")
    given = {name: value for name, value in {**kwds, **dict(zip(names, args, strict=False))}.items() if value}
    read = mysql_options(given.get("read_default_file"), given.get("read_default_group"))
    if "socket" in read:
        read["unix_socket"] = read.pop("socket")
    return FINDERS["mysqldb"](**{**read, **given})


def _mysql_connector(plain: Any) -> Any:
    def _open_connection(self: Any) -> None:
        target = {"host": self._host, "port": self._port, "unix_socket": self._unix_socket}
        with _held("mysql.connector", FINDERS["mysql"], **target):
            plain(self)  # which shows nobody its socket

    return _open_connection


def _uvloop(plain: Any) -> Any:
    async def create_connection(
        self: Any, protocol_factory: Any, host: Any = None, port: Any = None, **kwds: Any
    ) -> Any:
        infos: Any = ()
        if kwds.get("sock") is None and (host is not None or port is not None):
            with contextlib.suppress(OSError, TypeError, ValueError):  # uvloop reports them itself
                infos = await self.getaddrinfo(host, port, family=kwds.get("family") or 0, type=socket.SOCK_STREAM)
        sockaddrs = [sockaddr for *_, sockaddr in infos]
        with holding(sockaddrs), _told("uvloop" if infos else None, [(host, port)], sockaddrs):
            pair = await plain(self, protocol_factory, host, port, **kwds)
        if infos:
            let_servers_bind(pair)  # with local_addr, libuv has set the option
        return pair

    return create_connection


# By the module whose attributes are replaced.
DRIVERS: dict[str, tuple[Place, ...]] = {
    # Private: the generator below Connection and AsyncConnection, for all implementations of libpq (3.2.1 to 3.3.9).
    "psycopg.generators": (Place("connect", _psycopg),),
    # Private: what connect() calls, and itself a name of the C module (2.9.9 to 2.9.13).
    "psycopg2": (Place("_connect", _psycopg2),),
    # Private: connect() is a function, which other modules may have imported; all dials come here (2.2.0 to 2.3.2).
    "MySQLdb.connections": (Place("Connection.__init__", _mysqldb),),
    # Private: connect(), reconnect() and ping(reconnect=True) come here (9.0 to 9.1).
    "mysql.connector.connection_cext": (Place("CMySQLConnection._open_connection", _mysql_connector),),
    # sock_connect() calls the socket's own connect(), which is guarded.
    "uvloop": (Place("Loop.create_connection", _uvloop),),
}
