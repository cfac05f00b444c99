"""Ending a client that runs in a thread and does not end by itself.

No call ends a thread. An exception is raised in it: where it waits between two rounds of a tenacity policy, where it
dials, and in the end wherever Python code runs in it. Only a thread that sleeps by itself, or waits for another one,
stays until that is over.
"""

import contextlib
import ctypes
import threading
import time
import types
from collections.abc import Generator
from typing import Any

from safedial._forks import lock_held_across_forks


class EndedError(BaseException):
    """The client's time is over. Not an `Exception`, which clients try again after."""


class Ending:
    """Ends the thread that runs in `reachable`."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: int | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reachable(self) -> Generator[None]:
        """Let this thread be ended: an `EndedError` leaves the block. It may come a moment later, too."""
        _here.ending, self._thread = self, threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._thread = None

    def is_here(self) -> bool:
        """Return whether this is the thread."""
        return self._thread == threading.get_ident()

    @property
    def is_over(self) -> bool:
        """Whether the thread is to end."""
        return self._over.is_set()

    def begin(self) -> None:
        """End the thread's waits."""
        self._over.set()

    def interrupt(self) -> None:
        """Raise `EndedError` in the thread, if it is still there, when it runs Python code again."""
        raise_in: Any = getattr(ctypes.pythonapi, "PyThreadState_SetAsyncExc", None)  # PyPy has none
        with self._lock:
            if self._thread is not None and raise_in is not None:
                raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(EndedError))

    def sleep(self, seconds: float) -> None:
        """Sleep in the thread, until it is to end."""
        if self._over.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise EndedError


_here = threading.local()
_users = 0
_lock = lock_held_across_forks()
_plain_sleep = time.sleep


class _Time(types.ModuleType):
    """The module time as policies see it while clients are run."""

    def sleep(self, seconds: float) -> None:
        ending: Ending | None = getattr(_here, "ending", None)
        if ending is None or time.sleep is not _plain_sleep:  # somebody's mock
            time.sleep(seconds)
        else:
            ending.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_shim: Any = _Time("time")


@contextlib.contextmanager
def waits_that_end() -> Generator[None]:
    """Let the waits of policies end with their thread: of safedial's own loop, and of tenacity's."""
    global _users
    from tenacity import nap  # late: a program that tests no retries need not load it

    from safedial._retry import loop

    modules: list[Any] = [nap, loop]
    with _lock:
        _users += 1
        for module in modules:
            if module.time is time:
                module.time = _shim
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            for module in modules:
                if not _users and module.time is _shim:
                    module.time = time
