"""`wrap`: any client's connection factory, guarded, checked and retried."""

import contextlib
import functools
import inspect
import socket
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, cast

from safedial._address import checked
from safedial._clients.awaitables import Step, dials_later, made_later, wait
from safedial._clients.drivers import DIAL_LATER, Finder, address_in, finder_for, name_of, no_addresses
from safedial._clients.failures import Failures
from safedial._clients.guard import guard
from safedial._clients.hold import Address, hold
from safedial._clients.sockets import close_async, close_quietly, self_connect_of
from safedial._forks import loading
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy, policy_after
from safedial._retry.multiple import with_shared_errno
from safedial._retry.progress import Progress
from safedial._steps import finish, in_thread, running_trio
from safedial.errors import SelfConnectError
from safedial.events import EventKind, OnEvent, check_hook, logger

P = ParamSpec("P")
T = TypeVar("T")


def wrap(
    factory: Callable[P, T],
    *,
    policy: PolicyArgument = DEFAULT,
    address: Address | Callable[P, Address] | None = None,
    on_event: OnEvent | None = None,
) -> Callable[P, T]:
    """Return *factory*, any client's connection factory, made safe: guarded, checked and retried.

    Each call runs inside `guard`. If it still returns a connection to itself, the connection is closed, and counts as
    refused. The drivers PyMySQL, mysql-connector, mysqlclient, aiomysql, asyncmy, psycopg, psycopg2, asyncpg and pg8000
    are known: if one dials in C, or in asyncio's loop or uvloop, its address is found in the arguments, and the port is
    held, as by `hold`.

    ===============  =====================================================================================
    a driver         ``wrap(pymysql.connect)``; also makes ``ping(reconnect=True)`` safe
    psycopg, async   ``wrap(psycopg.AsyncConnection.connect)``
    psycopg_pool     ``ConnectionPool(connection_class=wrap(psycopg.Connection))``
    asyncpg's pool   ``create_pool(connect=wrap(asyncpg.connect))``
    aiomysql's pool  `install`; likewise pymongo, which dials in threads of its own
    SQLAlchemy       `safedial.adapters.sqlalchemy.protect`
    ===============  =====================================================================================

    Args:
        factory: a function, class, coroutine function or `functools.partial` that connects. Its arguments, results and
            errors stay the same. A result that dials when it is awaited, or entered by ``async with``, such as that of
            `websockets.connect`, is guarded and retried too. A client or pool that dials when it is used is not: see
            `install`. A driver's class with a method ``connect`` becomes a subclass that is safe whenever it connects.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another call. It sees the error of
            *factory*; safedial's predicates look for the kernel's error behind it, and know what servers say while they
            start, stop or are full. What must be fixed, such as a wrong password, is never retried. If the client has
            a list of servers, each call turns to all of them. *factory* is called again as a whole, so it must not
            also send what must not be sent twice. Default: `redial()`. None: one call.
        address: the (host, port) that *factory* dials, or a function that takes the call's arguments and returns it.
            The port is held, for other C libraries (grpc, uvloop) and for addresses that only a driver can find (a
            service file). Default: None, as above.
        on_event: called with each `DialEvent` of a call: ``connected``, ``failed``, ``self_connect``, ``retry``,
            ``gave_up``. Each round is one attempt. If it raises an Exception, that is logged once. Default: None.

    Raises:
        TypeError, ValueError: *factory* is pymongo's or makes a pool, or an argument is wrong; the message names it.

    Example::

        connect = safedial.wrap(psycopg.connect, policy=safedial.reconnect())
        with connect("postgresql://app@db/app") as connection:
            ...
    """
    if not callable(factory):
        raise TypeError(f"factory must be callable, not a {type(factory).__name__}")  # a URL may have a password
    check_policy(policy)
    check_hook(on_event)
    known = finder_for(factory)
    if address is not None and not callable(address):
        checked(address, 0)
    find = (known or no_addresses) if address is None else functools.partial(_given, address)
    if known and isinstance(factory, type) and hasattr(factory, "connect"):
        return cast("Callable[P, T]", _safe_class(factory, find, policy, on_event))
    return cast("Callable[P, T]", wrapped(factory, find, policy, on_event))


def _given(address: Any, /, *args: Any, **kwds: Any) -> Iterable[Address]:
    target: Any = address(*args, **kwds) if callable(address) else address
    checked(target, 0)
    return [target]


def _safe_class(kind: type, find: Finder, policy: Any, on_event: OnEvent | None) -> type:
    """Return a subclass of *kind* whose ``connect`` is wrapped."""
    dial: Any = inspect.getattr_static(kind, "connect")

    def find_for(connection: Any, /, *args: Any, **kwds: Any) -> Iterable[Address]:
        if hasattr(connection, "server_host"):  # mysql-connector's: reconnect() gives no arguments
            kwds = {"host": connection.server_host, "port": connection.server_port} | kwds
        return find(*args, **kwds)

    safe: Any = wrapped(getattr(dial, "__func__", dial), find_for, policy, on_event)
    safe = classmethod(safe) if isinstance(dial, classmethod) else safe
    return type(kind.__name__, (kind,), {"connect": safe, "__doc__": kind.__doc__, "__module__": kind.__module__})


