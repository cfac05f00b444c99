"""`wrap`: any client's connection factory, guarded, checked and retried."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, get_args, get_origin, overload

from safedial._address import Address, checked
from safedial._clients.awaitables import wait
from safedial._clients.call import Call, called
from safedial._clients.classes import calling_class, driver_class
from safedial._clients.drivers import finder_for, no_addresses
from safedial._clients.factories import Factory, Finder
from safedial._clients.marks import mark
from safedial._clients.refusals import check_factory, takes_one
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy
from safedial.events import OnEvent, check_hook

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@overload
def wrap(
    factory: "functools.partial[T]",
    *,
    policy: PolicyArgument = ...,
    address: Address | Callable[..., Address] | None = ...,
    on_event: OnEvent | None = ...,
) -> Callable[..., T]: ...


@overload
def wrap(
    factory: F,
    *,
    policy: PolicyArgument = ...,
    address: Address | None = ...,
    on_event: OnEvent | None = ...,
) -> F: ...


@overload
def wrap(
    factory: Callable[P, T],
    *,
    policy: PolicyArgument = ...,
    address: Callable[P, Address],
    on_event: OnEvent | None = ...,
) -> Callable[P, T]: ...


@takes_one
def wrap(
    factory: Any,
    *,
    policy: PolicyArgument = DEFAULT,
    address: Address | Callable[..., Address] | None = None,
    on_event: OnEvent | None = None,
) -> Any:
    """Return *factory*, any client's connection factory, made safe: guarded, checked and retried.

    Each call runs inside `guard`. If it still returns a connection to itself, the connection is closed, and counts as
    refused. The drivers PyMySQL, mysql-connector, mysqlclient, aiomysql, asyncmy, psycopg, psycopg2, asyncpg and pg8000
    are known: if one dials in C, or in asyncio's loop or uvloop, its address is found in the arguments, and the port is
    held, as by `hold`. The connection is then not in a server's way, either, if it shows its socket.

    =================  ====================================================================
    psycopg            ``connect = wrap(psycopg.connect)``
    psycopg, async     ``connect = wrap(psycopg.AsyncConnection.connect)``
    psycopg_pool       ``ConnectionPool(connection_class=wrap(psycopg.Connection))``
    asyncpg            ``connect = wrap(asyncpg.connect)``
    asyncpg's pool     ``create_pool(connect=wrap(asyncpg.connect))``
    PyMySQL            ``connect = wrap(pymysql.connect)``
    pika               ``connect = wrap(pika.BlockingConnection)``
    websockets         ``async for connection in wrap(websockets.connect)(uri): ...``
    another function   ``connect = wrap(connect)``; if it dials in C, with *address*
    =================  ====================================================================

    A client or pool that dials when it is used is refused, in words that name the right line: ``protect()`` of the
    client's adapter (`safedial.adapters`), or `install` (pymongo, kafka, aiomysql's pool). A WARNING in the log, once
    for each factory, says that in a call nothing was guarded: no connect was seen, and no port was held. Give *address*
    if it dials in C, and call `install` if it dials in threads of its own. All is well if it only returns a connection
    that was open already. Another WARNING says that a client which was used in the call will dial again by itself,
    unguarded: protect it in the factory. With `install` in force nothing is warned of or refused for these reasons.

    What a connection of these drivers dials later is as safe as the first dial, under *policy*: PyMySQL's
    ``ping(reconnect=True)``, aiomysql's ``ping()``, ``reconnect()`` of mysql-connector, mysqlclient's ``ping(True)``.
    Except the automatic reconnects of mysqlclient, in any command that follows ``ping(True)``: `hold` the port for as
    long as the connection lives. Those of asyncmy need `install`.

    Args:
        factory: a function, class, coroutine function or `functools.partial` that connects. Its arguments, results and
            errors stay the same. A class becomes a subclass: of a driver's class with a method ``connect``, whatever
            connects is safe, else each call of the class. A result that dials when it is awaited or entered, such as
            that of `websockets.connect` or of a function of `contextlib`, is guarded and retried then. If it is used in
            ``async for``, its own policy decides, and *policy* does not count.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another call. It sees the error of
            *factory*; safedial's predicates look for the kernel's error behind it, and know what servers say while they
            start, stop or are full. What must be fixed, such as a wrong password, is never retried. If the client has
            a list of servers, each call turns to all of them. *factory* is called again as a whole, so it must not
            also send what must not be sent twice. Default: `redial()`. None: one call.
        address: the (host, port) that *factory* dials, or a function that takes the call's arguments and returns it.
            The port is held, for other C libraries (pycurl, uvloop) and for addresses that only a driver can find (a
            service file). Default: None, as above.
        on_event: called with each `DialEvent` of a call: ``connected``, ``failed``, ``self_connect``, ``retry``,
            ``gave_up``. Each round is one attempt. If it raises an Exception, that is logged once. In ``async for`` it
            is called as by `guard`. Default: None.

    Raises:
        TypeError, ValueError: *factory* can't be guarded, is wrapped already, or an argument is wrong; the message
            names the argument and what to do. A call raises TypeError if what it returned shows that nothing was
            guarded; that client is closed.

    Example::

        connect = safedial.wrap(psycopg.connect, policy=safedial.reconnect())
        with connect("postgresql://app@db/app") as connection:
            ...
    """
    check_factory("factory", factory)
    check_policy(policy)
    check_hook(on_event)
    if address is not None and not callable(address):
        checked(address, 0)
    options: dict[str, Any] = {"policy": policy, "address": address, "on_event": on_event}
    if isinstance(get_origin(factory), type):  # such as psycopg.Connection[DictRow]
        generic: Any = wrap(get_origin(factory), **options)
        return generic[get_args(factory)]
    find = (finder_for(factory) or no_addresses) if address is None else functools.partial(_given, address)
    return mark(_safe(Factory(factory, find, on_event, argument="factory"), policy), policy)


def _safe(factory: Factory, policy: Any) -> Any:
    """Return a safe function, or for a class a safe class."""
    kind = factory.make
    if isinstance(kind, type):
        if finder_for(kind) and hasattr(kind, "connect"):
            return driver_class(factory, functools.partial(_function, policy=policy))
        with contextlib.suppress(
            Exception
        ):  # some can't have subclasses: TypeError in C, anything in __init_subclass__
            return calling_class(factory, functools.partial(called, factory, policy))
    return _function(factory, policy)


def _given(address: Any, /, *args: Any, **kwds: Any) -> Iterable[Address]:
    target: Any = address(*args, **kwds) if callable(address) else address
    checked(target, 0)
    return [target]


def wrapped(
    factory: Callable[..., Any], find: Finder, policy: Any, on_event: OnEvent | None = None
) -> Callable[..., Any]:
    """Return *factory* as `wrap` does, for the adapters. The ports of the addresses that *find* returns are held."""
    return _function(Factory(factory, find, on_event), policy)


def _function(factory: Factory, policy: Any) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(factory.make):

        @functools.wraps(factory.make)
        async def connect_async(*args: Any, **kwds: Any) -> Any:
            return await Call(factory, args, kwds, blocking=False).dial(policy, wait)

        return connect_async

    @functools.wraps(factory.make)
    def connect(*args: Any, **kwds: Any) -> Any:
        return called(factory, policy, factory.make, args, kwds)

    return connect
