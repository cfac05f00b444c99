"""tenacity's waits, recorded instead of slept."""

import contextlib
from collections.abc import Generator
from typing import Any, Self

from safedial._forks import lock_held_across_forks

_recordings: list[list[float]] = []
_lock = lock_held_across_forks()


@contextlib.contextmanager
def fast_retries() -> Generator[list[float]]:
    """Make every tenacity policy of this process go on without sleeping, in sync and async code.

    Yield the list of the waits that were not slept, in seconds. The clock is real: a policy that stops after some time,
    and not after some attempts, goes on until that has passed. A policy's own sleep function is called with 0.
    """
    import tenacity  # late: a program that tests no retries need not load it

    class Recorded(tenacity.DoSleep):
        """A policy yields an instance of this class for each wait."""

        def __new__(cls, seconds: float) -> Self:
            for waits in tuple(_recordings):
                waits.append(float(seconds))
            return super().__new__(cls, 0.0)

    module: Any = tenacity
    waits: list[float] = []
    with _lock:
        _recordings.append(waits)
        if len(_recordings) == 1:
            module.DoSleep = Recorded
    try:
        yield waits
    finally:
        with _lock:
            del _recordings[[each is waits for each in _recordings].index(True)]
            if not _recordings:
                module.DoSleep = module.DoSleep.__base__
