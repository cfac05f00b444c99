"""tenacity's waits: recorded instead of slept, or watched."""

import contextlib
import functools
import time
import types
from collections.abc import Callable, Generator
from typing import Any, Self

from safedial import _clock
from safedial._forks import loading, lock_held_across_forks
from safedial.testing.manager import managed

_watchers: list[Callable[[float], object]] = []
_recordings: list[list[float]] = []
_lock = lock_held_across_forks()


@managed
def fast_retries() -> Generator[list[float]]:
    """Make every tenacity policy of this process go on without sleeping, in sync and async code.

    Yield the list of the waits that were not slept, in seconds. Policies and the time limits of dials count each wait
    as if it had been slept: ``reconnect(within=60)`` gives up at once, after its dozen rounds. Dials in other threads
    and tasks each have their own time. The clock of your own code is real. A policy's own sleep function is called
    with 0.
    """
    with loading:
        import tenacity  # late: a program that tests no retries need not load it

    class Unslept(tenacity.DoSleep):
        """A policy yields an instance of this class for each wait."""

        def __new__(cls, _seconds: float) -> Self:
            return super().__new__(cls, 0.0)

    module: Any = tenacity
    waits: list[float] = []

    def record(seconds: float) -> None:
        waits.append(seconds)

    with watching_waits(record):
        with _lock:
            _recordings.append(waits)
            if len(_recordings) == 1:
                module.DoSleep, module.time = Unslept, _TenacitysTime("time")
                _clock.let_advance(True)
        try:
            yield waits
        finally:
            with _lock:
                del _recordings[[each is waits for each in _recordings].index(True)]
                if not _recordings:
                    module.DoSleep, module.time = module.DoSleep.__base__, time
                    _clock.let_advance(False)


def are_fast() -> bool:
    """Return whether `fast_retries` is active."""
    return bool(_recordings)


class _TenacitysTime(types.ModuleType):
    """The module time as tenacity sees it while waits are not slept."""

    def monotonic(self) -> float:
        return _clock.now()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextlib.contextmanager
def watching_waits(callback: Callable[[float], object]) -> Generator[None]:
    """Call *callback* with the seconds of each wait of a tenacity policy in this process, as it begins."""
    with loading:
        import tenacity  # late, as above

    state: Any = tenacity.RetryCallState
    with _lock:
        _watchers.append(callback)
        if len(_watchers) == 1:
            state.prepare_for_next_attempt = _telling(state.prepare_for_next_attempt)
    try:
        yield
    finally:
        with _lock:
            del _watchers[[each is callback for each in _watchers].index(True)]
            if not _watchers:
                state.prepare_for_next_attempt = state.prepare_for_next_attempt.__wrapped__


def _telling(plain: Any) -> Any:
    """Return *plain*, the last that a loop calls before a wait, so that it tells of the wait."""

    @functools.wraps(plain)
    def prepare_for_next_attempt(self: Any) -> None:
        plain(self)
        seconds = float(self.upcoming_sleep)
        for callback in tuple(_watchers):
            callback(seconds)
        if _recordings:
            _clock.advance(seconds)

    return prepare_for_next_attempt
