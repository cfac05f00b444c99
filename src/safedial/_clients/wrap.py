"""`wrap`: any client's connection factory, guarded, checked and retried."""

import contextlib
import functools
import inspect
import socket
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

from safedial._address import SockAddr, checked
from safedial._clients.awaitables import Step, dials_later, made_later, wait
from safedial._clients.failures import Failures
from safedial._clients.guard import guard
from safedial._clients.hold import Address, addresses_of, addresses_of_async, holding
from safedial._clients.sockets import close, socket_of
from safedial._deadline import NO_DEADLINE
from safedial._retry.argument import DEFAULT, Default, check_policy, policy_after
from safedial._tcp.selfconnect import RESET, duplicate, is_self_connected
from safedial.errors import SelfConnectError
from safedial.events import logger

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

P = ParamSpec("P")
T = TypeVar("T")


def wrap(
    factory: Callable[P, T],
    *,
    policy: "Policy | Literal[Default.DEFAULT] | None" = DEFAULT,
    address: Address | Callable[P, Address] | None = None,
) -> Callable[P, T]:
    """Return *factory*, any client's connection factory, made safe: guarded, checked and retried.

    It runs inside `guard`. What it returns is looked at: where that is connected to itself all the
    same, it is closed, and counts as refused.

    Args:
        factory: a function, class or coroutine function that connects, such as ``pymysql.connect``. Its
            arguments, and what it returns and raises, stay its own. What it returns may have to be
            awaited or entered first, as `websockets.connect`: that is guarded, and done again. A
            client or pool that dials later, whenever it is used, is not: see `install`.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another call. It sees
            what *factory* raised; the predicates of safedial look for the kernel's error behind it.
            Default: `redial()`. None: one call.
        address: what *factory* dials, (host, port) or a function of its arguments that returns such a
            pair. The port is held meanwhile, as by `hold`, which makes C libraries safe (libpq, grpc,
            uvloop). Default: None, nothing is held.

    Raises:
        TypeError, ValueError: an argument is of no use; the message names it.

    Example::

        connect = safedial.wrap(pymysql.connect, policy=safedial.reconnect())
        with connect(host=host, port=port, user="app") as connection:
            ...
    """
    if not callable(factory):
        raise TypeError(f"factory must be callable, not a {type(factory).__name__}")  # a URL may have a password
    check_policy(policy)
    if address is not None and not callable(address):
        checked(address, 0)
    asynchronous = inspect.iscoroutinefunction(factory)
    name = name_of(factory)

    @functools.wraps(factory)
    def connect(*args: P.args, **kwds: P.kwargs) -> T:
        target = address(*args, **kwds) if callable(address) else address
        call = _Call(name, functools.partial(factory, *args, **kwds), target, policy)
        # What a coroutine function returns is the caller's to await, as before.
        return cast("T", call.make_async() if asynchronous else call.make())

    return connect


def name_of(factory: Any) -> str:
    """Name *factory* for the log, without its arguments, which may be secrets."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    kind: Any = factory if hasattr(factory, "__qualname__") else factory.__class__
    return f"{kind.__module__}.{kind.__qualname__}"


class _Call:
    """One call of a wrapped factory, with its state, which is also what `retrying` asks for."""

    deadline = NO_DEADLINE

    def __init__(self, name: str, factory: Callable[[], Any], target: Address | None, policy: Any) -> None:
        self._name = name
        self._factory = factory
        self._target = target
        self._policy = policy
        self.round = 1
        self.started = time.monotonic()

    @property
    def target(self) -> tuple[Any, ...]:
        return (self._target,) if self._target else ()

    def retrying(self, error: Exception, wait: float) -> None:
        logger.debug("%s: attempt %d failed: %s; the next one in %.3f s", self._name, self.round, error, wait)

    def make(self) -> Any:
        """Call the factory until it has a connection, or the policy is done."""
        failures = Failures()
        try:
            returned = self._once()
        except Exception as error:
            failure: Exception = failures.keep(error)
        else:
            return self._made(returned)
        try:
            policy = policy_after(self._policy, failure)
            if policy is None:
                raise failure
            from safedial._retry import loop  # late, as it loads tenacity

            def again() -> Any:
                with failures:
                    return self._once()

            returned = loop.dial(policy, self, failure, again, Exception)
        except Exception as error:
            self._give_up(error, failures)
            raise
        finally:
            failures.clear()
            del failure  # its traceback holds this frame: break the cycle
        return self._made(returned)

    def _made(self, returned: Any) -> Any:
        later = dials_later(returned)
        return made_later(returned, functools.partial(self.make_async, first=returned)) if later else returned

    async def make_async(self, step: Step = wait, *, first: Any = None) -> Any:
        """Do as `make` does where *step* dials; *first* is what the factory has returned already."""
        failures = Failures()
        try:
            return await self._once_async(step, first)
        except Exception as error:
            failure: Exception = failures.keep(error)
        try:
            policy = policy_after(self._policy, failure)
            if policy is None:
                raise failure
            from safedial._retry import loop

            async def again() -> Any:
                with failures:
                    return await self._once_async(step)

            return await loop.dial_async(policy, self, failure, again, Exception)
        except Exception as error:
            self._give_up(error, failures)
            raise
        finally:
            failures.clear()
            del failure  # as above

    def _once(self) -> Any:
        with guard(), holding(_addresses(self._target)):
            returned: Any = self._factory()
            if not dials_later(returned):
                _check(returned)
                self._connected()
            return returned

    async def _once_async(self, step: Step, first: Any = None) -> Any:
        addresses = await _addresses_async(self._target)
        with guard():
            with holding(addresses):
                returned = await step(self._factory() if first is None else first)
            if error := _met_itself(returned):
                with contextlib.suppress(Exception):
                    closing = close(returned)
                    if inspect.isawaitable(closing):
                        await closing
                raise error
            self._connected()
            return returned

    def _connected(self) -> None:
        if self.round > 1:
            logger.info("%s: connected, attempt %d", self._name, self.round)

    def _give_up(self, error: Exception, failures: Failures) -> None:
        failures.restore(error)
        if self.round > 1:
            seconds = time.monotonic() - self.started
            error.add_note(f"safedial: gave up on {self._name} after {self.round} attempts, {seconds:.3f} s")


def _addresses(target: Address | None) -> list[tuple[int, SockAddr]]:
    with contextlib.suppress(socket.gaierror):  # which is the client's to say
        return [] if target is None else addresses_of(target)
    return []


async def _addresses_async(target: Address | None) -> list[tuple[int, SockAddr]]:
    with contextlib.suppress(socket.gaierror):  # as above
        return [] if target is None else await addresses_of_async(target)
    return []


def _check(connection: Any) -> None:
    if error := _met_itself(connection):
        with contextlib.suppress(Exception):
            closing = close(connection)
            if isinstance(closing, Coroutine):
                closing.close()  # nobody can wait for it here
        raise error


def _met_itself(connection: Any) -> SelfConnectError | None:
    """Return the error for a *connection* to itself, which will be reset when it is closed."""
    try:
        sock = socket_of(connection)
        if sock is None or not is_self_connected(sock):
            return None
        with duplicate(sock if isinstance(sock, int) else sock.fileno()) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return SelfConnectError.at(*copy.getpeername()[:2])
    except (OSError, TypeError, ValueError):
        return None  # closed already, or no socket after all
