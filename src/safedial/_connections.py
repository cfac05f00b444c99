"""`connections`: the reconnect loop over an address or a factory.

May import everything but the adapters, `testing`, `cli` and the plugin.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Never, TypeVar, cast, overload

from safedial._address import Host, Port, checked, seconds
from safedial._clients.awaitables import dials_later
from safedial._clients.call import Call
from safedial._clients.drivers import finder_for, no_addresses
from safedial._clients.factories import Factory
from safedial._clients.failures import Failures
from safedial._clients.marks import UNMARKED, mark_of
from safedial._clients.refusals import check_factory, refusal, takes_one
from safedial._clients.sockets import close_async, close_quietly, enter, enter_async
from safedial._dial import blocking
from safedial._forks import loading
from safedial._reconnect_loop import AsyncLoop, BlockingLoop, Once
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy
from safedial._retry.progress import Progress
from safedial._steps import in_event_loop, running_trio
from safedial.events import check_hook, is_first, warn

if TYPE_CHECKING:
    import asyncio
    import socket
    from typing import Unpack

    from safedial._dial.streams import StreamOptions
    from safedial.events import OnEvent

    class LoopOptions(StreamOptions, total=False):
        """The keyword options of `connections`."""

        limit: int
        source_address: tuple[str, int] | None
        stable_after: float


T = TypeVar("T")
S = TypeVar("S")
A = TypeVar("A")


@overload
def connections(
    target: tuple[Host, Port],
    **options: "Unpack[LoopOptions]",
) -> "Connections[socket.socket, tuple[asyncio.StreamReader, asyncio.StreamWriter]]": ...


@overload
def connections(  # type: ignore[overload-overlap]  # an awaitable is what the next one takes, too
    target: Callable[[], Awaitable[T]],
    *,
    policy: PolicyArgument = ...,
    stable_after: float = ...,
    on_event: "OnEvent | None" = ...,
) -> "Connections[Never, T]": ...


@overload
def connections(
    target: Callable[[], T],
    *,
    policy: PolicyArgument = ...,
    stable_after: float = ...,
    on_event: "OnEvent | None" = ...,
) -> "Connections[T, Never]": ...


@takes_one
def connections(
    target: Any, *, policy: PolicyArgument = DEFAULT, stable_after: float = 10.0, **options: Any
) -> "Connections[Any, Any]":
    """Return the reconnect loop for *target*: an iterable of connections, each to be entered with ``with``.

    A connection is dialed when it is entered. It is closed when its block is left, or raises a lost connection: a
    reset, an end of file, a time-out, a client's own error for these. Then the next one follows. ``break`` ends the
    loop. Other exceptions come out, and so does the last error of a dial if the policy gives up. Where a lost
    connection to another server, or a time limit of your own, may be raised in the block, catch it there.

    The waits of the policy go on from one connection to the next until one has lived for *stable_after* seconds. So a
    server that accepts and hangs up at once is dialed a handful of times, and not thousands. This counts however the
    block ended. After a stable connection the rounds and the time of the policy begin anew, without a wait. A program
    that is done with its connections sooner gives a smaller *stable_after*.

    Args:
        target: the (host, port) to dial, or a function without arguments that connects, sync for ``for`` or async for
            ``async for``. It is guarded as by `safedial.wrap`; if it dials in C, give a `functools.partial`, whose
            arguments have the address. A client that dials when it is used must be used in the function (a ping), or it
            is refused as by `wrap`; and protected there, or a WARNING says that it dials again unguarded. If the
            connection is a context manager, the block is its own block too: psycopg's commits at the end. What that
            raises, such as a failed commit, comes out.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another round. Default:
            `safedial.reconnect()`, which gives up after a minute. A loop without end: ``reconnect(within=None)``.
        stable_after: seconds after which a connection is stable. Default: 10.
        **options: for an address in ``for``, those of `safedial.safe_connect`; in ``async for``, those of
            `safedial.open_connection`; *all_errors* and *sock* are not taken. *timeout* stays on the socket, so a
            server that is silent for so long is dialed again. *total_timeout* limits each dial until there is a
            connection. For a function, and for an address in trio: *on_event* alone.

    Yields:
        In ``for``, context managers of sockets. In ``async for``, async ones of a (reader, writer) pair, under trio of
        a `trio.SocketStream`. For a function, of what it returns.

    Raises:
        OSError: the last error of a dial, when the policy gives up. What a function raises comes out as it is.
        TypeError, ValueError: an argument is invalid; the message names it.

    Example::

        for connection in safedial.connections(("127.0.0.1", 6379), timeout=5):
            with connection as sock:
                serve(sock)
    """
    if issubclass(type(target), tuple | list):
        checked(target, 0)
    else:
        check_factory("target", target)
    policy = check_policy(policy)
    if policy is None:
        raise TypeError("policy: a reconnect loop needs one, such as safedial.reconnect()")
    seconds("stable_after", stable_after)
    check_hook(options.get("on_event"))
    if refused := options.keys() & {"all_errors", "sock"}:
        raise TypeError(f"connections() takes no {', '.join(sorted(refused))}")
    if callable(target) and (unknown := options.keys() - {"on_event"}):
        raise TypeError(f"connections() takes no {', '.join(sorted(unknown))} for a function: it dials for itself")
    return Connections(target, policy, stable_after, options)


class Connections(Generic[S, A]):
    """The result of `connections`. Each ``for`` over it is a loop of its own."""

    def __init__(self, target: Any, policy: Any, stable_after: float, options: dict[str, Any]) -> None:
        self._target, self._options = target, options
        self._policy, self._stable_after = policy, stable_after

    def __iter__(self) -> Iterator[AbstractContextManager[S]]:
        """Begin a loop in blocking code."""
        _look_for_an_event_loop()
        if callable(self._target):
            failures: type[Exception] = Exception
            progress, once = _calls(self._target, **self._options, blocking=True)
        else:
            failures = OSError
            progress, once = blocking.prepared(self._target, self._options)
        loop: Any = BlockingLoop(progress, once, failures, self._policy, self._stable_after)
        return cast("Iterator[AbstractContextManager[S]]", loop)

    def __aiter__(self) -> AsyncIterator[AbstractAsyncContextManager[A]]:
        """Begin a loop in asyncio or trio."""
        failures: type[Exception] = Exception
        if callable(self._target):
            progress, once = _calls(self._target, **self._options, blocking=False)
        elif (trio := running_trio()) is not None:
            if unknown := self._options.keys() - {"on_event"}:
                raise TypeError(f"connections() takes no {', '.join(sorted(unknown))} for an address under trio")
            factory = functools.partial(trio.open_tcp_stream, *self._target)
            progress, once = _calls(factory, **self._options, blocking=False)
        else:
            with loading:  # which loads ssl
                from safedial._dial import streams

            failures = OSError
            progress, once = streams.prepared(self._target, self._options)
        loop: Any = AsyncLoop(progress, once, failures, self._policy, self._stable_after)
        return cast("AsyncIterator[AbstractAsyncContextManager[A]]", loop)

    if not TYPE_CHECKING:  # type checkers know that a loop can't be entered

        def __enter__(self) -> Never:
            raise TypeError(_LOOP)

        __exit__ = __aenter__ = __aexit__ = __enter__


_LOOP = (
    "connections() returns a loop: write `for connection in connections(...):`, and inside `with connection as ...:`; "
    "in a coroutine `async for` and `async with`"
)
_warned: dict[str, object] = {}


def _look_for_an_event_loop() -> None:
    """Warn, once, if a loop of `connections` blocks an event loop."""
    if not _warned and in_event_loop() and is_first(_warned, "for"):
        warn("%s", "for ... in connections(...) blocks the event loop of this thread; in a coroutine, use async for")


def _calls(factory: Callable[[], Any], on_event: Any = None, *, blocking: bool) -> tuple[Progress, Once]:
    """Return a call of *factory*, and one round of it: (what it returned, what that gave when it was entered)."""
    guarded = mark_of(factory) is not UNMARKED
    made = Factory(factory, finder_for(factory) or no_addresses, on_event, argument="target", guarded=guarded)
    call = Call(made, blocking=blocking)
    call.take = _entered
    call.find_addresses()
    step = None if blocking else functools.partial(_entered_async, made)

    async def once() -> Any:
        failures = Failures()
        try:
            made = await call.one_round(failures, step)
            call.guard_reconnects(made[0], DEFAULT)
            return made
        finally:
            failures.clear()

    return call, once


def _entered(returned: Any) -> tuple[Any, Any]:
    if dials_later(returned):
        close_quietly(returned)
        raise TypeError("target: its connection must be awaited: use async for")
    return returned, enter(returned)


async def _entered_async(factory: Factory, returned: Any) -> tuple[Any, Any]:
    if not dials_later(returned):
        await close_async(returned, at_once=True)
        raise refusal(factory, returned) or TypeError(
            "target: it returned an object that needs no await. If it connects in blocking code, use for; if it is a "
            "client that dials when it is used, use safedial.install()"
        )
    made: Any = returned
    connection: Any = await made if isinstance(returned, Awaitable) else made
    return connection, await enter_async(connection)
