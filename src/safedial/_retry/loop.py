"""Running a dial on under a tenacity policy, once its first round has failed.

tenacity decides (retry? stop? how long to wait?), this module waits, and the caller dials. Every
dial works on its own copy of the policy, so one policy serves many threads and tasks. A dial may be
safedial's own or, for `wrap`, a client's.
"""

import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import tenacity
from tenacity import AsyncRetrying, RetryCallState, sleep_using_event
from tenacity.stop import stop_any, stop_when_event_set

from safedial._deadline import Deadline, within

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

# Seconds between looks at a stop event. Waiting on the event itself would need a thread for each
# task that waits in asyncio; a twentieth of a second is "at once" for a person.
_GLANCE = 0.05

_ASYNC_DEFAULT_SLEEP = AsyncRetrying().sleep


class Rounds(Protocol):
    """What is known of the dial that is made again: `safedial._dial.record.Journal` for safedial's own."""

    attempt: int
    started: float
    deadline: Deadline

    @property
    def target(self) -> tuple[Any, ...]:
        """What is dialed, for tenacity's own hooks, such as before_sleep_log."""
        ...

    def retrying(self, error: Any, wait: float) -> None:
        """Tell that the policy goes on after *error*, in *wait* seconds."""
        ...


class _Retries:
    """One dial's own copy of a policy, with the state of its attempts."""

    def __init__(self, policy: "Policy", journal: Rounds) -> None:
        # The last real exception is what callers handle: never RetryError, never a callback's value.
        self._retrying = policy.copy(reraise=True, retry_error_callback=None)
        self._retrying.begin()
        self._state = RetryCallState(self._retrying, fn=dial, args=journal.target, kwargs={})
        self._state.start_time = journal.started
        self._journal = journal
        self._enabled = getattr(policy, "enabled", True)  # tenacity 9.2
        self._stops = _events_of(policy.stop)
        self._wakes = list(self._stops)
        # The sleep that the user wrote; None where it is one of tenacity's.
        self.own_sleep: Callable[[float], Any] | None = None
        if isinstance(policy.sleep, sleep_using_event):
            self._wakes.append(policy.sleep.event)
        elif policy.sleep not in (tenacity.sleep, time.sleep, _ASYNC_DEFAULT_SLEEP):
            self.own_sleep = policy.sleep

    async def wait_after(self, error: Exception) -> float | None:
        """Return the seconds to wait before the next round, None where there is none, as the
        policy says no more or the wait would end past the deadline.

        Suspends only in what the user wrote as a coroutine.
        """
        if not self._enabled:
            return None
        if self._state.attempt_number == 1:
            await self._step()  # tenacity's "before" hook for the round that was made already
        traceback = error.__traceback__
        self._state.set_exception((type(error), error, traceback))
        try:
            wait = float(await self._step())
        except Exception as raised:
            if raised is not error:
                raised.__context__ = raised.__context__ or error  # a strategy of the user's failed
                raise
            # Without tenacity's own frames, which would keep the error alive in a cycle.
            error.__traceback__ = traceback
            return None
        if not wait >= 0:
            raise ValueError(f"policy: a wait must be 0 or more seconds, not {wait}")
        if self._journal.deadline.refuse(wait):
            return None
        self._journal.retrying(error, wait)
        self._state.prepare_for_next_attempt()
        return wait

    async def begin_round(self) -> bool:
        """Go on to the next round, unless a stop event or the deadline came meanwhile; tell which."""
        if any(event.is_set() for event in self._stops) or self._journal.deadline.met:
            return False
        self._journal.attempt += 1
        await self._step()
        return True

    async def _step(self) -> Any:
        step = self._retrying.iter(self._state)
        return await step if inspect.isawaitable(step) else step

    def naps(self, seconds: float) -> Iterator[float]:
        """Yield sleeps that add up to *seconds*, fewer where an event is set meanwhile."""
        if not self._wakes:
            yield seconds
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not any(event.is_set() for event in self._wakes):
            yield min(left, _GLANCE)


def dial(
    policy: "Policy",
    journal: Rounds,
    error: E,
    once: Callable[[], T],
    failures: type[E],
) -> T:
    """Call *once* until it returns or *policy* is done; then raise its last error.

    *error* is what the first round raised. Only *failures* are the policy's to judge: of a dial of
    safedial's own an OSError, since errors of the user's own code end the dial, as KeyboardInterrupt
    does.
    """
    retries = _Retries(policy, journal)
    try:
        while (wait := _finish(retries.wait_after(error))) is not None:
            _sleep(policy, retries, wait)
            if not _finish(retries.begin_round()):
                break
            try:
                return once()
            except failures as failure:
                error = failure
        raise error
    finally:
        del error, retries  # the traceback holds this frame: break the cycle


async def dial_async(
    policy: "Policy",
    journal: Rounds,
    error: E,
    once: Callable[[], Awaitable[T]],
    failures: type[E],
) -> T:
    """Do as `dial` does, awaiting *once* and the waits. Cancellation ends the dial."""
    retries = _Retries(policy, journal)
    try:
        # What the user wrote need keep neither to *wait* nor to the deadline.
        left = journal.deadline.cap
        while (wait := await within(left(None), retries.wait_after(error))) is not None:
            await within(left(None), _sleep_async(policy, retries, wait))
            if not await within(left(None), retries.begin_round()):
                break
            try:
                return await once()
            except failures as failure:
                error = failure
        raise error
    finally:
        del error, retries  # as above


def _finish(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for. An AsyncRetrying's steps are such coroutines
    unless the user wrote a strategy or a hook that awaits.
    """
    try:
        steps.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    steps.close()
    raise TypeError("policy: a strategy or hook of this AsyncRetrying awaits; a blocking dial can't wait for it")


def _sleep(policy: "Policy", retries: _Retries, seconds: float) -> None:
    if retries.own_sleep is None or isinstance(policy, AsyncRetrying):
        for nap in retries.naps(seconds):
            time.sleep(nap)
    elif inspect.iscoroutine(pause := retries.own_sleep(seconds)):
        pause.close()
        raise TypeError("policy: the sleep of this Retrying is a coroutine function; give an AsyncRetrying")


async def _sleep_async(policy: "Policy", retries: _Retries, seconds: float) -> None:
    import asyncio  # late: a program without asyncio gets here never

    if retries.own_sleep is None:
        for nap in retries.naps(seconds):
            await asyncio.sleep(nap)
    else:
        own = retries.own_sleep
        # A Retrying's was written for threads: it may block.
        pause = own(seconds) if isinstance(policy, AsyncRetrying) else await asyncio.to_thread(own, seconds)
        if inspect.isawaitable(pause):
            await pause


def _events_of(stop: Any) -> list[Any]:
    """Return the events that stop a policy by themselves: alone, or joined with ``|``."""
    if isinstance(stop, stop_when_event_set):
        return [stop.event]
    if isinstance(stop, stop_any):
        return [event for part in stop.stops for event in _events_of(part)]
    return []
