"""Databases: one line makes a driver's connection factory safe, whether it dials in Python or in C.

Drivers that dial in Python run under the guard. For those that dial in C (psycopg, psycopg2, mysqlclient,
mysql-connector's extension), and for asyncio's, whose loop may be uvloop, the address is found in the
arguments, and its port held meanwhile. SQLAlchemy has `safedial.adapters.sqlalchemy`.

=================  ============================================================================
PyMySQL            ``connect = databases.wrap(pymysql.connect)``, ``ping(reconnect=True)`` included
mysql-connector    ``connect = databases.wrap(mysql.connector.connect)``, and ``mysql.connector.aio.connect``
mysqlclient        ``connect = databases.wrap(MySQLdb.connect)``
aiomysql           ``connect = databases.wrap(aiomysql.connect)``; a pool: `safedial.install`
psycopg            ``connect = databases.wrap(psycopg.connect)``, and ``psycopg.AsyncConnection.connect``
psycopg_pool       ``ConnectionPool(connection_class=databases.wrap(psycopg.Connection))``
psycopg2           ``connect = databases.wrap(psycopg2.connect)``
asyncpg            ``connect = databases.wrap(asyncpg.connect)``, ``asyncpg.create_pool(connect=connect)``
pg8000             ``connect = databases.wrap(pg8000.connect)``
pymongo            ``safedial.install()``, once: it dials in threads of its own, whenever it likes
=================  ============================================================================
"""

import errno
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

import safedial
from safedial._address import SockAddr, checked
from safedial._clients.hold import Address, addresses_of, addresses_of_async, holding
from safedial._clients.wrap import name_of
from safedial._retry.argument import DEFAULT, Default
from safedial.adapters._drivers import FINDERS, Finder, guarded_alone

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

__all__ = ["wrap"]

P = ParamSpec("P")
T = TypeVar("T")


def wrap(
    factory: Callable[P, T],
    *,
    policy: "Policy | Literal[Default.DEFAULT] | None" = DEFAULT,
    address: Address | Callable[P, Address] | None = None,
) -> Callable[P, T]:
    """Return *factory*, a database driver's connect(), made safe; see this module's table.

    Arguments, result and errors stay the driver's. Where nobody listens, its own error comes out, for a
    connection to itself too, and the port is free.

    Args:
        factory: the driver's function, a `functools.partial` of it, or a connection class that has
            ``connect``. A class is returned as a subclass that is safe whenever it connects:
            PyMySQL's, mysql-connector's, psycopg's for pools.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying`, as for `safedial.wrap`. libpq tells
            the kernel's error in words alone: it is put behind psycopg's, as its cause, so that
            `safedial.reconnect` knows it. That PostgreSQL is "starting up" is its own answer, which
            nobody retries unless the policy says so. Default: `redial()`.
        address: what is dialed, (host, port) or a function of the arguments that returns such a pair,
            where it is in a file that only the driver reads (a service file, an option file).
            Default: None, it is looked for in the arguments, and in PGHOST and the like.

    Raises:
        TypeError: *factory* is no driver's that is known here, or pymongo's; another argument is of
            no use. The message names it.
        ValueError: likewise.

    Example::

        connect = databases.wrap(psycopg.connect, policy=safedial.reconnect())
        with connect("postgresql://app@db/app") as connection:
            ...
    """
    driver = _driver(factory)
    safedial.wrap(factory, policy=policy, address=address)  # which checks them
    find = FINDERS[driver] if address is None else _given(address)
    made: Any = factory
    if isinstance(made, type) and hasattr(made, "connect"):
        return cast("Callable[P, T]", _safe_class(made, find, policy))
    asynchronous = inspect.iscoroutinefunction(made) or driver == "aiomysql"
    safe = safedial.wrap(held(made, _after(made, find), asynchronous), policy=policy)
    return cast("Callable[P, T]", _can_be_entered(safe) if driver == "aiomysql" else safe)


