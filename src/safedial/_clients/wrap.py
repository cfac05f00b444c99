"""`wrap`: any client's connection factory, guarded, checked and retried."""

import contextlib
import functools
import inspect
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar, cast

from safedial._address import checked
from safedial._clients.awaitables import Step, dials_later, made_later, wait
from safedial._clients.drivers import DIAL_LATER, Finder, finder_for, name_of, no_addresses
from safedial._clients.failures import Failures
from safedial._clients.guard import guard
from safedial._clients.hold import Address, hold
from safedial._clients.sockets import close, self_connect_of
from safedial._deadline import NO_DEADLINE, Deadline
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy, policy_after
from safedial._steps import finish
from safedial.events import logger

P = ParamSpec("P")
T = TypeVar("T")


def wrap(
    factory: Callable[P, T],
    *,
    policy: PolicyArgument = DEFAULT,
    address: Address | Callable[P, Address] | None = None,
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
            errors stay the same. A result that dials when it is awaited or entered, such as that of
            `websockets.connect`, is guarded and retried too. A client or pool that dials when it is used is not: see
            `install`. A driver's class with a method ``connect`` becomes a subclass that is safe whenever it connects.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another call. It sees the error of
            *factory*; safedial's predicates look for the kernel's error behind it. A server's answer, such as
            PostgreSQL's "starting up", is not retried unless the policy says so. Default: `redial()`. None: one call.
        address: the (host, port) that *factory* dials, or a function that takes the call's arguments and returns it.
            The port is held, for other C libraries (grpc, uvloop) and for addresses that only a driver can find (a
            service file). Default: None, as above.

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
    known = finder_for(factory)
    if address is not None and not callable(address):
        checked(address, 0)
    find = (known or no_addresses) if address is None else functools.partial(_given, address)
    if known and isinstance(factory, type) and hasattr(factory, "connect"):
        return cast("Callable[P, T]", _safe_class(factory, find, policy))
    return cast("Callable[P, T]", wrapped(factory, find, policy))


def _given(address: Any, /, *args: Any, **kwds: Any) -> Iterable[Address]:
    target: Any = address(*args, **kwds) if callable(address) else address
    checked(target, 0)
    return [target]


def _safe_class(kind: type, find: Finder, policy: Any) -> type:
    """Return a subclass of *kind* whose ``connect`` is wrapped."""
    dial: Any = inspect.getattr_static(kind, "connect")

    def find_for(connection: Any, /, *args: Any, **kwds: Any) -> Iterable[Address]:
        if hasattr(connection, "server_host"):  # mysql-connector's: reconnect() gives no arguments
            kwds = {"host": connection.server_host, "port": connection.server_port} | kwds
        return find(*args, **kwds)

    safe: Any = wrapped(getattr(dial, "__func__", dial), find_for, policy)
    safe = classmethod(safe) if isinstance(dial, classmethod) else safe
    return type(kind.__name__, (kind,), {"connect": safe, "__doc__": kind.__doc__, "__module__": kind.__module__})


def wrapped(factory: Callable[..., Any], find: Finder, policy: Any) -> Callable[..., Any]:
    """Return *factory*, guarded, checked and retried. The ports of the addresses that *find* returns are held."""
    asynchronous = inspect.iscoroutinefunction(factory)
    name = name_of(factory)

    @functools.wraps(factory)
    def connect(*args: Any, **kwds: Any) -> Any:
        call = _Call(name, functools.partial(factory, *args, **kwds), functools.partial(find, *args, **kwds), policy)
        if asynchronous:
            return call.dial(wait)
        returned: Any = finish(call.dial(None))
        return made_later(returned, functools.partial(call.dial, first=returned))

    return connect


@dataclass
class _Call:
    """One call of a wrapped factory, made in rounds; implements `safedial._retry.loop.Rounds`."""

    name: str
    factory: Callable[[], Any]
    find: Callable[[], Iterable[Address]]
    policy: Any
    target: tuple[Address, ...] = ()
    round: int = 1
    started: float = field(default_factory=time.monotonic)
    deadline: Deadline = NO_DEADLINE

    def retrying(self, error: Exception, wait: float) -> None:
        logger.debug("%s: round %d failed: %s; next round in %.3f s", self.name, self.round, error, wait)

    async def dial(self, step: Step | None, first: Any = None) -> Any:
        """Return a connection, or raise once the policy is done.

        If *step* is None, block, and return an object that dials later unchanged. *first* is such an object, which the
        first round uses in place of a call.
        """
        self.target = self.target or tuple(self.find())
        failures = Failures()

        async def dial_once(first: Any = None) -> Any:
            try:
                return await self._round(step, first)
            except Exception as error:
                failures.detach(error)
                raise

        try:
            return await dial_once(first)
        except Exception as error:
            policy = policy_after(self.policy, error)
            failure: Exception = error
        try:
            if policy is None:
                raise failure
            from safedial._retry import loop  # late, because it loads tenacity

            return await loop.rounds(policy, self, failure, dial_once, Exception, blocking=step is None)
        except Exception as error:
            failures.restore(error)
            if self.round > 1:
                seconds = time.monotonic() - self.started
                error.add_note(f"safedial: gave up on {self.name} after {self.round} rounds, {seconds:.3f} s")
            raise
        finally:
            failures.clear()
            del failure  # its traceback holds this frame: break the cycle

    async def _round(self, step: Step | None, first: Any) -> Any:
        # This call does not dial yet, and is made in a loop, which a resolver must not block.
        later = step is None and self.name.partition(".")[0] in DIAL_LATER
        with guard(), contextlib.ExitStack() as stack:
            for address in () if later else self.target:
                await _hold(address, stack, blocking=step is None)
            returned = self.factory() if first is None else first
            if step is not None:
                returned = await step(returned)
            elif dials_later(returned):
                return returned
        if error := self_connect_of(returned):
            with contextlib.suppress(Exception):
                closing = close(returned)
                if step is not None and inspect.isawaitable(closing):
                    await closing
                elif isinstance(closing, Coroutine):
                    closing.close()  # a blocking caller can't await it
            logger.warning("%s", error.strerror)
            raise error
        if self.round > 1:
            logger.info("%s: connected in round %d", self.name, self.round)
        return returned


async def _hold(address: Any, stack: contextlib.ExitStack, *, blocking: bool) -> None:
    """Hold the port of *address* until *stack* is closed. The client reports a wrong or unknown address."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        host, port, numeric = checked(address, 0)
        if blocking or numeric:
            stack.enter_context(hold(address))
            return
        import asyncio  # late: only programs that use asyncio get here

        for info in await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM):
            stack.enter_context(hold(cast("Address", info[4][:2])))
