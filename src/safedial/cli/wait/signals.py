"""Signals that end the wait. They are noted from its beginning to its end, so that none is lost in between."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator
from types import FrameType

# SIGHUP: the terminal is closed. Windows has none.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Seconds. Some senders send two at once: a terminal to the whole group, and a program of it on to its child.
_TOGETHER = 1.0


class Noted:
    """The first signal that came, None if none has."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._at = 0.0
        self._wake: Callable[[], object] | None = None

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], object]) -> Generator[None]:
        """Call *wake* when the first signal comes in this block, or if it has come already."""
        self._wake = wake
        if self.first is not None:
            wake()
        try:
            yield
        finally:
            self._wake = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal, or end the process if the wait has not ended since the first: something blocks."""
        now = time.monotonic()
        if self.first is None:
            self.first, self._at = signal.Signals(number), now
            if self._wake is not None:
                self._wake()
        elif now - self._at >= _TOGETHER:
            os._exit(128 + number)  # process 1 has no default disposition that would end it


@contextlib.contextmanager
def noted() -> Generator[Noted]:
    """Note SIGINT, SIGTERM and SIGHUP in this block, in the main thread. A signal that is ignored stays ignored."""
    come = Noted()
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # a shell's background job, nohup
                signal.signal(number, come.handle)
        yield come
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