def wrapped(
    factory: Callable[..., Any], find: Finder, policy: Any, on_event: OnEvent | None = None
) -> Callable[..., Any]:
    """Return *factory*, guarded, checked and retried. The ports of the addresses that *find* returns are held."""
    asynchronous = inspect.iscoroutinefunction(factory)

    @functools.wraps(factory)
    def connect(*args: Any, **kwds: Any) -> Any:
        call = Call(factory, find, args, kwds, on_event, asynchronous=asynchronous)
        if asynchronous:
            return call.dial(policy, wait)
        returned: Any = finish(call.dial(policy, None))
        return made_later(returned, functools.partial(call.dial, policy, first=returned))

    return connect


class Call(Progress):
    """One call of a wrapped factory, made in rounds."""

    # In blocking code, what is made of the factory's result before the guard ends.
    take: Callable[[Any], Any] | None = None

    def __init__(
        self,
        factory: Callable[..., Any],
        find: Finder,
        args: tuple[Any, ...],
        kwds: dict[str, Any],
        on_event: OnEvent | None,
        *,
        asynchronous: bool,
    ) -> None:
        self.client = name_of(factory)
        self.on_event = on_event
        if asynchronous and (trio := running_trio()) is not None:
            self.clock = trio.current_time
        self.started = self.clock()
        self._factory = functools.partial(factory, *args, **kwds)
        self._find = functools.partial(find, *args, **kwds)
        self._addresses: tuple[Address, ...] = ()
        self.host, self.port = address_in(factory, args, kwds)

    def find_addresses(self) -> None:
        """Find the addresses whose ports are held. An error of the user's own function ends the dial."""
        self._addresses = self._addresses or tuple(self._find())
        if self._addresses:
            host, self.port = self._addresses[0]
            self.host = host.rpartition("@")[2] if isinstance(host, str) else host  # as in address_in

    async def dial(self, policy: Any, step: Step | None, first: Any = None) -> Any:
        """Return a connection, or raise once the policy is done. The arguments are those of `one_round`."""
        self.find_addresses()
        failures = Failures()
        once = functools.partial(self.one_round, failures, step)
        try:
            return await once(first)
        except Exception as error:
            decides = policy_after(policy, error)
            self.asked = decides is not None and policy is not DEFAULT
            failure: Exception = error
        try:
            if decides is None:
                raise failure
            with loading:  # which loads tenacity
                from safedial._retry import loop

            # No name for the Retries here: it holds the last error, whose traceback holds this frame.
            return await loop.rounds(loop.Retries(decides, self), self, failure, once, Exception, blocking=step is None)
        except Exception as error:
            failures.restore(error)
            raise self.outcome(error)  # noqa: B904  # it is *error*
        finally:
            failures.clear()
            del failure  # its traceback holds this frame: break the cycle

    async def one_round(self, failures: Failures, step: Step | None, first: Any = None) -> Any:
        """Return a connection.

        If *step* is None, block, and return an object that dials later unchanged. *first* is such an object, which the
        first round uses in place of a call.
        """
        began = self.clock()
        try:
            returned = await self._connected(step, first)
        except Exception as raised:
            error = with_shared_errno(raised)
            failures.detach(error)
            if self.observed:
                kind: EventKind = "self_connect" if isinstance(error, SelfConnectError) else "failed"
                self.report(kind, error=error, duration=self.clock() - began)
            try:
                if error is not raised:
                    raise error from None
                raise
            finally:
                del error  # its traceback holds this frame: break the cycle
        if self.observed and not (step is None and dials_later(returned)):
            try:
                self.connected(None, self.clock() - began)
            except BaseException:  # a hook was interrupted
                if step is None:
                    close_quietly(returned)
                else:
                    await close_async(returned, at_once=True)
                raise
        return returned

    async def _connected(self, step: Step | None, first: Any) -> Any:
        # This call does not dial yet, and is made in a loop, which a resolver must not block.
        later = step is None and self.client is not None and self.client.partition(".")[0] in DIAL_LATER
        with guard(), contextlib.ExitStack() as stack:
            for address in () if later else self._addresses:
                await _hold(address, stack, blocking=step is None)
            returned = self._factory() if first is None else first
            if step is not None:
                returned = await step(returned)
            elif self.take is not None:
                returned = self.take(returned)
            elif dials_later(returned):
                return returned
        if error := self_connect_of(returned):
            if step is None:
                close_quietly(returned)
            else:
                await close_async(returned, at_once=True)
            logger.warning("%s", error.strerror)
            raise error
        return returned


async def _hold(address: Any, stack: contextlib.ExitStack, *, blocking: bool) -> None:
    """Hold the port of *address* until *stack* is closed. The client reports a wrong or unknown address."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        host, port, numeric = checked(address, 0)
        if blocking or numeric:
            stack.enter_context(hold(address))
            return
        for *_, sockaddr in await in_thread(functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)):
            stack.enter_context(hold(cast("Address", sockaddr[:2])))
