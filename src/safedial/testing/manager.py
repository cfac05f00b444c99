"""The context managers of `safedial.testing`: one that nobody enters says so, and errors show the user's line alone."""

import contextlib
import functools
import inspect
import sys
import warnings
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

# As in `resilience`.
__tracebackhide__ = __unittest = True

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Manager(AbstractContextManager[T]):
    """A context manager and decorator. What it raises has no frames of safedial's or contextlib's.

    *call* is what the user wrote, for messages. *make* returns what is entered, another one each time.
    """

    _used = True  # until it is made: an interrupt may end that, and there is nothing to say
    _entered: AbstractContextManager[T] | None = None

    def __init__(self, call: str, make: Callable[[], AbstractContextManager[T]]) -> None:
        self._call, self._make = call, make
        self._place = place_of_user()
        self._used = False

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return *function*, with what is managed during each call; that of a coroutine function lasts to its end."""
        self._used = True
        if isinstance(function, type):  # the tests of a class that has become a function would never run
            raise TypeError(f"{self._call} decorates functions: decorate the methods of {function.__name__}")

        @functools.wraps(function)
        def managing(*args: P.args, **kwds: P.kwargs) -> R:
            with Manager(self._call, self._make):
                return function(*args, **kwds)

        @functools.wraps(function)
        async def managing_async(*args: P.args, **kwds: P.kwargs) -> Any:
            with Manager(self._call, self._make):
                return await cast("Callable[P, Awaitable[Any]]", function)(*args, **kwds)

        return cast("Callable[P, R]", managing_async) if inspect.iscoroutinefunction(function) else managing

    def __enter__(self) -> T:
        self._used = True
        if self._entered is not None:
            raise RuntimeError(f"this {self._call} is entered already: make another one")
        try:
            entered = self._make()
            value = entered.__enter__()
        except (TypeError, ValueError, OSError) as error:  # of an argument, or of the system
            raise error.with_traceback(None)  # noqa: B904  # it is the same exception
        self._entered = entered
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered, self._entered = self._entered, None
        if entered is None:
            raise RuntimeError(f"this {self._call} is not entered, so it can't be left")
        try:
            entered.__exit__(kind, error, traceback)
        except (AssertionError, UserWarning) as unused:
            raise unused.with_traceback(None)  # noqa: B904  # as above

    def __del__(self) -> None:
        if not self._used and not sys.is_finalizing():
            said = f"{self._call} was never entered, so it had no effect: write `with {self._call}:`"
            # Not a ResourceWarning as for `guard`, which pytest does not show.
            warnings.warn_explicit(said, UserWarning, *self._place)


def managed(function: Callable[P, Generator[T]]) -> Callable[P, Manager[T]]:
    """Do as `contextlib.contextmanager` does, with a `Manager`."""
    make = contextlib.contextmanager(function)

    @functools.wraps(function)
    def made(*args: P.args, **kwds: P.kwargs) -> Manager[T]:
        call = f"{function.__name__}({'...' if args or kwds else ''})"
        return Manager(call, functools.partial(make, *args, **kwds))

    return made


def place_of_user() -> tuple[str, int]:
    """Return the file and line of the code that has called safedial, perhaps by way of an ExitStack."""
    frame = inspect.currentframe()
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in ("safedial", "contextlib", "unittest"):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "<unknown>", 0
