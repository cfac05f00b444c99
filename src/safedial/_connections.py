"""`connections`: the reconnect loop. It dials again whenever a connection ends, and waits longer while they end at once.

May import everything but the adapters, `testing`, `cli` and the plugin.
"""

import contextlib
import errno
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Never, Self, TypeAlias, TypeVar, cast, overload

from safedial._address import Host, Port, checked, seconds
from safedial._clients.awaitables import dials_later
from safedial._clients.drivers import finder_for, no_addresses
from safedial._clients.failures import Failures
from safedial._clients.sockets import close, close_async
from safedial._clients.wrap import Call
from safedial._deadline import Deadline
from safedial._dial import blocking
from safedial._retry.argument import DEFAULT, PolicyArgument, check_policy
from safedial._retry.progress import Progress
from safedial._retry.transient import is_transient
from safedial._steps import finish, running_trio
from safedial.events import check_hook

if TYPE_CHECKING:
    import asyncio
    import socket
    from typing import Unpack

    from safedial._dial.streams import StreamOptions
    from safedial.events import OnEvent

    class LoopOptions(StreamOptions, total=False):
        """The keyword options of `connections`."""

        source_address: tuple[str, int] | None


T = TypeVar("T")
S = TypeVar("S")
A = TypeVar("A")
# One round: tries every address of the target once.
Once: TypeAlias = Callable[[], Awaitable[Any]]


@overload
def connections(
    target: tuple[Host, Port],
    *,
    policy: PolicyArgument = ...,
    stable_after: float = ...,
    **options: "Unpack[LoopOptions]",
) -> "Connections[socket.socket, tuple[asyncio.StreamReader, asyncio.StreamWriter]]": ...


