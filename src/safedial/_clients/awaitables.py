"""Objects that dial when they are awaited or entered, after the call that returned them; they must be guarded then."""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeAlias, cast

# The step in which such an object dials: it is awaited, or entered.
Step: TypeAlias = Callable[[Any], Awaitable[Any]]


def dials_later(returned: Any) -> bool:
    """Return whether *returned* is no connection yet, but must be awaited or entered for one.

    An awaitable that can be closed is a client or pool already: redis.asyncio's, asyncpg's.
    """
    if isinstance(returned, Coroutine):
        return True
    if isinstance(returned, contextlib.ContextDecorator | contextlib.AsyncContextDecorator):
        raise TypeError(
            "a context manager made by contextlib runs its function when it is entered: guard the code in that function"
        )
    kind = cast("type[object]", type(returned))  # an instance may make up attributes
    may_be_closed = hasattr(kind, "close") or hasattr(kind, "aclose")
    return issubclass(kind, Awaitable) and not may_be_closed


def made_later(returned: Any, run: Callable[[Step], Coroutine[Any, Any, Any]]) -> Any:
    """Return a stand-in for *returned* that takes its step through *run*: a coroutine if *returned* is one."""
    return (
        _Later(returned, run) if hasattr(returned, "__aenter__") or not isinstance(returned, Coroutine) else run(wait)
    )


async def wait(thing: Any) -> Any:
    """Await *thing*: the usual step."""
    return await thing


class _Later(Coroutine[Any, Any, Any]):
    """Stands for an object that can be awaited or entered, such as the result of aiohttp's ``session.get()``."""

    def __init__(self, returned: Any, run: Callable[[Step], Coroutine[Any, Any, Any]]) -> None:
        self._returned: Any = returned
        self._run = run
        self._awaited: Coroutine[Any, Any, Any] | None = None
        self._entered: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._returned, name)

    async def __aenter__(self) -> Any:
        return await self._run(self._enter)

    async def _enter(self, thing: Any) -> Any:
        self._entered = thing  # of several rounds, the last one's is left
        return await thing.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return await self._entered.__aexit__(kind, error, traceback)

    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        if self._awaited is None:
            self._awaited = self._run(wait)
        return self._awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine().__await__()

    def send(self, value: Any, /) -> Any:
        return self._coroutine().send(value)

    def throw(self, *raised: Any) -> Any:
        if self._awaited is None:
            self.close()  # cancelled before it began, so nobody will await the object
        return self._coroutine().throw(*raised)

    def close(self) -> None:
        closing = self._returned if self._awaited is None else self._awaited
        if isinstance(closing, Coroutine):
            closing.close()
