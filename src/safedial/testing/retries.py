"""tenacity's waits, recorded instead of slept."""

import contextlib
from collections.abc import Generator
from typing import Any, Self

from safedial._clients.patch import lock_held_across_forks

_recorders: list[list[float]] = []
_lock = lock_held_across_forks()


@contextlib.contextmanager
def fast_retries() -> Generator[list[float]]:
    """Let no tenacity policy of this process sleep, safedial's or another's, sync or async.

    Time does not pass meanwhile: a policy that stops after some seconds, and not after some attempts,
    goes on until they are really over. A sleep function of a policy's own is called, with 0.

    Yields:
        The waits that would have been slept, in seconds, in order.
    """
    waits: list[float] = []
    with _lock:
        _recorders.append(waits)
        if len(_recorders) == 1:
            _install()
    try:
        yield waits
    finally:
        with _lock:
            del _recorders[[each is waits for each in _recorders].index(True)]
            if not _recorders:
                _uninstall()


def _install() -> None:
    import tenacity  # late: a program that tests no retries need not load it

    class Recorded(tenacity.DoSleep):
        """What tenacity's loops take for a wait."""

        plain = tenacity.DoSleep

        def __new__(cls, seconds: float) -> Self:
            for waits in tuple(_recorders):
                waits.append(float(seconds))
            return super().__new__(cls, 0.0)

    module: Any = tenacity
    module.DoSleep = Recorded  # where tenacity makes its waits


def _uninstall() -> None:
    import tenacity

    module: Any = tenacity
    module.DoSleep = module.DoSleep.plain
