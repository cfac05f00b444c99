"""The clocks of safedial, in seconds. freezegun and time-machine stop neither. Imports nothing of safedial.

Call them by the module, as `_clock.now()`: `fast_retries` puts another function there.
"""

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

# How far `now` was advanced, by context: a dial must not use up the time of those in other tasks or threads. With the
# block of `fast_retries` in which it was.
_ahead: ContextVar[tuple[object, float]] = ContextVar("how far safedial's clock was advanced", default=(None, 0.0))
# The block that is open, if one is.
_block: object = None


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
    block, seconds = _ahead.get()
    return seconds if _block is not None and block is _block else 0.0


def advance(seconds: float) -> None:
    """Advance `now` in this context, until it can be advanced no more."""
    _ahead.set((_block, ahead() + seconds))


def let_advance(can_advance: bool) -> None:
    """Let `now` be what `advance` makes of it from here on, or `real` again."""
    global now, _block
    now, _block = (_now_ahead, object()) if can_advance else (real, None)


def _now_ahead() -> float:
    return real() + ahead()
