"""What a client returns before it has dialed: it dials when it is awaited or entered, and so must be guarded then."""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeAlias, cast

# What is done to a thing that a client returned: it is awaited, or entered.
Step: TypeAlias = Callable[[Any], Awaitable[Any]]


def dials_later(returned: Any) -> bool:
    """Tell whether *returned* is no connection yet, but must be awaited for one, or entered.

    A client or pool that can be awaited too is one already: redis.asyncio's, asyncpg's.
    """
    if isinstance(returned, Coroutine):
        return True
    if isinstance(returned, contextlib.ContextDecorator | contextlib.AsyncContextDecorator):
        raise TypeError(
            "a function that contextlib made a context manager of does its work when it is entered: guard what is in it"
        )
    kind = cast("type[object]", type(returned))  # which makes up no attributes on the fly
    may_be_closed = hasattr(kind, "close") or hasattr(kind, "aclose")
    return issubclass(kind, Awaitable) and not may_be_closed


def made_later(returned: Any, run: Callable[[Step], Coroutine[Any, Any, Any]]) -> Any:
    """Return what stands for *returned* and does its step by means of *run*: a coroutine where it is one."""
    return Later(returned, run) if hasattr(returned, "__aenter__") or not isinstance(returned, Coroutine) else run(wait)


async def wait(thing: Any) -> Any:
    """Await *thing*: the step of most."""
    return await thing


class Later(Coroutine[Any, Any, Any]):
    """Stands for something that can be awaited or entered, as what aiohttp's ``session.get()`` returns."""

    def __init__(self, returned: Any, run: Callable[[Step], Coroutine[Any, Any, Any]]) -> None:
        self._returned: Any = returned
        self._run = run
        self._entered: Any = None
        self._awaited: Coroutine[Any, Any, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._returned, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine().__await__()

    async def __aenter__(self) -> Any:
        return await self._run(self._enter)

    async def _enter(self, thing: Any) -> Any:
        self._entered = thing  # of several, the last one is the one to leave
        return await thing.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return await self._entered.__aexit__(kind, error, traceback)

    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        if self._awaited is None:
            self._awaited = self._run(wait)
        return self._awaited

    def send(self, value: Any, /) -> Any:
        """Go on, as a task asks of a coroutine."""
        return self._coroutine().send(value)

    def throw(self, *raised: Any) -> Any:
        """Go on with what is raised, likewise."""
        if self._awaited is None:
            self.close()  # cancelled before it began: what was returned will never be awaited
        return self._coroutine().throw(*raised)

    def close(self) -> None:
        """End, likewise."""
        if self._awaited is not None:
            self._awaited.close()
        elif callable(close := getattr(self._returned, "close", None)):
            close()
