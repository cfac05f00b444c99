"""`wrap`: any client's connection factory, guarded, checked and retried."""

import contextlib
import functools
import inspect
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, cast

from safedial.addresses import checked
from safedial.deadline import NO_DEADLINE
from safedial.errors import SelfConnectError
from safedial.events import logger
from safedial.finding import close, socket_of
from safedial.guarding import guard
from safedial.holding import hold, holding
from safedial.selfconnect import RESET, duplicate, is_self_connected
from safedial.settings import DEFAULT, Default, check_policy, policy_after

if TYPE_CHECKING:
    from safedial.settings import Policy

P = ParamSpec("P")
T = TypeVar("T")

Address: TypeAlias = tuple[str | bytes | None, int | str | None]


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
            arguments, and what it returns and raises, stay its own. A function that returns a
            coroutine is awaited.
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
        raise TypeError(f"factory must be callable, not {factory!r}")
    check_policy(policy)
    if address is not None and not callable(address):
        checked(address, 0)
    asynchronous = inspect.iscoroutinefunction(factory)

    @functools.wraps(factory)
    def connect(*args: P.args, **kwds: P.kwargs) -> T:
        target = address(*args, **kwds) if callable(address) else address
        name = f"{getattr(factory, '__module__', '')}.{getattr(factory, '__qualname__', repr(factory))}"
        call = _Call(name, functools.partial(factory, *args, **kwds), target, policy)
        # What a coroutine function returns is the caller's to await, as before.
        return cast("T", call.make_async() if asynchronous else call.make())

    return connect


class _Call:
    """One call of a wrapped factory, with its state, which is also what `retrying` asks for."""

    deadline = NO_DEADLINE

    def __init__(self, name: str, factory: Callable[[], Any], target: Address | None, policy: Any) -> None:
        self._name = name
        self._factory = factory
        self._target = target
        self._policy = policy
        self.attempt = 1
        self.started = time.monotonic()
        # What the caller is handling, if anything: an error that is raised meanwhile did not come from it.
        self._handled = sys.exception()
        self._failed: tuple[Exception, BaseException | None] | None = None

    @property
    def target(self) -> tuple[Any, ...]:
        return (self._target,) if self._target else ()

    def retrying(self, error: Exception, wait: float) -> None:
        logger.debug("%s: attempt %d failed: %s; the next one in %.3f s", self._name, self.attempt, error, wait)

    def make(self) -> Any:
        """Call the factory until it has a connection, or the policy is done."""
        try:
            returned = self._once()
        except Exception as error:
            if (policy := policy_after(self._policy, error)) is None:
                raise
            from safedial import retrying  # late, as it loads tenacity

            with self._outcome():
                return retrying.dial(policy, self, error, self._once, Exception)
        return self.make_async(returned) if _to_await(returned) else returned

    async def make_async(self, first: Any = None) -> Any:
        """Do as `make` does for a coroutine function; *first* is a coroutine that was made already."""
        try:
            return await self._once_async(first)
        except Exception as error:
            if (policy := policy_after(self._policy, error)) is None:
                raise
            from safedial import retrying

            with self._outcome():
                return await retrying.dial_async(policy, self, error, self._once_async, Exception)

    def _once(self) -> Any:
        with self._failure(), guard(), hold(self._target) if self._target else contextlib.nullcontext():
            returned: Any = self._factory()
            if not _to_await(returned):
                _check(returned)
                self._connected()
            return returned

    async def _once_async(self, first: Any = None) -> Any:
        with self._failure(), guard():
            async with _hold_async(self._target):
                returned = await (self._factory() if first is None else first)
            if error := _met_itself(returned):
                with contextlib.suppress(Exception):
                    closing = close(returned)
                    if inspect.isawaitable(closing):
                        await closing
                raise error
            self._connected()
            return returned

    def _connected(self) -> None:
        if self.attempt > 1:
            logger.info("%s: connected, attempt %d", self._name, self.attempt)

    @contextlib.contextmanager
    def _failure(self) -> Generator[None]:
        """Part what fails from what the caller was handling before, which the policy must not see."""
        try:
            yield
        except Exception as error:
            link: BaseException | None = error
            for _ in range(100):  # a chain may be a ring
                if link is None:
                    break
                if link.__context__ is self._handled:
                    link.__context__ = None
                link = link.__context__
            self._failed = error, error.__context__
            raise

    @contextlib.contextmanager
    def _outcome(self) -> Generator[None]:
        """Raise the last failure as the factory raised it, with a note of what was done."""
        try:
            yield
        except Exception as error:
            if self._failed is not None and error is self._failed[0]:
                error.__context__ = self._failed[1]  # raising it anew has replaced that
                seconds = time.monotonic() - self.started
                error.add_note(f"safedial: gave up on {self._name} after {self.attempt} attempts, {seconds:.3f} s")
            raise
        finally:
            self._failed = None


@contextlib.asynccontextmanager
async def _hold_async(target: Address | None) -> AsyncGenerator[None]:
    if target is None:
        yield
        return
    import asyncio  # late: a program without asyncio gets here never

    host, port, known = checked(target, 0)
    loop = asyncio.get_running_loop()
    infos = known or await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with holding((info[0], info[4]) for info in infos):
        yield


def _to_await(returned: Any) -> bool:
    """Tell whether this is no connection yet. redis.asyncio's clients can be awaited too, and are some."""
    return isinstance(returned, Coroutine)


def _check(connection: Any) -> None:
    if error := _met_itself(connection):
        with contextlib.suppress(Exception):
            close(connection)
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
