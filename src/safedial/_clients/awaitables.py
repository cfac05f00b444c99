"""Objects that dial when they are awaited or entered, after the call that returned them; they must be guarded then."""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeAlias, cast

# The step in which such an object dials: it is awaited, or entered. A Run takes the step, guarded.
Step: TypeAlias = Callable[[Any], Awaitable[Any]]
Run: TypeAlias = Callable[[Step], Coroutine[Any, Any, Any]]


def dials_later(returned: Any) -> bool:
    """Return whether *returned* must be awaited, or entered with ``async with``, to get a connection."""
    if isinstance(returned, Coroutine):
        return True
    if isinstance(returned, contextlib.ContextDecorator | contextlib.AsyncContextDecorator):
        raise TypeError("contextlib's context managers dial when they are entered: guard the code in that function")
    kind = cast("type[object]", type(returned))  # an instance may make up attributes
    # An awaitable that can be closed is a client or pool already: redis.asyncio's, asyncpg's.
    can_be_closed = hasattr(kind, "close") or hasattr(kind, "aclose")
    return not can_be_closed and (issubclass(kind, Awaitable) or hasattr(kind, "__aenter__"))


def made_later(returned: Any, run: Run) -> Any:
    """Return *returned*, or if it dials later, a coroutine or object in its place that takes its step through *run*."""
    if not dials_later(returned):
        return returned
    can_be_entered = hasattr(returned, "__aenter__")
    return _Later(returned, run) if can_be_entered or not isinstance(returned, Coroutine) else run(wait)


async def wait(thing: Any) -> Any:
    """Await *thing*: the usual step."""
    return await thing


class _Later(Coroutine[Any, Any, Any]):
    """Stands for an object that can be awaited or entered, such as the result of aiohttp's ``session.get()``."""

    def __init__(self, returned: Any, run: Run) -> None:
        self._returned, self._run = returned, run
        self._awaited: Coroutine[Any, Any, Any] | None = None
        self._entered: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._returned, name)

    async def __aenter__(self) -> Any:
        return await self._run(self._enter)

    async def _enter(self, thing: Any) -> Any:
        self._entered = thing  # after several rounds, this is the object of the last one
        return await thing.__aenter__()

    async def __aexit__(self, *raised: object) -> Any:
        return await self._entered.__aexit__(*raised)

    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        self._awaited = self._awaited or self._run(wait)
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
        closing = self._awaited or self._returned
        if isinstance(closing, Coroutine):
            closing.close()
