"""The clocks of safedial, in seconds. freezegun and time-machine stop neither. Imports nothing of safedial.

Call them by the module, as `_clock.now()`: `fast_retries` puts another function there.
"""

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

# How far `fast_retries` moved `now` on, by context: a dial must not use up the time of those in other tasks or threads.
_moved: ContextVar[float] = ContextVar("safedial's clock was moved on", default=0.0)


def _unstoppable() -> Callable[[], float]:
    """Return the monotonic clock, from where freezegun does not look: it replaces the functions of time by others.

    It does so in each module that has one among its attributes, and safedial may be imported while it does.
    """
    clocks: Any = time
    if hasattr(clocks, "clock_gettime"):  # freezegun 1.5 does not replace it, time-machine 3 only for CLOCK_REALTIME
        return functools.partial(clocks.clock_gettime, clocks.CLOCK_MONOTONIC)
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


def moved() -> float:
    """Return how far `now` is ahead of `real` in this context."""
    return _moved.get() if now is _moved_on else 0.0


def move_on(seconds: float) -> None:
    """Move `now` on in this context, while it can be moved."""
    _moved.set(_moved.get() + seconds)


def let_move(movable: bool) -> None:
    """Let `now` be what `move_on` makes of it, or `real` again."""
    global now
    now = _moved_on if movable else real


def _moved_on() -> float:
    return real() + _moved.get()