@overload
def connections(
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


def connections(
    target: Any, *, policy: PolicyArgument = DEFAULT, stable_after: float = 10.0, **options: Any
) -> "Connections[Any, Any]":
    """Return the reconnect loop for *target*: an iterable of connections, each to be entered with ``with``.

    A connection is dialed when it is entered. Its block ends when it is left, or when it raises a transient error, such
    as a reset: the connection is closed, and the next one follows. ``break`` ends the loop. Other exceptions come out,
    and so does the last error of a dial if the policy gives up.

    The waits of the policy go on from one connection to the next until one has lived for *stable_after* seconds. So a
    server that accepts and hangs up at once is dialed a handful of times, and not thousands. After a stable connection
    the rounds and the time of the policy begin anew, without a wait.

    Args:
        target: the (host, port) to dial, or a function without arguments that connects, sync for ``for`` or async for
            ``async for``. It is guarded as by `safedial.wrap`; if it dials in C, give a `functools.partial`, whose
            arguments have the address.
        policy: a `tenacity.Retrying` or `tenacity.AsyncRetrying` that decides on another round. Default:
            `safedial.reconnect()`, which gives up after a minute. A loop without end: ``reconnect(within=None)``.
        stable_after: seconds after which a connection is stable. Default: 10.
        **options: for an address in ``for``, those of `safedial.safe_connect`; in ``async for``, those of
            `safedial.open_connection`. *total_timeout* is the time until the next connection. For a function, and for
            an address in trio: *on_event* alone.

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
    if not callable(target):
        checked(target, 0)
    check_policy(policy)
    if policy is None:
        raise TypeError("policy: a reconnect loop needs one, such as safedial.reconnect()")
    seconds("stable_after", stable_after)
    check_hook(options.get("on_event"))
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
        if callable(self._target):
            failures: type[Exception] = Exception
            progress, once = _calls(self._target, None, **self._options)
        else:
            failures = OSError
            progress, once = blocking.prepared(self._target, self._options)
        return _Blocking(progress, once, failures, self._policy, self._stable_after)

    def __aiter__(self) -> AsyncIterator[AbstractAsyncContextManager[A]]:
        """Begin a loop in asyncio or trio."""
        failures: type[Exception] = Exception
        if callable(self._target):
            progress, once = _calls(self._target, _awaited, **self._options)
        elif (trio := running_trio()) is not None:
            if unknown := self._options.keys() - {"on_event"}:
                raise TypeError(f"connections() takes no {', '.join(sorted(unknown))} for an address under trio")
            factory = functools.partial(trio.open_tcp_stream, *self._target)
            progress, once = _calls(factory, _awaited, **self._options)
        else:
            from safedial._dial import streams  # late: only programs that use asyncio get here

            failures = OSError
            progress, once = streams.prepared(self._target, self._options)
        return _Async(progress, once, failures, self._policy, self._stable_after)


class _Loop:
    """One reconnect loop. There is one connection at a time, so the loop is its iterator and its context manager too."""

    blocking: bool

    def __init__(
        self, progress: Progress, once: Once, failures: type[Exception], policy: Any, stable_after: float
    ) -> None:
        from safedial._retry.loop import Retries  # late, because it loads tenacity
        from safedial._retry.policies import RetryWhileDown, reconnect, with_also

        policy = reconnect() if policy is DEFAULT else policy
        self._added = policy.retry.added if isinstance(policy.retry, RetryWhileDown) else None
        self._loss: Exception | None = None
        # The end of a connection that was not stable counts as a failed round, whatever the policy thinks of the error.
        self._retries = Retries(with_also(policy, lambda error: error is self._loss), progress)
        progress.asked = True
        self._progress, self._once, self._failures = progress, once, failures
        self._stable_after = stable_after
        self._total = progress.deadline.total
        self._offered = self._entered = False
        self._since = 0.0

    def _offer(self) -> None:
        if self._offered or self._entered:
            raise RuntimeError("connections: enter each one, and leave it before the next: with connection as ...")
        self._offered = True

    async def _connect(self) -> Any:
        """Return the next connection, or raise once the policy is done."""
        if not self._offered:
            raise RuntimeError("connections: each connection can be entered once")
        self._offered = False
        progress, error = self._progress, self._loss
        if self._total is not None:
            progress.deadline = Deadline(self._total, time.monotonic())
        try:
            connection = await self._first_round() if error is None else await self._next_rounds(error)
        except self._failures as last:
            outcome = progress.outcome(last)
            self._start_again(last)  # for a caller who goes on all the same
            raise outcome  # noqa: B904  # it is *last*, or has it
        finally:
            progress.close()
            del error
        self._entered, self._since = True, time.monotonic()
        return connection

    async def _first_round(self) -> Any:
        try:
            return await self._once()
        except self._failures as error:
            first: Exception = error
        try:
            return await self._next_rounds(first)
        finally:
            del first  # its traceback holds this frame: break the cycle

    def _next_rounds(self, error: Exception) -> Awaitable[Any]:
        from safedial._retry.loop import rounds  # late, as above

        return rounds(self._retries, self._progress, error, self._once, self._failures, blocking=self.blocking)

    def _ended(self, error: BaseException | None) -> bool:
        """Note that the connection ended. Return whether *error* is transient, so that the loop goes on."""
        self._entered = False
        if error is not None and not self._is_transient(error):
            return False
        lived = time.monotonic() - self._since
        stable = lived >= self._stable_after
        self._progress.disconnected(cast("Exception | None", error), lived, stable=stable)
        aborted = ConnectionAbortedError(errno.ECONNABORTED, f"the connection ended after {lived:.3f} s")
        loss = cast("Exception", error or aborted).with_traceback(None)  # which holds the frames of the block
        if stable:
            self._start_again(None)
        else:
            self._loss = loss
        return error is not None

    def _is_transient(self, error: BaseException) -> bool:
        return isinstance(error, Exception) and (is_transient(error) or (self._added is not None and self._added(error)))

    def _start_again(self, loss: Exception | None) -> None:
        self._loss = loss
        self._progress.start_again()
        self._retries.start_again()


class _Blocking(_Loop):
    blocking = True
    _connection: Any = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        self._offer()
        return self

    def __enter__(self) -> Any:
        self._connection = finish(self._connect())
        return self._connection

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):  # it may be broken already
            close(connection)
        return self._ended(error)


class _Async(_Loop):
    blocking = False
    _connection: Any = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        self._offer()
        return self

    async def __aenter__(self) -> Any:
        self._connection = await self._connect()
        return self._connection

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        connection, self._connection = self._connection, None
        try:
            await close_async(connection, at_once=error is not None)
        finally:
            ended = self._ended(error)
        return ended


def _calls(factory: Callable[[], Any], step: Any, on_event: Any = None) -> tuple[Progress, Once]:
    call = Call(factory, finder_for(factory) or no_addresses, (), {}, on_event)
    call.find_addresses()

    async def once() -> Any:
        failures = Failures()
        try:
            connection = await call.one_round(failures, step)
        finally:
            failures.clear()
        if step is None and dials_later(connection):
            close(connection)
            raise TypeError("target: its connection must be awaited: use async for")
        return connection

    return call, once


async def _awaited(returned: Any) -> Any:
    if not dials_later(returned):
        close(returned)
        raise TypeError("target: it connects in blocking code, which would stop the event loop: use for")
    return await returned
