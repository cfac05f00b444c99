"""The rounds after the first: tenacity decides, this module waits, the caller dials. One coroutine: see `_steps`."""

import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity
from tenacity import AsyncRetrying, RetryCallState, sleep_using_event
from tenacity.stop import stop_any, stop_when_event_set

from safedial._retry.progress import Progress, reason_of
from safedial._steps import finish, in_thread, sleep, within

if TYPE_CHECKING:
    from safedial._retry.argument import Policy

T = TypeVar("T")
R = TypeVar("R")

# Seconds between looks at a stop event. To wait for the event itself, asyncio would need a thread for each task.
_GLANCE = 0.05
_ASYNC_DEFAULT_SLEEP = AsyncRetrying().sleep
_AWAITS = "policy: a strategy or hook of this AsyncRetrying awaits; a blocking dial can't wait for it"


class Retries:
    """One dial's own copy of a policy, so that threads and tasks can share one, with the state of its rounds."""

    def __init__(self, policy: "Policy", progress: Progress) -> None:
        # Callers handle the last real exception: never RetryError, never a callback's value.
        self._retrying = policy.copy(reraise=True, retry_error_callback=None)
        self._progress = progress
        self._enabled = getattr(policy, "enabled", True)  # tenacity 9.2
        self.is_async = isinstance(policy, AsyncRetrying)
        self._stops = _events_of(policy.stop)
        self._wakes = list(self._stops)
        # A sleep function of the user's, None for tenacity's own.
        self.own_sleep: Callable[[float], Any] | None = None
        if isinstance(policy.sleep, sleep_using_event):
            self._wakes.append(policy.sleep.event)
        elif policy.sleep not in (tenacity.sleep, time.sleep, _ASYNC_DEFAULT_SLEEP):
            self.own_sleep = policy.sleep
        self.start_again()

    def start_again(self) -> None:
        """Forget the rounds so far: the next error is that of a first round."""
        self._retrying.begin()
        self._state = RetryCallState(self._retrying, fn=rounds, args=self._progress.target, kwargs={})
        self._state.start_time = self._progress.started

    async def wait_after(self, error: Exception) -> float | None:
        """Return the seconds to sleep before the next round, None if there is none."""
        self._progress.reason = "policy"
        if not self._enabled:
            return None
        if self._state.attempt_number == 1:
            await self._step()  # tenacity's "before" hook for the round that is over already
        traceback = error.__traceback__
        self._state.set_exception((type(error), error, traceback))
        self._state.outcome_timestamp = self._progress.clock()
        try:
            slept = float(await self._step())
        except Exception as raised:
            if raised is not error:
                raised.__context__ = raised.__context__ or error  # a strategy of the user's failed
                raise
            # Without tenacity's own frames, which would keep the error alive in a cycle.
            error.__traceback__ = traceback
            if not self._retrying.iter_state.retry_run_result:  # not wanted, rather than stopped
                self._progress.reason = reason_of(error)
            return None
        wait = float(self._state.upcoming_sleep)  # under fast_retries, less is slept
        if not wait >= 0:
            raise ValueError(f"policy: a wait must be 0 or more seconds, not {wait}")
        wait_cut = self._progress.deadline.cut(wait)
        if wait_cut is not None:
            self._progress.retrying(error, wait_cut)
            self._state.upcoming_sleep = wait_cut
            self._state.prepare_for_next_attempt()
        return None if wait_cut is None else min(slept, wait_cut)

    async def begin_round(self) -> bool:
        """Begin the next round. Return False if a stop event was set or the deadline passed meanwhile."""
        if any(event.is_set() for event in self._stops) or self._progress.deadline.passed:
            return False
        self._progress.round += 1
        await self._step()
        return True

    async def _step(self) -> Any:
        if not self._retrying.statistics:  # each thread has its own, and a loop may go on in another one
            self._retrying.begin()
        step = self._retrying.iter(self._state)
        return await step if inspect.isawaitable(step) else step

    def naps(self, seconds: float) -> Iterator[float]:
        """Yield sleeps that add up to *seconds*, fewer if an event is set meanwhile."""
        if not self._wakes or not seconds:  # a wait of 0 gives other tasks a turn
            yield seconds
            return
        end = self._progress.clock() + seconds
        while (left := end - self._progress.clock()) > 0 and not any(event.is_set() for event in self._wakes):
            yield min(left, _GLANCE)


async def rounds(
    retries: Retries,
    progress: Progress,
    error: Exception,
    once: Callable[[], Awaitable[T]],
    failures: type[Exception] = OSError,
    *,
    blocking: bool,
) -> T:
    """Await *once* until it returns, or the policy stops; then raise its last error. *error* is the first round's.

    Only *failures* are passed to the policy. Other exceptions come from the user's own code, and end the dial.
    """
    pause = _sleep if blocking else _sleep_async

    async def step(steps: Coroutine[Any, Any, R]) -> R:
        # The user's own strategies, hooks and sleeps may ignore the deadline. An event loop can interrupt them.
        return finish(steps, _AWAITS) if blocking else await within(progress.deadline.cap(None), steps)

    try:
        while (wait := await step(retries.wait_after(error))) is not None:
            await step(pause(retries, wait))
            if not await step(retries.begin_round()):
                break
            try:
                return await once()
            except failures as failure:
                error = failure
        raise error
    finally:
        del error, retries  # the traceback holds this frame: break the cycle


async def _sleep(retries: Retries, seconds: float) -> None:
    if retries.own_sleep is None or retries.is_async:
        for nap in retries.naps(seconds):
            time.sleep(nap)  # noqa: ASYNC251  # the blocking dial's
    elif inspect.iscoroutine(pause := retries.own_sleep(seconds)):
        pause.close()
        raise TypeError("policy: the sleep of this Retrying is a coroutine function; give an AsyncRetrying")


async def _sleep_async(retries: Retries, seconds: float) -> None:
    own = retries.own_sleep
    if own is None:
        for nap in retries.naps(seconds):
            await sleep(nap)
        return
    # A Retrying's sleep was written for threads: it may block.
    pause = own(seconds) if retries.is_async else await in_thread(own, seconds)
    if inspect.isawaitable(pause):
        await pause


def _events_of(stop: Any) -> list[Any]:
    """Return the events of *stop*, which may be several joined with ``|``."""
    if isinstance(stop, stop_any):
        return [event for part in stop.stops for event in _events_of(part)]
    return [stop.event] if isinstance(stop, stop_when_event_set) else []