def _driver(factory: Any) -> str:
    inner = factory
    while isinstance(inner, functools.partial):
        inner = inner.func
    driver = str(getattr(inner, "__module__", "")).partition(".")[0].lower()
    if driver in ("pymongo", "motor"):
        raise TypeError(
            f"factory: {name_of(inner)} dials in threads of its own: call safedial.install(), once, instead"
        )
    if name_of(inner).endswith("create_pool"):
        raise TypeError(
            f"factory: {name_of(inner)} makes a pool, which dials whenever it likes: "
            "see the table of safedial.adapters.databases"
        )
    if driver not in FINDERS:
        raise TypeError(f"factory must be the connect() of a known driver, not {name_of(inner)}: see safedial.wrap")
    return driver


def _safe_class(kind: type, find: Finder, policy: Any) -> type:
    dial: Any = inspect.getattr_static(kind, "connect")
    on_class = isinstance(dial, classmethod)
    dial = cast("classmethod[Any, Any, Any]", dial).__func__ if on_class else dial

    def find_for(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:
        # mysql-connector's reconnect() has no arguments: the address is where the first ones put it.
        known = {} if on_class else {"host": args[0].server_host, "port": args[0].server_port}
        return find(args[1:], known | dict(kwds))

    pure = find is guarded_alone
    connect = held(dial, find if pure else find_for, inspect.iscoroutinefunction(dial))
    safe: Any = safedial.wrap(connect, policy=policy)
    members = {
        "connect": classmethod(safe) if on_class else safe,
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
    }
    return type(kind.__name__, (kind,), members)


def _can_be_entered(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Let what *connect* returns be awaited and entered, as what aiomysql.connect() returns."""
    # Private: aiomysql.utils._ConnectionContextManager, what aiomysql.connect() returns.
    from aiomysql.utils import _ConnectionContextManager  # type: ignore[import-untyped,unused-ignore]  # some have types for it

    @functools.wraps(connect)
    def entered(*args: Any, **kwds: Any) -> Any:
        return _ConnectionContextManager(connect(*args, **kwds))

    return entered


def held(factory: Callable[..., Any], find: Finder, asynchronous: bool = False) -> Callable[..., Any]:
    """Return *factory* with the ports of what *find* finds held while it runs, once it is awaited."""
    if asynchronous:

        @functools.wraps(factory)
        async def connect_async(*args: Any, **kwds: Any) -> Any:
            with holding(await _resolved_async(find(args, kwds))), _KernelsWord():
                return await factory(*args, **kwds)

        return connect_async

    @functools.wraps(factory)
    def connect(*args: Any, **kwds: Any) -> Any:
        with holding(_resolved(find(args, kwds))), _KernelsWord():
            return factory(*args, **kwds)

    return connect


# An address that is none, or that nobody knows, is the driver's to refuse.
_UNKNOWN = OSError, TypeError, ValueError


def _resolved(addresses: Iterable[Address]) -> list[tuple[int, SockAddr]]:
    found: list[tuple[int, SockAddr]] = []
    for address in addresses:
        with suppress(*_UNKNOWN):
            found += addresses_of(address)
    return found


async def _resolved_async(addresses: Iterable[Address]) -> list[tuple[int, SockAddr]]:
    found: list[tuple[int, SockAddr]] = []
    for address in addresses:
        with suppress(*_UNKNOWN):
            found += await addresses_of_async(address)
    return found


class _KernelsWord:
    """Puts the kernel's error behind libpq's, which has it in words alone, for policies to see."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or error.__cause__ or not type(error).__module__.startswith("psycopg"):
            return
        said = str(error)
        code = next((code for code in _TRANSIENT if os.strerror(code) in said), None)
        if code is not None:
            error.__cause__ = OSError(code, os.strerror(code))
        elif "timeout expired" in said:
            error.__cause__ = TimeoutError(said)


_TRANSIENT = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)


def _given(address: Address | Callable[..., Address]) -> Finder:
    def find(args: Sequence[Any], kwds: Mapping[str, Any]) -> Iterable[Address]:
        target = address(*args, **kwds) if callable(address) else address
        checked(target, 0)
        return [target]

    return find


def _after(factory: Any, find: Finder) -> Finder:
    """Return *find* for the arguments that *factory* gets, a `functools.partial`'s own included."""
    if not isinstance(factory, functools.partial):
        return find
    return lambda args, kwds: find((*factory.args, *args), {**factory.keywords, **kwds})
