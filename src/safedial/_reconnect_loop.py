"""The loop behind `connections`: when to dial again, when to wait, and what ends it.

A connection that ends before it is stable counts as a failed round: the backoff goes on, so that a server that hangs up
at once is dialed less and less often. May import what `_connections` may.
"""

import errno
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Never, Self, TypeAlias, cast

from safedial._clients.failures import Failures
from safedial._clients.sockets import leave, leave_async
from safedial._deadline import NO_DEADLINE, Deadline
from safedial._retry.argument import DEFAULT
from safedial._retry.loop import Retries, rounds
from safedial._retry.policies import RetryWhileDown, reconnect, retrying_too
from safedial._retry.progress import Progress
from safedial._retry.transient import ends_connection
from safedial._steps import finish

# One round: tries every address of the target once.
Once: TypeAlias = Callable[[], Awaitable[Any]]


class _Loop:
    """One reconnect loop. It has one connection at a time, so it is the iterator and the context manager too."""

    blocking: bool
    line: str

    def __init__(
        self, progress: Progress, once: Once, failures: type[Exception], policy: Any, stable_after: float
    ) -> None:
        policy = reconnect() if policy is DEFAULT else policy
        self._added = policy.retry.added if isinstance(policy.retry, RetryWhileDown) else None
        self._loss: Exception | None = None
        # The end of a connection that was not stable counts as a failed round, whatever the policy thinks of the error.
        self._retries = Retries(retrying_too(policy, lambda error: error is self._loss), progress)
        progress.asked = True
        self._progress, self._once, self._failures = progress, once, failures
        self._stable_after = stable_after
        self._total = progress.deadline.total
        self._offered = self._entered = False
        self._connection: Any = None
        self._since = 0.0
        self._outside: Failures | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Never:
            raise AttributeError(f"the connection has no {name!r} before it is entered: write {self.line}")

    def _offer(self) -> None:
        if self._offered or self._entered:
            raise RuntimeError("connections: enter each one, and leave it before the next: with connection as ...")
        self._offered = True

    async def _connect(self) -> Any:
        """Return the next connection, or raise once the policy is done."""
        if not self._offered:
            raise RuntimeError("connections: each connection can be entered once")
        self._offered = False
        # A wait that makes up for a lost connection is not cut by the time limit of the dial that follows.
        self._progress.deadline = NO_DEADLINE
        loss = self._loss
        try:
            made = await self._first_round() if loss is None else await self._next_rounds(loss)
        except Exception as last:
            if not isinstance(last, self._failures) and last is not loss:
                raise
            raise self._gave_up(last)  # noqa: B904  # it is *last*, or has it
        finally:
            self._progress.close()
            del loss
        self._entered, self._since, self._outside = True, self._progress.clock(), Failures()
        # A factory's result may be a context manager, which gave another object when it was entered.
        self._connection, value = made if self._progress.client is not None else (made, made)
        return value

    def _gave_up(self, error: Exception) -> Exception:
        outcome = self._progress.outcome(error)
        # A caller may go on all the same: the next dial waits first, too.
        self._start_again(ConnectionAbortedError(errno.ECONNABORTED, "the dial before gave up"))
        return outcome

    async def _round(self) -> Any:
        progress = self._progress
        if self._total is not None and progress.deadline is NO_DEADLINE:
            progress.deadline = Deadline(self._total, progress.clock())
        return await self._once()

    async def _first_round(self) -> Any:
        try:
            return await self._round()
        except self._failures as error:
            first: Exception = error
        try:
            return await self._next_rounds(first)
        finally:
            del first  # its traceback holds this frame: break the cycle

    def _next_rounds(self, error: Exception) -> Awaitable[Any]:
        return rounds(self._retries, self._progress, error, self._round, self._failures, blocking=self.blocking)

    def _ended(self, error: BaseException | None) -> bool:
        """Note that the connection ended. Return whether *error* is a lost connection, so that the loop goes on."""
        self._entered, self._connection = False, None
        lost = error is not None and self._is_loss(error)
        lived = self._progress.clock() - self._since
        stable = lived >= self._stable_after
        told = error if isinstance(error, Exception) else None
        self._progress.disconnected(told, lived, lost=lost, stable=stable)
        if stable:
            self._start_again(None)
        elif lost and told is not None:
            self._loss = told.with_traceback(None)  # which holds the frames of the block
        else:
            text = f"the connection ended after {lived:.3f} s, before it was stable ({self._stable_after:g} s)"
            self._loss = ConnectionAbortedError(errno.ECONNABORTED, text)
        return lost

    def _is_loss(self, error: BaseException) -> bool:
        """Return whether *error* is a lost connection. What was handled around the loop says nothing about it."""
        outside, self._outside = self._outside, None
        if not isinstance(error, Exception) or outside is None:
            return False
        outside.detach(error)
        lost = self._ends_connection(error)
        if not lost:
            outside.restore(error)
        return lost

    def _ends_connection(self, error: BaseException) -> bool:
        if isinstance(error, BaseExceptionGroup):  # what else failed beside the connection must come out
            return all(map(self._ends_connection, cast("BaseExceptionGroup[BaseException]", error).exceptions))
        return ends_connection(error) or (self._added is not None and self._added(error))

    def _start_again(self, loss: Exception | None) -> None:
        self._loss = loss
        self._progress.start_again()
        self._retries.start_again()


class BlockingLoop(_Loop):
    """The loop of ``for`` and ``with``."""

    blocking = True
    line = "`with connection as sock:`"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        self._offer()
        return self

    def __enter__(self) -> Any:
        return finish(self._connect())

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        try:
            leave(self._connection, error)
        finally:
            lost = self._ended(error)
        return lost


class AsyncLoop(_Loop):
    """The loop of ``async for`` and ``async with``, in asyncio and trio."""

    blocking = False
    line = "`async with connection as (reader, writer):`"

    if not TYPE_CHECKING:

        def __iter__(self) -> Never:  # async for reader, writer in ...
            raise TypeError(f"the connection can't be unpacked before it is entered: write {self.line}")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        self._offer()
        return self

    async def __aenter__(self) -> Any:
        return await self._connect()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        try:
            await leave_async(self._connection, error)
        finally:
            lost = self._ended(error)
        return lost
