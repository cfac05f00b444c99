"""Cancelling a client that runs in a thread and does not end by itself.

Python can't cancel a thread. So an exception is raised in it: where it waits between two rounds of a tenacity policy,
where it dials, and in the end wherever Python code runs in it. The tasks of its asyncio loop are cancelled. Only a
thread that sleeps by itself, or waits for another one or in trio, stays until that is over. One that catches every
exception, and dials on, is made to wait for good.
"""

import asyncio
import contextlib
import ctypes
import sys
import threading
import time
import types
from collections.abc import Generator
from typing import Any, NoReturn

from safedial import _clock
from safedial._clients.attributes import replacing
from safedial._forks import loading, lock_held_across_forks

# After so many exceptions at its dials, a client catches them all and goes on.
_MOST = 1000
_never = threading.Event()


class ClientCancelledError(BaseException):
    """The client's time is over. As in asyncio, it is no `Exception`, which clients try again after."""


class Cancellation:
    """Cancels the thread that is in the block of `cancellable`."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._thread: int | None = None
        self._others: set[threading.Thread] = set()
        self._raised = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def cancellable(self) -> Generator[None]:
        """Let this thread be cancelled: `ClientCancelledError` leaves the block. It may come a moment later, too."""
        _here.cancellation, self._thread = self, threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._thread = None

    def is_here(self) -> bool:
        """Return whether this is the thread."""
        return self._thread == threading.get_ident()

    @property
    def cancelled(self) -> bool:
        """Whether the thread is to end."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the thread's waits, now and later."""
        self._cancelled.set()

    def raise_here(self) -> NoReturn:
        """Raise `ClientCancelledError`, in the thread or in one that it started."""
        if not self.is_here():
            self._others.add(threading.current_thread())
        self._raised += 1
        if self._raised > _MOST:
            _never.wait()  # else it would disturb other tests
        raise ClientCancelledError

    def cancel_tasks(self) -> None:
        """Cancel the tasks of the asyncio loop that runs in the thread, if one does."""
        with self._lock:
            loop = None if self._thread is None else _loop_in(self._thread)
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])

    def join_others(self, seconds: float) -> None:
        """Wait some *seconds* for the other threads in which `raise_here` raised. Those of a pool live on."""
        end = _clock.real() + seconds
        for thread in tuple(self._others):
            with contextlib.suppress(RuntimeError):  # not started by Python
                thread.join(max(0, end - _clock.real()))

    def interrupt(self) -> None:
        """Raise `ClientCancelledError` in the thread, if it is still there, when it runs Python code again."""
        if sys.version_info[:2] == (3, 11) and sys.gettrace() is not None:
            return  # until it does, CPython 3.11 runs no further in threads that are traced: coverage, debuggers
        raise_in: Any = getattr(ctypes.pythonapi, "PyThreadState_SetAsyncExc", None)  # PyPy has none
        with self._lock:
            if self._thread is not None and raise_in is not None:
                raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(ClientCancelledError))

    def sleep(self, seconds: float) -> None:
        """Sleep in the thread, until it is cancelled."""
        if self._cancelled.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise ClientCancelledError


def _loop_in(thread: int) -> asyncio.AbstractEventLoop | None:
    # asyncio tells of a loop in its own thread alone. A loop of uvloop's has no frame, but asyncio.Runner has one.
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]  # documented
    while frame is not None:
        if frame.f_globals.get("__name__") in ("asyncio.runners", "asyncio.base_events"):
            for value in (frame.f_locals.get("self"), frame.f_locals.get("task")):
                if isinstance(value, asyncio.AbstractEventLoop):
                    return value
                if isinstance(value, asyncio.Task):
                    return value.get_loop()
        frame = frame.f_back
    return None


@contextlib.contextmanager
def silent_in_threads() -> Generator[None]:
    """Let a `ClientCancelledError` end any thread without a word, as SystemExit does: pytest makes it a warning."""

    def silencing(plain: Any) -> Any:
        def excepthook(args: threading.ExceptHookArgs) -> None:
            if args.exc_type is not ClientCancelledError:
                plain(args)

        return excepthook

    with replacing(threading, "excepthook", silencing):
        yield


_here = threading.local()
_users = 0
_lock = lock_held_across_forks()
_plain_sleep = time.sleep


class _Time(types.ModuleType):
    """The module time as policies see it while clients are run."""

    def sleep(self, seconds: float) -> None:
        cancellation: Cancellation | None = getattr(_here, "cancellation", None)
        if cancellation is None or time.sleep is not _plain_sleep:  # somebody's mock
            time.sleep(seconds)
        else:
            cancellation.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_shim: Any = _Time("time")


@contextlib.contextmanager
def cancellable_waits() -> Generator[None]:
    """Let `cancel` end the waits of policies: of safedial's own loop, and of tenacity's."""
    global _users
    with loading:
        from tenacity import nap  # late: a program that tests no retries need not load it

        from safedial._retry import loop

    modules: list[Any] = [nap, loop]
    with _lock:
        _users += 1
        _exchange(modules, time, _shim)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _exchange(modules, _shim, time)


# A function of its own: CPython 3.13 leaves the lock taken if a signal interrupts a loop that stands right in `with`.
def _exchange(modules: list[Any], standing: Any, instead: Any) -> None:
    for module in modules:
        if module.time is standing:  # not somebody's mock
            module.time = instead
