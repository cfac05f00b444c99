"""The clocks of safedial, in seconds. freezegun and time-machine stop neither. Imports nothing of safedial.

Call them by the module, as `_clock.now()`: the first `advance` puts another function there.
"""

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

# Seconds, a year. A longer wait counts as one: if a clock is so far ahead that a float loses seconds, no time passes.
_LONGEST = 3.2e7
# How far `fast_retries` advanced `now`, by context: a dial must not use up the time of those in other tasks or threads.
# It stays so: a dial may still run when `fast_retries` ends, or when it begins again, and its clock must not leap.
_ahead: ContextVar[float] = ContextVar("how far safedial's clock was advanced", default=0.0)


def _unstoppable() -> Callable[[], float]:
    """Return the monotonic clock, in a form that freezegun does not find.

    It replaces the functions of `time` in each module that has one as an attribute. It may have done so in `time`
    itself when safedial is imported.
    """
    clocks: Any = time
    if hasattr(clocks, "clock_gettime"):  # freezegun 1.5 does not replace it, time-machine 3 only for CLOCK_REALTIME
        # The clock of time.monotonic(), and so of event loops (pytime.c). On macOS that one stops while the computer
        # sleeps; CLOCK_MONOTONIC runs on there (clock_gettime(3)).
        number = getattr(clocks, "CLOCK_UPTIME_RAW", clocks.CLOCK_MONOTONIC)
        return functools.partial(clocks.clock_gettime, number)
    # Windows: from a module time of its own, which nobody else has.
    spec: Any = clocks.__spec__
    clocks = spec.loader.create_module(spec)
    spec.loader.exec_module(clocks)
    clock: Callable[[], float] = clocks.monotonic
    return clock


# For what must not be older than it is: caches, and the time limits of the test tools.
real: Callable[[], float] = _unstoppable()
# For dials, their deadlines and their policies.
now: Callable[[], float] = real


def ahead() -> float:
    """Return how far `now` is ahead of `real` in this context."""
    return _ahead.get()


def advance(seconds: float) -> None:
    """Advance `now` in this context, by a year at most. No clock goes back."""
    global now
    now = _now_ahead
    _ahead.set(_ahead.get() + min(_LONGEST, seconds))  # in this order: not a number is a year, too


def _now_ahead() -> float:
    return real() + _ahead.get()
