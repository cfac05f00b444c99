"""Objects that dial after the call that returned them, when they are awaited, entered or iterated: guarded then."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from safedial._steps import finish

# The step in which such an object dials: it is awaited, or entered. A Run takes the step, guarded.
Step: TypeAlias = Callable[[Any], Awaitable[Any]]
Run: TypeAlias = Callable[[Step], Coroutine[Any, Any, Any]]
_END = object()


def dials_later(returned: Any) -> bool:
    """Return whether *returned* must be awaited, or entered with ``async with``, to get a connection."""
    # By the class: an instance may make up attributes.
    return isinstance(returned, Coroutine) or instances_dial_later(cast("type[object]", type(returned)))


def instances_dial_later(kind: type[object]) -> bool:
    """Return whether `dials_later` is true of the instances of *kind*, such as `websockets.connect`, a class."""
    # An awaitable that can be closed is a client or pool already: redis.asyncio's, asyncpg's. What ``with`` takes too
    # may be for both worlds, such as `contextlib.nullcontext`.
    if _can_be_closed(kind) or hasattr(kind, "__enter__"):
        return False
    return issubclass(kind, Awaitable) or hasattr(kind, "__aenter__")


def dials_when_entered(returned: Any) -> bool:
    """Return whether ``with`` is the only use of *returned*, such as that of a function of `contextlib`."""
    kind = cast("type[object]", type(returned))
    if not hasattr(kind, "__enter__") or hasattr(kind, "__aenter__") or _can_be_closed(kind):
        return False
    return not any(callable(getattr(kind, name, None)) for name in dir(kind) if not name.startswith("_"))


def _can_be_closed(kind: "type[object]") -> bool:
    return hasattr(kind, "close") or hasattr(kind, "aclose")


def made_later(returned: Any, run: Run, run_once: Run | None = None) -> Any:
    """Return *returned*, or if it dials later, a coroutine or object in its place that takes its step through *run*.

    Each step of an async iterator goes through *run_once*: nothing is dialed again but by the client.
    """
    kind = cast("type[object]", type(returned))
    if not dials_later(returned):
        return _Entered(returned, run) if dials_when_entered(returned) else returned
    if hasattr(kind, "__aiter__"):
        return _Iterated(returned, run, run_once or run)
    can_be_entered = hasattr(kind, "__aenter__")
    return _Later(returned, run) if can_be_entered or not isinstance(returned, Coroutine) else run(wait)


async def wait(thing: Any) -> Any:
    """Await *thing*: the usual step."""
    return await thing


class _Stand:
    """Stands for the object that was *returned*. It passes for one of its class."""

    def __init__(self, returned: Any, run: Run) -> None:
        self._returned, self._run = returned, run
        self._entered: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._returned, name)

    if not TYPE_CHECKING:  # object's can be set

        @property
        def __class__(self) -> Any:
            return type(self._returned)


class _Entered(_Stand):
    """Stands for a context manager, such as that of a function of `contextlib`."""

    def __enter__(self) -> Any:
        return finish(self._run(self._enter))

    async def _enter(self, thing: Any) -> Any:
        self._entered = thing  # after several rounds, this is the object of the last one
        return thing.__enter__()

    def __exit__(self, *raised: object) -> Any:
        return self._entered.__exit__(*raised)


class _Later(_Stand, Coroutine[Any, Any, Any]):
    """Stands for an object that can be awaited or entered, such as the result of aiohttp's ``session.get()``."""

    _awaited: Coroutine[Any, Any, Any] | None = None

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


class _Iterated(_Later):
    """Stands for an object with a reconnect loop of its own, such as `websockets.connect`'s ``async for``."""

    def __init__(self, returned: Any, run: Run, run_once: Run) -> None:
        super().__init__(returned, run)
        self._run_once = run_once

    async def __aiter__(self) -> AsyncGenerator[Any]:
        inner: Any = aiter(self._returned)

        async def step(_: Any) -> Any:
            return await anext(inner, _END)

        try:
            while (item := await self._run_once(step)) is not _END:
                yield item
        finally:
            if hasattr(inner, "aclose"):
                await inner.aclose()
